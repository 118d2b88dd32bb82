"""The parity table of metafast.compat and the real libraries: ``pytest benchmarks/compat --benchmark-enable``.

float32. Printed for each function: the greatest difference between the two results, relative to their size where that
is more than 1, over several shapes and rates of episode ends; and the times of both for 128 steps in 64 columns with
2 % of ends, the best of repeated calls. torch has one thread: more are slower at this size, most of all the loops.
"""

import time
import warnings

import jax
import numpy as np
import pytest
import torch
from compat.cases import CASES, as_numpy

SHAPES = [(1, 3), (40, 3), (128, 64), (1000, 2)]
RATES = [0.0, 0.02, 0.3, 1.0]
TIMED = (128, 64, 0.02, "float32")


def best_us(function, arguments, seconds=0.3):
    jax.block_until_ready(function(*arguments))  # compiles
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        best = min(best, time.perf_counter() - start)
    return best * 1e6


@pytest.fixture(autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(benchmark, case):
    benchmark.group = case.library
    difference = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        for shape in SHAPES:
            for rate in RATES:
                arguments = case.arguments(*shape, rate, "float32")
                results = (as_numpy(function(*arguments)) for function in (case.ours, case.theirs))
                for ours, theirs in zip(*results, strict=True):
                    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
                    relative = np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)
                    difference = max(difference, float(relative.max(initial=0)))
        arguments = case.arguments(*TIMED)
        theirs_us = best_us(case.theirs, arguments)
        benchmark(lambda: jax.block_until_ready(case.ours(*arguments)))
        ours_us = best_us(case.ours, arguments)
    benchmark.extra_info["maximum difference"] = f"{difference:.1e}"
    benchmark.extra_info["us"] = f"{ours_us:,.0f}"
    benchmark.extra_info["theirs"] = f"{theirs_us:,.0f}"
    benchmark.extra_info["ratio"] = f"{theirs_us / ours_us:.1f}x"
