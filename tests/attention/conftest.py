import pytest
from common import cards

import metafast
from metafast import _arrays, _core, _device


@pytest.fixture
def one_thread(restore_num_threads):
    metafast.set_num_threads(1)


@pytest.fixture(params=[*_core.supported_isas(), *cards.CUDA, "host"])
def place(request, monkeypatch):
    """Where dot-product attention computes: None for the CPU, once for every level; otherwise a torch device.

    That is a card, or the CPU, where torch's operations do what they do on a card: it has no kernel of its own.
    """
    if request.param in _core.supported_isas():
        before = metafast.isa()
        _core.force_isa(request.param)
        yield None
        _core.force_isa(before)
        return
    torch = pytest.importorskip("torch")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch is built without CUDA")
    if request.param == "host":
        monkeypatch.setattr(_device, "is_on_device", _arrays.is_torch)
    yield torch.device("cuda", 0) if request.param == "cuda" else torch.device("cpu")
