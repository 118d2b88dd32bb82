"""What all tests of metafast.compat need."""

import sys

import pytest
import torch

if sys.version_info < (3, 11):
    collect_ignore_glob = ["*.py"]  # rlax and tianshou, which the tests compare with, cannot be installed


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Small networks on few cores: torch is faster with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
