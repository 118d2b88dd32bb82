"""Pendulum, both MountainCars and Acrobot, and exact mode: one step of the vector environment, beside the peers'.

    pytest benchmarks/envs/test_classic_control.py --benchmark-enable --benchmark-json=classic_control.json

Each environment is first held to its rules; then it steps for rounds of equal time with random actions that were drawn
beforehand, auto-resets included. `extra_info` records millions of environment steps a second in the median round. The
number in a name is the most threads that it may use, then the number of environments. gymnax, whose environments are
JAX programs, steps 64 times in one compiled scan, its fastest form, and takes what threads it likes.
"""

import itertools
import time
from functools import partial

import numpy as np
import pytest

import metafast

NUM_BATCHES = 64
# The same for all: a neighbour on the machine then slows every contender alike.
ROUND_SECONDS = 0.02
NUM_ROUNDS = 20

ENV_IDS = ["Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"]
EXACT_IDS = [*ENV_IDS, "CartPole-v1"]
ANGLES = {"Pendulum-v1": [(0, 1)], "Acrobot-v1": [(0, 1), (2, 3)]}  # where a cosine and its sine are observed


def assert_plausible(env, num_envs):
    """Observations lie in their space, change, and hold a point of the circle for each angle."""
    env_id = env.spec.id.removeprefix("metafast/")
    before, _ = env.reset()
    env.action_space.seed(0)
    low, high = env.single_observation_space.low, env.single_observation_space.high
    for _ in range(20):
        observations, rewards, *_ = env.step(env.action_space.sample())
        assert observations.shape == (num_envs, *env.single_observation_space.shape)
        assert ((observations >= low) & (observations <= high)).all()
        assert (rewards <= 100).all()
        for cosine, sine in ANGLES.get(env_id, []):
            np.testing.assert_allclose(observations[:, cosine] ** 2 + observations[:, sine] ** 2, 1, atol=1e-5)
    assert (observations != before).any(axis=1).all()


class GymnasiumInterface:
    """One step at a time, actions as NumPy arrays."""

    steps_per_call = 1

    def __init__(self, env, num_envs):
        assert_plausible(env, num_envs)
        env.action_space.seed(0)
        self.batches = itertools.cycle([env.action_space.sample() for _ in range(NUM_BATCHES)])
        self.env = env
        self.close = env.close

    def run(self, num_calls):
        for actions in itertools.islice(self.batches, num_calls):
            self.env.step(actions)


def metafast_env(env_id, num_envs, num_threads, **kwargs):
    return GymnasiumInterface(metafast.envs.make_vec(env_id, num_envs, num_threads=num_threads, **kwargs), num_envs)


metafast_exact = partial(metafast_env, exact=True)


def gymnasium_sync(env_id, num_envs, num_threads):
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make_vec(env_id, num_envs, vectorization_mode="sync")
    return GymnasiumInterface(env, num_envs)


class EnvPoolInterface:
    """EnvPool's spaces are not batched, and it takes actions of its own dtypes."""

    steps_per_call = 1

    def __init__(self, env_id, num_envs, num_threads):
        envpool = pytest.importorskip("envpool")
        # The last of its versions of MountainCarContinuous and the others bear gymnasium's ids.
        self.env = envpool.make_gymnasium(env_id, num_envs=num_envs, num_threads=num_threads, seed=0)
        observations, _ = self.env.reset()
        self.env.action_space.seed(0)
        batches = [np.stack([self.env.action_space.sample() for _ in range(num_envs)]) for _ in range(4)]
        self.batches = itertools.cycle(batches)
        assert (self.env.step(batches[0])[0] != observations).any(axis=1).all()

    def run(self, num_calls):
        for actions in itertools.islice(self.batches, num_calls):
            self.env.step(actions)

    def close(self):
        self.env.close()


