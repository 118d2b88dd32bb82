"""CartPole-v1 written in Python by a user, on a CUDA device, beside metafast's own in the same run.

    pytest benchmarks/envs/test_cuda_compiled.py --benchmark-enable

Measured as in test_cuda.py: "graph" there, with the share of what the card copies. `BranchFree` takes sines from
metafast.envs.math, `Naive` from libdevice. "seconds to make" is, of the first size, what compiling takes without the
caches of metafast and of the driver.
"""

import time

import pytest
from envs.users_cartpole import BranchFree, Naive

torch = pytest.importorskip("torch")

from envs.test_cuda import (  # noqa: E402, F401
    STEPS,
    copied_bytes_a_second,
    device,
    least_bytes,
    make,
    record_steps,
    seconds_of,
)

MANY = 1_048_576


def own(num_envs, where):
    return make("CartPole-v1", num_envs, where)


def users(world):
    def make_users(num_envs, where):
        env = world.make_vec(num_envs, copy=False, device=where)
        env.reset(seed=0)
        actions = torch.randint(2, (STEPS, num_envs), device=env.device)
        for k in range(60):  # until episodes end at all times
            env.step(actions[k % STEPS])
        return env, actions

    return make_users


MAKERS = {"metafast's own": own, "BranchFree": users(BranchFree), "Naive": users(Naive)}


@pytest.mark.parametrize("num_envs", [16_384, MANY])
@pytest.mark.parametrize("maker", MAKERS)
def test_users_steps(benchmark, monkeypatch, tmp_path, device, copied_bytes_a_second, maker, num_envs):  # noqa: F811
    monkeypatch.setenv("METAFAST_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CUDA_CACHE_DISABLE", "1")
    benchmark.group = f"CartPole, {num_envs} environments"
    begin = time.perf_counter()
    env, actions = MAKERS[maker](num_envs, device)
    torch.cuda.synchronize()
    benchmark.extra_info["seconds to make"] = round(time.perf_counter() - begin, 2)
    seconds = seconds_of(record_steps(env, actions).replay) / STEPS
    # The user's has the bytes of metafast's own.
    moved = least_bytes(own(16, device)[0], actions)
    benchmark.extra_info["billion steps/s"] = round(num_envs / seconds / 1e9, 3)
    benchmark.extra_info["share of copy"] = round(moved * num_envs / seconds / copied_bytes_a_second, 3)
    benchmark.pedantic(record_steps(env, actions).replay, rounds=3)
    env.check_faults()
