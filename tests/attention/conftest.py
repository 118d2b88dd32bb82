import pytest

import metafast


@pytest.fixture
def one_thread(restore_num_threads):
    metafast.set_num_threads(1)
