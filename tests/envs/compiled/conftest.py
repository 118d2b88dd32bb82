"""A cache of machine code that is this test session's own."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine_code")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAFAST_CACHE_DIR", str(folder))
        yield folder
