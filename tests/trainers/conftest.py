import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Networks this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def problem():
    """Six labelled rows: the expected reward and its gradient can be summed over both actions."""
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((6, 3)).astype(np.float32), np.array([0, 1, 1, 0, 1, 0])
    return features, labels


@pytest.fixture
def no_pictures(monkeypatch):
    """Multi-task runs without their pictures, which take longer than everything else."""
    from metafast.trainers import multitask

    monkeypatch.setattr(multitask, "draw", lambda *_: {})
