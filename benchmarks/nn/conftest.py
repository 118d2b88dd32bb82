"""The number of threads of both sides, for the benchmarks of networks."""

import pytest
import torch

import metafast


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def num_threads(request):
    before = metafast.get_num_threads(), torch.get_num_threads()
    metafast.set_num_threads(request.param)
    torch.set_num_threads(request.param)
    yield request.param
    metafast.set_num_threads(before[0])
    torch.set_num_threads(before[1])
