import os

import pytest
from common import cards, kernels_on_host
from hypothesis import settings

import metafast
from metafast import _arrays, _core, _device

# Two slow cores shared with a build: no deadline per example, and the same examples on every run of CI.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("sanitized", deadline=None, derandomize=True, max_examples=20)
settings.register_profile("local", deadline=None, max_examples=60)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "local"))


@pytest.fixture(params=_core.supported_isas())
def isa(request):
    """Run the test once for every instruction-set level that this machine has."""
    before = metafast.isa()
    _core.force_isa(request.param)
    yield request.param
    _core.force_isa(before)


@pytest.fixture
def restore_num_threads():
    before = metafast.get_num_threads()
    yield
    metafast.set_num_threads(before)


@pytest.fixture(scope="session")
def host_kernels():
    """The module of CUDA kernels, compiled for the CPU."""
    return kernels_on_host.build()


def pytest_report_header():
    return "CUDA kernels: on the CPU, thread by thread" + (" and on a card" if cards.CUDA else "; there is no card")


@pytest.fixture(params=[*cards.CUDA, "host", "host, threads in reverse"])
def device(request, monkeypatch):
    """The torch device of the CUDA kernels: a card; or the CPU, where their source is run thread by thread.

    On the CPU every torch tensor counts as a CUDA tensor while the test runs.
    """
    torch = pytest.importorskip("torch")
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("torch is built without CUDA")
        return torch.device("cuda", 0)
    kernels = request.getfixturevalue("host_kernels")
    monkeypatch.setattr(_device, "kernels", lambda: kernels)
    monkeypatch.setattr(_device, "is_on_device", _arrays.is_torch)
    monkeypatch.setattr(_device, "stream_of", lambda tensor: (0, 0))
    monkeypatch.setattr(_device, "cuda_device", lambda index: torch.device("cpu"))
    monkeypatch.setenv("CUDA_ON_HOST_ORDER", "reversed" if "reverse" in request.param else "forward")
    return torch.device("cpu")
