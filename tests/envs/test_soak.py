"""Long random use of every native environment: what sanitizers are run over, and what no single call shows.

The usual length is a smoke test. By hand, under the address and undefined-behaviour sanitizers, and with two threads
under the thread sanitizer: ``pytest tests/envs/test_soak.py -m exhaustive``.
"""

import copy
import pickle

import gymnasium
import numpy as np
import pytest

import metafast
from metafast.envs._catalogue import CATALOGUE

MODES = ("next_step", "same_step", "disabled")
EXACT = (False, True)
SIZES = (1, 2, 255, 256, 257, 1500)


def random_bad_actions(env, rng):
    actions = env.action_space.sample()
    kinds = [actions[:-1], np.concatenate([actions, actions[:1]]), None, np.full(actions.shape, "a")]
    broken = actions.copy()
    if broken.dtype.kind == "f":
        broken.reshape(-1)[rng.integers(broken.size)] = rng.choice([np.nan, np.inf, -np.inf])
    else:
        broken.reshape(-1)[rng.integers(broken.size)] = rng.choice([-1, 100, np.iinfo(broken.dtype).min])
    return [*kinds, broken][rng.integers(5)]


def disturb(env, rng):
    """Do one of the things that users do between two steps; return the environment to go on with."""
    choice = rng.integers(8)
    if choice == 0:
        env.reset(seed=int(rng.integers(2**62)))
    elif choice == 1:
        mask = rng.random(env.num_envs) < 0.3
        mask[rng.integers(env.num_envs)] = True
        env.reset(options={"reset_mask": mask})
    elif choice == 2:
        env.set_state(env.get_state())
    elif choice == 3:
        env = pickle.loads(pickle.dumps(env))
    elif choice == 4:
        other = copy.deepcopy(env)
        env.close()
        env = other
    elif choice == 5:
        before = env.get_state()
        with pytest.raises((ValueError, TypeError)):
            env.step(random_bad_actions(env, rng))
        for key, value in env.get_state().items():
            np.testing.assert_array_equal(value, before[key])
    elif choice == 6:
        assert env.final_observations.shape == env.observation_space.shape
    else:
        seeds = rng.integers(2**62, size=env.num_envs).tolist()
        env.reset(seed=[seed if rng.random() < 0.5 else None for seed in seeds])
    return env


def soak(env_id, num_steps, *, num_threads, seed, exact):
    """Take `num_steps` steps in all, over batches of all sizes and modes, and check everything that came back."""
    rng = np.random.default_rng(seed)
    taken = 0
    while taken < num_steps:
        num_envs, mode = int(rng.choice(SIZES)), str(rng.choice(MODES))
        limit = None if rng.random() < 0.3 else int(rng.integers(1, 60))
        env = metafast.envs.make_vec(
            env_id,
            num_envs,
            num_threads=num_threads,
            autoreset_mode=mode,
            max_episode_steps=limit,
            copy=bool(rng.random() < 0.5),
            exact=exact,
        )
        env.action_space.seed(int(rng.integers(2**31)))
        env.reset(seed=int(rng.integers(2**62)))
        for _ in range(int(rng.integers(1, 200))):
            if rng.random() < 0.05:
                env = disturb(env, rng)
                if mode == "disabled":
                    env.reset()
            observations, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
            taken += num_envs
            assert np.isfinite(observations).all()
            assert np.isfinite(rewards).all()
            ended = terminated | truncated
            if mode == "same_step":
                assert ("final_obs" in infos) == bool(ended.any())
            if limit is not None:
                assert (env.get_state()["elapsed_steps"] <= limit).all()
            if mode == "disabled" and ended.any():
                env.reset(options={"reset_mask": ended.copy()})
        assert observations in env.observation_space
        env.close()


def soakable(env_id, exact):
    return not exact or env_id in gymnasium.registry


CASES = [(env_id, exact) for env_id in sorted(CATALOGUE) for exact in EXACT if soakable(env_id, exact)]


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("env_id", "exact"), CASES)
def test_random_use(env_id, exact, num_threads):
    soak(env_id, 20_000, num_threads=num_threads, seed=1, exact=exact)


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("env_id", "exact"), CASES)
def test_ten_million_random_steps(env_id, exact, num_threads):
    soak(env_id, 10_000_000, num_threads=num_threads, seed=2, exact=exact)
