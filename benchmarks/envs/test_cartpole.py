"""CartPole-v1: one step of the whole vector environment, beside the peers' in the same run.

    pytest benchmarks/envs --benchmark-enable --benchmark-json=cartpole.json

Each environment is first held to gymnasium's rules; then it steps for rounds of equal time with random actions that
were drawn beforehand, auto-resets included. `extra_info` records millions of environment steps a second in the median
round. The number in a name is the most threads that it may use, then the number of environments.
"""

import numpy as np
import pytest
from envs.pufferlib_cartpole import PufferLibCartPole
from envs.stepping import measure_steps

import metafast

NUM_BATCHES = 64
SIZES = (1, 64, 1024, 16384)


def metafast_env(num_envs, num_threads):
    return metafast.envs.make_vec("CartPole-v1", num_envs, num_threads=num_threads)


def metafast_same_step(num_envs, num_threads):
    return metafast.envs.make_vec("CartPole-v1", num_envs, num_threads=num_threads, autoreset_mode="same_step")


def gymnasium_sync(num_envs, num_threads):
    gymnasium = pytest.importorskip("gymnasium")
    return gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="sync")


def gymnasium_numpy(num_envs, num_threads):
    gymnasium = pytest.importorskip("gymnasium")
    return gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="vector_entry_point")


def envpool_sync(num_envs, num_threads):
    envpool = pytest.importorskip("envpool")
    return envpool.make_gymnasium("CartPole-v1", num_envs=num_envs, num_threads=num_threads, seed=0)


def pufferlib(num_envs, num_threads):
    return PufferLibCartPole(num_envs)


# Our modes with each number of threads; the peers with the number that each can use. EnvPool's best is in both.
CONTENDERS = [
    *((maker, threads) for maker in (metafast_env, metafast_same_step) for threads in (1, 2)),
    (gymnasium_sync, 1),
    (gymnasium_numpy, 1),
    (envpool_sync, 1),
    (envpool_sync, 2),
    (pufferlib, 1),
]


def assert_balances(env, num_envs):
    """A controller keeps every pole up for 150 steps; the cart pushed one way ends every episode within 12."""
    observations, _ = env.reset()
    for _ in range(150):
        x, v, angle, w = observations.T
        actions = (angle + 0.5 * w + 0.05 * x + 0.1 * v > 0).astype(np.int64)
        observations, rewards, terminated, truncated, _ = env.step(actions)
        assert (rewards == 1).all()
        assert not (terminated | truncated).any()
    observations, _ = env.reset()
    fallen = np.zeros(num_envs, dtype=bool)
    for _ in range(12):
        fallen |= env.step(np.ones(num_envs, dtype=np.int64))[2]
    assert fallen.all()


CASES = [
    pytest.param(maker, num_threads, num_envs, id=f"{maker.__name__}-{num_threads}-{num_envs}")
    for maker, num_threads in CONTENDERS
    for num_envs in SIZES
    # A step of 16384 environments takes SyncVectorEnv a third of a second, and tells nothing that 1024 do not.
    if num_threads <= num_envs and not (maker is gymnasium_sync and num_envs > 1024)
]


def measure(benchmark, env, num_envs, group):
    """Time steps with random actions, after the environment has shown that it obeys the rules."""
    assert_balances(env, num_envs)
    batches = np.random.default_rng(0).integers(0, 2, (NUM_BATCHES, num_envs))
    measure_steps(benchmark, env.step, batches, num_envs, group)
    env.close()


# EnvPool's observation space and its deprecated enum warn.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("maker", "num_threads", "num_envs"), CASES)
def test_step(benchmark, maker, num_threads, num_envs):
    measure(benchmark, maker(num_envs, num_threads), num_envs, "CartPole-v1")
