"""Elements per nanosecond of sin, cos, exp, tanh and log on one thread, against NumPy's and torch's own.

    pytest benchmarks/common/test_vector_math_throughput.py --benchmark-enable --benchmark-group-by=group

Each contender is checked against NumPy before it is timed. 4096 elements stay in the first-level cache.
"""

import numpy as np
import pytest
import torch

from metafast import _core

COUNT = 4096
CONTENDERS = [*_core.supported_isas(), "numpy", "torch"]


def arguments(function, dtype):
    low, high = {"exp": (-20, 20), "log": (0, 4)}.get(function, (-4, 4))
    return np.random.default_rng(0).uniform(low, high, COUNT).astype(dtype)


def contender_call(contender, function, x, out):
    if contender == "numpy":
        ufunc = getattr(np, function)
        return lambda: ufunc(x, out=out)
    if contender == "torch":
        torch_function, torch_x, torch_out = getattr(torch, function), torch.from_numpy(x), torch.from_numpy(out)
        return lambda: torch_function(torch_x, out=torch_out)
    return lambda: _core.vector_math(function, x, out)


@pytest.fixture
def one_thread():
    threads, level = torch.get_num_threads(), _core.isa()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    _core.force_isa(level)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", ["sin", "cos", "exp", "tanh", "log"])
def test_throughput(benchmark, function, dtype, contender):
    x = arguments(function, dtype)
    out = np.empty_like(x)
    if contender in _core.supported_isas():
        _core.force_isa(contender)
    call = contender_call(contender, function, x, out)
    call()
    np.testing.assert_allclose(out, getattr(np, function)(x), rtol=4 * np.finfo(dtype).eps)
    benchmark.group = f"{function} {dtype}"
    benchmark.pedantic(call, rounds=200, iterations=20, warmup_rounds=5)
    if benchmark.enabled:
        benchmark.extra_info["elements per ns"] = round(COUNT / (benchmark.stats.stats.min * 1e9), 2)


@pytest.mark.parametrize("level", _core.supported_isas())
def test_philox_throughput(benchmark, level):
    before = _core.isa()
    _core.force_isa(level)
    rng = np.random.default_rng(0)
    counters = rng.integers(0, 2**32, (COUNT, 4), dtype=np.uint32)
    keys = rng.integers(0, 2**32, (COUNT, 2), dtype=np.uint32)
    benchmark.group = "philox"
    benchmark.pedantic(_core.philox, args=(counters, keys), rounds=200, iterations=20, warmup_rounds=5)
    _core.force_isa(before)
