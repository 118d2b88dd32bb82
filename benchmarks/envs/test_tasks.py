"""Bandit-v0 and TabularMDP-v0: one step of the whole vector environment, beside vectorised NumPy in the same run.

    pytest benchmarks/envs/test_tasks.py --benchmark-enable --benchmark-json=tasks.json

The NumPy environments have no loop over environments, draw float32 numbers from NumPy's fastest generator and leave out
all checks. Each contender is first held to what its rewards must average; then it steps for rounds of equal time with
random actions that were drawn beforehand, auto-resets included. `extra_info` records millions of environment steps a
second in the median round. The number in a name is the most threads that it may use, then the number of environments.
"""

import itertools

import numpy as np
import pytest
from envs.stepping import NUM_ROUNDS, measure_steps

import metafast

NUM_BATCHES = 16
SIZES = (64, 1024, 16384)
NUM_ACTIONS = {"Bandit-v0": 10, "TabularMDP-v0": 5}


class NumpyTask:
    """Tasks of `budget` steps that reset in the step after their end, as gymnasium's vector environments do."""

    def __init__(self, num_envs, budget):
        self.rng = np.random.Generator(np.random.SFC64(0))
        self.environments = np.arange(num_envs)
        self.budget = budget
        self.elapsed_steps = np.zeros(num_envs, np.int32)
        self.ended = np.zeros(num_envs, bool)
        self.never = np.zeros(num_envs, bool)
        self.begin(self.environments)

    def step(self, actions):
        rewards = self.advance(actions)
        self.elapsed_steps += 1
        terminated = self.elapsed_steps >= self.budget
        if self.ended.any():
            resets = np.flatnonzero(self.ended)
            self.begin(resets)
            self.elapsed_steps[resets] = 0
            rewards[resets] = 0
            terminated[resets] = False
        self.ended = terminated
        return self.observe(), rewards, terminated, self.never.copy(), {}


class NumpyBandit(NumpyTask):
    def __init__(self, num_envs, arms=10, pulls=100):
        self.probabilities = np.empty((num_envs, arms), np.float32)
        self.rows = np.arange(num_envs) * arms
        super().__init__(num_envs, pulls)

    def begin(self, resets):
        self.probabilities[resets] = self.rng.random((len(resets), self.probabilities.shape[1]), np.float32)

    def advance(self, actions):
        chances = self.probabilities.ravel().take(self.rows + actions)
        return (self.rng.random(len(actions), np.float32) < chances).astype(np.float32)

    def observe(self):
        return np.zeros((len(self.rows), 1), np.float32)


class NumpyTabularMdp(NumpyTask):
    def __init__(self, num_envs, states=10, actions=5, horizon=10, episodes=10):
        self.shape = states, actions
        self.horizon = horizon
        self.means = np.empty((num_envs, states * actions), np.float32)
        self.cumulative = np.empty((num_envs, states * actions, states - 1), np.float32)
        self.states = np.zeros(num_envs, np.int64)
        self.rows = np.arange(num_envs) * (states * actions)
        super().__init__(num_envs, horizon * episodes)

    def begin(self, resets):
        states, actions = self.shape
        weights = self.rng.standard_exponential((len(resets), states * actions, states), np.float32)
        cumulative = weights.cumsum(axis=2)
        self.cumulative[resets] = cumulative[:, :, :-1] / cumulative[:, :, -1:]
        self.means[resets] = 1 + self.rng.standard_normal((len(resets), states * actions), np.float32)
        self.states[resets] = 0

    def advance(self, actions):
        rows = self.rows + self.states * self.shape[1] + actions
        uniforms = self.rng.random((len(rows), 1), np.float32)
        rewards = self.means.ravel().take(rows) + self.rng.standard_normal(len(rows), np.float32)
        self.states = (self.cumulative.reshape(-1, self.shape[0] - 1).take(rows, axis=0) <= uniforms).sum(axis=1)
        self.states[(self.elapsed_steps + 1) % self.horizon == 0] = 0
        return rewards

    def observe(self):
        observations = np.zeros((len(self.rows), self.shape[0]), np.float32)
        observations[self.environments, self.states] = 1
        return observations


def numpy_env(env_id, num_envs, num_threads):
    return {"Bandit-v0": NumpyBandit, "TabularMDP-v0": NumpyTabularMdp}[env_id](num_envs)


def metafast_env(env_id, num_envs, num_threads):
    env = metafast.envs.make_vec(env_id, num_envs, num_threads=num_threads)
    env.reset(seed=0)
    return env


def metafast_meta_observation(env_id, num_envs, num_threads):
    env = metafast.envs.make_vec(env_id, num_envs, num_threads=num_threads, meta_observation=True)
    env.reset(seed=0)
    return env


CONTENDERS = [(metafast_env, 1), (metafast_env, 2), (metafast_meta_observation, 1), (numpy_env, 1)]
CASES = [
    pytest.param(env_id, maker, num_threads, num_envs, id=f"{env_id}-{maker.__name__}-{num_threads}-{num_envs}")
    for env_id in NUM_ACTIONS
    for maker, num_threads in CONTENDERS
    for num_envs in SIZES
]


def assert_pays_as_drawn(env_id, env, batches):
    """A random policy is paid 1/2 a pull by the bandits, and 1 a step, with variance 2, by the decision processes."""
    rewards = np.concatenate([env.step(batch)[1] for batch in itertools.islice(itertools.cycle(batches), 90)])
    mean, deviation = (0.5, 0.5) if env_id == "Bandit-v0" else (1.0, 2**0.5)
    num_tables = len(batches[0])
    spread = (1 / 12 / 10) ** 0.5 if env_id == "Bandit-v0" else (1 / 10) ** 0.5
    assert abs(rewards.mean() - mean) < 5 * (deviation / len(rewards) ** 0.5 + spread / num_tables**0.5)
    assert abs(rewards.std() - deviation) < 0.1


@pytest.mark.parametrize(("env_id", "maker", "num_threads", "num_envs"), CASES)
def test_step(benchmark, env_id, maker, num_threads, num_envs):
    env = maker(env_id, num_envs, num_threads)
    batches = np.random.default_rng(0).integers(0, NUM_ACTIONS[env_id], (NUM_BATCHES, num_envs))
    assert_pays_as_drawn(env_id, env, batches)
    # Whole tasks: every round has its share of resets.
    measure_steps(benchmark, env.step, batches, num_envs, env_id, multiple_of=101)


@pytest.mark.parametrize("num_envs", SIZES)
@pytest.mark.parametrize("maker", [metafast_env, numpy_env])
def test_short_trials(benchmark, maker, num_envs):
    """TabularMDP-v0 with trials of ten steps: a table of 500 numbers is drawn for every eleventh step."""
    if maker is numpy_env:
        env = NumpyTabularMdp(num_envs, episodes=1)
    else:
        env = metafast.envs.make_vec("TabularMDP-v0", num_envs, episodes=1, num_threads=1)
        env.reset(seed=0)
    batches = np.random.default_rng(0).integers(0, 5, (11, num_envs))

    def step_round():
        return [env.step(batch)[2].all() for batch in batches]

    # The trials' end, and the reset, are in every round.
    assert sum(step_round()) == 1
    benchmark.group = f"TabularMDP-v0 in trials of ten steps, {num_envs} environments"
    benchmark.pedantic(step_round, rounds=NUM_ROUNDS, iterations=1, warmup_rounds=1)
    if benchmark.stats is not None:
        benchmark.extra_info["M steps/s"] = round(num_envs * 11 / benchmark.stats.stats.median / 1e6, 3)
