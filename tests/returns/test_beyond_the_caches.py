"""Arrays that the last-level cache does not hold: their results are written past the caches, by code of its own."""

import os
import platform

import numpy as np
import pytest
from returns.estimators import ESTIMATORS, Case, on_every_isa
from returns.problems import Problem

NUM_STEPS = 523
# The least that an estimator reads and writes: two floats and two flags.
BYTES_PER_ELEMENT = 10
# Each array is a window into one buffer: quick to make and light to hold.
STARTS = {"rewards": 0, "values": 16, "next_values": 1031, "final_values": 52_000, "log_rhos": 99_999}
MARGIN = 100_000
# n-step windows are solved in the caches, and q_lambda is lambda_returns of other values.
STREAMED = [estimator for name, estimator in ESTIMATORS.items() if name not in ("n_step_returns", "q_lambda")]


def last_level_cache_bytes():
    """As the binding takes it: from the C library, whose number for it Python has no name for."""
    found = os.sysconf(194) if platform.libc_ver()[0] == "glibc" else 0
    return min(max(found, 32 << 20), 1 << 30)


def repeated(block, size):
    buffer = np.empty(size, block.dtype)
    for start in range(0, size, len(block)):
        part = buffer[start : start + len(block)]
        part[:] = block[: len(part)]
    return buffer


@pytest.fixture(scope="module")
def num_columns():
    return last_level_cache_bytes() // (BYTES_PER_ELEMENT * NUM_STEPS) + 37


@pytest.fixture(scope="module")
def buffers(num_columns):
    # Whole vectors, so that two results are equally far from their boundaries.
    size = -(-NUM_STEPS * num_columns // 16) * 16 + MARGIN
    rng = np.random.default_rng(0)
    return {
        "floats": repeated(rng.integers(-16, 17, 1_000_003).astype(np.float32) / 8, size),
        "terminated": repeated(rng.random(999_983) < 0.01, size),
        "truncated": repeated(rng.random(999_979) < 0.01, size),
        "out": np.zeros((2, size), np.float32),
    }


@pytest.mark.parametrize("layout", ["time first", "time last", "four columns side by side"])
@pytest.mark.parametrize("estimator", STREAMED, ids=str)
def test_against_the_explicit_sum(estimator, layout, buffers, num_columns):
    time_axis = 0 if layout == "time first" else 1
    batch = (num_columns // 4, 4) if layout == "four columns side by side" else (num_columns,)
    shape = (*batch[:time_axis], NUM_STEPS, *batch[time_axis:])

    def window(buffer, start=0, shape=shape):
        return buffer[start : start + np.prod(shape)].reshape(shape)

    arrays = {name: window(buffers["floats"], start) for name, start in STARTS.items()}
    arrays |= {name: window(buffers[name]) for name in ("terminated", "truncated")}
    row = window(buffers["floats"], shape=batch)

    columns = np.r_[0 : batch[0] : batch[0] // 20, batch[0] - 20 : batch[0]]
    sample = lambda array: array[:, columns] if time_axis == 0 else array[columns]  # noqa: E731
    time_major = lambda array: np.moveaxis(sample(array), time_axis, 0).reshape(NUM_STEPS, -1)  # noqa: E731
    picked = {name: time_major(array) for name, array in arrays.items()}
    problem = Problem(
        batch=(len(columns), *batch[1:]),
        **{name: array if array.dtype == bool else array.astype(np.float64) for name, array in picked.items()},
        bootstrap=row[columns].reshape(-1).astype(np.float64),
        mask=np.ones_like(picked["terminated"]),
        gamma=None,
        lam=None,
        dtype=np.float32,
        flag_dtype=np.bool_,
        layout="contiguous",
        time_axis=time_axis,
    )
    clips = {"clip_rho": 1.5, "clip_c": 1.1, "clip_pg_rho": 2.0}
    case = Case(
        estimator,
        problem,
        with_row=time_axis == 0 or estimator.name == "upgo",
        numbers=clips if estimator.name == "vtrace" else {},
    )
    arguments = {name: arrays[field] for name, field in estimator.arrays.items()}
    if case.with_row:
        arguments[estimator.row] = row
    if case.with_final_values:
        arguments["final_values"] = arrays["final_values"]
    arguments |= {name: arrays[name] for name in ("terminated", "truncated")}
    arguments |= {name: case.coefficients[name] for name in estimator.coefficients} | case.numbers
    expected, bounds = case.expected(), case.error_bounds()
    # The second time into results that begin between the boundaries of vectors.
    for start, _ in zip([0, 3, 16], on_every_isa(), strict=False):
        out = tuple(window(buffer, start) for buffer in buffers["out"][: estimator.num_outputs])
        for array in out:
            array[:] = np.nan
        results = estimator(**arguments, time_axis=time_axis, out=out if len(out) == 2 else out[0])
        case.assert_agrees([np.ascontiguousarray(sample(result)) for result in results], expected, bounds)
        # Nothing was left out elsewhere either.
        assert all(np.isfinite(result.sum()) for result in results)
