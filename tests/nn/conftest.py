"""Machine code of these tests' environments is kept for one session, and torch's small tensors for one thread."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAFAST_CACHE_DIR", str(tmp_path_factory.mktemp("machine_code")))
        yield


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
