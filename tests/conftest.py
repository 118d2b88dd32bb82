import os

import pytest
from hypothesis import settings

import metafast
from metafast import _core

# Two slow cores shared with a build: no deadline per example, and the same examples on every run of CI.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("local", deadline=None, max_examples=60)
settings.load_profile("ci" if os.environ.get("CI") else "local")


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