class GymnaxScan:
    """64 steps in one compiled scan, with the random actions drawn beforehand."""

    steps_per_call = 64

    def __init__(self, env_id, num_envs, num_threads):
        gymnax = pytest.importorskip("gymnax")
        jax = pytest.importorskip("jax")
        env, parameters = gymnax.make(env_id)
        steps = self.steps_per_call
        space = env.action_space(parameters)
        keys = jax.random.split(jax.random.key(0), steps * num_envs).reshape(steps, num_envs)
        actions = jax.vmap(jax.vmap(space.sample))(keys)
        reset = jax.vmap(env.reset, in_axes=(0, None))
        step = jax.vmap(env.step, in_axes=(0, 0, 0, None))

        def many_steps(state, key):
            def one(carry, taken):
                state, key = carry
                key, drawn = jax.random.split(key)
                observations, state, rewards, *_ = step(jax.random.split(drawn, num_envs), state, taken, parameters)
                return (state, key), (observations, rewards)

            return jax.lax.scan(one, (state, key), actions)

        self.many_steps = jax.jit(many_steps)
        _, state = reset(jax.random.split(jax.random.key(1), num_envs), parameters)
        self.carry = (state, jax.random.key(2))
        self.carry, (observations, _) = self.many_steps(*self.carry)
        assert np.isfinite(observations).all()
        assert (np.asarray(observations[0]) != np.asarray(observations[-1])).any()

    def run(self, num_calls):
        for _ in range(num_calls):
            self.carry, outcome = self.many_steps(*self.carry)
            outcome[1].block_until_ready()

    def close(self):
        pass


# The sizes of the promises: a large batch on two threads, beside what compiled code does; and exact mode beside
# SyncVectorEnv, which 1024 environments tell all about.
CASES = [
    *((maker, env_id, threads, 16384) for env_id in ENV_IDS for maker, threads in (
        (metafast_env, 1), (metafast_env, 2), (EnvPoolInterface, 1), (EnvPoolInterface, 2), (GymnaxScan, 2)
    )),
    *((metafast_env, env_id, 1, num_envs) for env_id in ENV_IDS for num_envs in (1, 1024)),
    *((maker, env_id, threads, 1024) for env_id in EXACT_IDS for maker, threads in (
        (metafast_exact, 1), (metafast_exact, 2), (gymnasium_sync, 1)
    )),
]  # fmt: skip
NAMES = {metafast_env: "metafast", metafast_exact: "metafast_exact", gymnasium_sync: "gymnasium_sync",
         EnvPoolInterface: "envpool", GymnaxScan: "gymnax_scan"}  # fmt: skip


# EnvPool's observation space and its deprecated enum warn, and gymnax's dependencies do.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("maker", "env_id", "num_threads", "num_envs"),
    [pytest.param(*case, id=f"{case[1]}-{NAMES[case[0]]}-{case[2]}-{case[3]}") for case in CASES],
)
def test_step(benchmark, maker, env_id, num_threads, num_envs):
    contender = maker(env_id, num_envs, num_threads)

    def seconds_of(num_calls):
        start = time.perf_counter()
        contender.run(num_calls)
        return time.perf_counter() - start

    seconds_of(5)
    num_calls = max(1, round(ROUND_SECONDS / seconds_of(3) * 3))
    benchmark.group = f"{env_id}, {num_envs} environments"
    # A round of SyncVectorEnv, and of gymnax at times, is longer.
    num_rounds = NUM_ROUNDS if num_calls > 1 else 5
    benchmark.pedantic(contender.run, args=(num_calls,), rounds=num_rounds, iterations=1, warmup_rounds=1)
    if benchmark.stats is not None:
        seconds = benchmark.stats.stats.median / (num_calls * contender.steps_per_call)
        benchmark.extra_info["M steps/s"] = round(num_envs / seconds / 1e6, 3)
        benchmark.extra_info["us per step"] = round(seconds * 1e6, 2)
    contender.close()
