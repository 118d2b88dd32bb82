import pytest
import torch


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Networks this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
