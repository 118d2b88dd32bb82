"""Fixtures that put back what a test changes for the whole process."""

import pytest

from metafast import _core


@pytest.fixture(params=_core.supported_isas())
def isa(request):
    """Each instruction-set level that this machine runs, in force for one test."""
    before = _core.isa()
    _core.force_isa(request.param)
    yield request.param
    _core.force_isa(before)


@pytest.fixture
def restore_num_threads():
    before = _core.get_num_threads()
    yield
    _core.set_num_threads(before)
