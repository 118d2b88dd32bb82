"""CartPole-v1 written in Python by a user, beside the peers' in C++ and C in the same run.

    pytest benchmarks/envs/test_compiled.py --benchmark-enable

Measured as in test_cartpole.py. The compile times are those of a fresh process, after its imports: `first` with an
empty cache, `cached` in the process that follows.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from envs.test_cartpole import envpool_sync, gymnasium_sync, measure, pufferlib
from envs.users_cartpole import BranchFree, Naive


def naive(num_envs, num_threads):
    return Naive.make_vec(num_envs, num_threads=num_threads)


def branch_free(num_envs, num_threads):
    return BranchFree.make_vec(num_envs, num_threads=num_threads)


CASES = [
    pytest.param(maker, num_threads, num_envs, id=f"{maker.__name__}-{num_threads}-{num_envs}")
    for num_envs in (64, 1024, 16384)
    for maker, num_threads in (
        *((maker, threads) for maker in (naive, branch_free, envpool_sync) for threads in (1, 2)),
        (gymnasium_sync, 1),
        (pufferlib, 1),
    )
    # A step of 16384 environments takes SyncVectorEnv a third of a second, and tells nothing that 1024 do not.
    if not (maker is gymnasium_sync and num_envs > 1024)
]


# EnvPool's observation space and its deprecated enum warn.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("maker", "num_threads", "num_envs"), CASES)
def test_step(benchmark, maker, num_threads, num_envs):
    measure(benchmark, maker(num_envs, num_threads), num_envs, "a user's CartPole-v1")


COMPILE = """
import json, sys, time
import numba
import metafast.envs
sys.path.insert(0, sys.argv[1])
import users_cartpole
start = time.perf_counter()
cached = getattr(users_cartpole, sys.argv[2]).compile()
print(json.dumps([cached, time.perf_counter() - start]))
"""


@pytest.mark.parametrize("world", ["Naive", "BranchFree"])
def test_compile(benchmark, world, tmp_path):
    def seconds(folder):
        answer = subprocess.run(
            [sys.executable, "-c", COMPILE, str(Path(__file__).parent), world],
            env=os.environ | {"METAFAST_CACHE_DIR": str(tmp_path / folder)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(answer.stdout)

    times = {"first": [], "cached": []}
    for k in range(3):
        for name in times:
            cached, taken = seconds(str(k))
            assert cached == (name == "cached")
            times[name].append(taken)
    benchmark.group = "compiling a user's CartPole-v1"
    benchmark.pedantic(lambda: None, rounds=1)
    for name, taken in times.items():
        benchmark.extra_info[f"{name}, s"] = round(float(np.median(taken)), 3)
