"""Every return estimator against GAE, by the bytes that it must read and write each second.

    pytest benchmarks/returns/test_estimators.py --benchmark-enable --benchmark-columns=min,median

float32, time-major and batch-major, 2 % of the steps end an episode; results are written to memory that is already
there (`out`), but for the group advantages and the packed episodes. Each is within 1.5 times of GAE's rate or it is a
figure to look into.
"""

from functools import cache

import numpy as np
import pytest

import metafast

SHAPES = [(128, 1024), (2048, 64), (1024, 4096)]


@cache
def arrays(shape, batch_major):
    rng = np.random.default_rng(0)
    lay = (lambda array: np.ascontiguousarray(array.T)) if batch_major else (lambda array: array)
    names = ("rewards", "values", "next_values", "log_rhos", "q", "next_q_expected", "next_q")
    floats = {name: lay(rng.standard_normal(shape, dtype=np.float32)) for name in names}
    terminated = rng.random(shape) < 0.01
    truncated = (rng.random(shape) < 0.01) & ~terminated
    return {**floats, "terminated": lay(terminated), "truncated": lay(truncated)}


# The arrays that each takes, the options, the number of results.
ESTIMATORS = {
    "gae": ("rewards values next_values terminated truncated", {"gamma": 0.99, "lam": 0.95}, 2),
    "discounted_returns": ("rewards terminated truncated", {"gamma": 0.99}, 1),
    "lambda_returns": ("rewards next_values terminated truncated", {"gamma": 0.99, "lam": 0.95}, 1),
    "n_step_returns": ("rewards next_values terminated truncated", {"gamma": 0.99, "n": 5}, 1),
    "vtrace": ("log_rhos rewards values next_values terminated truncated", {"gamma": 0.99}, 2),
    "retrace": (
        "q next_q_expected next_q log_rhos rewards terminated truncated", {"gamma": 0.99, "lam": 0.95}, 1,
    ),
    "upgo": ("rewards values next_values terminated truncated", {}, 1),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = metafast.get_num_threads()
    metafast.set_num_threads(1)
    yield
    metafast.set_num_threads(before)


def run(benchmark, call, num_bytes):
    benchmark(call)
    if benchmark.enabled:
        benchmark.extra_info["GB/s"] = round(num_bytes / (benchmark.stats.stats.min * 1e9), 1)


@pytest.mark.parametrize("layout", ["time-major", "batch-major"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator(benchmark, name, shape, layout):
    taken, options, num_results = ESTIMATORS[name]
    given = arrays(shape, layout == "batch-major")
    inputs = {argument: given[argument] for argument in taken.split()}
    out = tuple(np.empty_like(given["rewards"]) for _ in range(num_results))
    estimate = getattr(metafast, name)
    benchmark.group = f"{shape} {layout}"
    read = [array for argument, array in inputs.items() if argument != "q"]  # q is only checked
    run(
        benchmark,
        lambda: estimate(
            **inputs, **options, time_axis=int(layout == "batch-major"), out=out if num_results > 1 else out[0]
        ),
        sum(array.nbytes for array in (*read, *out)),
    )


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_group_advantages(benchmark, kind):
    rewards = np.random.default_rng(0).standard_normal(2**20, dtype=np.float32)
    group_ids = np.repeat(np.arange(2**17), 8)
    benchmark.group = "one axis of 2**20"
    run(
        benchmark,
        lambda: metafast.group_advantages(rewards, group_ids, kind=kind),
        2 * rewards.nbytes + group_ids.nbytes,
    )


@pytest.mark.parametrize("values", [False, True], ids=["returns", "gae"])
def test_segment_returns(benchmark, values):
    rng = np.random.default_rng(0)
    rewards = rng.standard_normal(2**20, dtype=np.float32)
    lengths = rng.multinomial(2**20, np.full(2**14, 2.0**-14))
    options = {"values": rewards, "lam": 0.95} if values else {}
    benchmark.group = "one axis of 2**20"
    run(
        benchmark,
        lambda: metafast.segment_returns(rewards, lengths, gamma=0.99, **options),
        (4 if values else 2) * rewards.nbytes,
    )
