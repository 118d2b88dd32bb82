"""Seeds, streams, threads, and how the first states are distributed."""

import numpy as np
import pytest
from scipy import stats

import metafast

# Large enough for several slices, and no multiple of a slice, a tile or a vector.
MANY = 5 * 2048 + 77


def make(num_envs, **kwargs):
    return metafast.envs.make_vec("CartPole-v1", num_envs, **kwargs)


def test_a_seed_repeats(random_rollout):
    rollouts = []
    for _ in range(2):
        env = make(33)
        env.reset(seed=9)
        rollouts.append(random_rollout(env, 150))
    for first, second in zip(*rollouts, strict=True):
        np.testing.assert_array_equal(first, second)


def test_reset_without_a_seed_continues_the_stream():
    env = make(3)
    first = env.reset(seed=1)[0]
    second = env.reset()[0]
    assert not np.isclose(first, second).any()
    np.testing.assert_array_equal(env.reset(seed=1)[0], first)
    np.testing.assert_array_equal(env.reset()[0], second)


def test_unseeded_environments_differ():
    assert not np.isclose(make(5).reset()[0], make(5).reset()[0]).any()
    assert len(np.unique(make(1000).reset()[0])) > 3900


@pytest.mark.parametrize("num_envs", [2, 7, 19, 300])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_environment_i_of_seed_s_is_environment_0_of_seed_s_plus_i(num_envs, mode):
    batch = make(num_envs, autoreset_mode=mode)
    actions = np.random.default_rng(0).integers(0, 2, (90, num_envs))
    batch.reset(seed=40)
    steps = [batch.step(row) for row in actions]
    for index in {0, 1, num_envs // 2, num_envs - 1}:
        alone = make(1, autoreset_mode=mode)
        alone.reset(seed=40 + index)
        for row, step in zip(actions, steps, strict=True):
            for mine, other in zip(alone.step(row[index : index + 1])[:4], step[:4], strict=True):
                np.testing.assert_array_equal(mine[0], other[index])


def test_a_list_of_seeds():
    listed = make(3).reset(seed=[8, 2**64 - 1, 5])[0]
    for row, seed in zip(listed, [8, 2**64 - 1, 5], strict=True):
        np.testing.assert_array_equal(row, make(1).reset(seed=seed)[0][0])
    env = make(3)
    env.reset(seed=[8, None, 5])
    assert env.np_random_seed[::2] == (8, 5)


@pytest.mark.usefixtures("restore_num_threads")
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_any_number_of_threads_gives_the_same_bits(mode, random_rollout):
    rollouts = []
    for num_threads in (1, 2, 5):
        metafast.set_num_threads(num_threads)
        env = make(MANY, autoreset_mode=mode)
        first = env.reset(seed=2)[0]
        rollouts.append((first, *random_rollout(env, 40), env.final_observations, *env.get_state().values()))
    for rollout in rollouts[1:]:
        for ours, expected in zip(rollout, rollouts[0], strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_num_threads_of_one_environment_changes_nothing(random_rollout):
    one, two = make(MANY, num_threads=1), make(MANY, num_threads=2)
    one.reset(seed=2)
    two.reset(seed=2)
    for first, second in zip(random_rollout(one, 20), random_rollout(two, 20), strict=True):
        np.testing.assert_array_equal(first, second)


def test_first_states_are_uniform(isa):
    """Kolmogorov and Smirnov for each component, chi-square for pairs of components, of environments, of episodes."""
    env = make(20000)
    states = []
    for options in ({"seed": 123}, {}):
        env.reset(**options)
        states.append(env.get_state()["state"])
    samples = np.hstack(states)
    assert samples.min() >= -0.05
    assert samples.max() < 0.05
    for column in samples.T:
        assert stats.kstest(column, stats.uniform(-0.05, 0.1).cdf).pvalue > 1e-4
    pairs = [(samples[:, i], samples[:, j]) for i in range(8) for j in range(i)]
    pairs.append((samples[:-1, 0], samples[1:, 0]))
    for first, second in pairs:
        counts, _, _ = np.histogram2d(first, second, bins=10, range=[[-0.05, 0.05]] * 2)
        assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_episodes_after_autoreset_take_fresh_states():
    env = make(500, max_episode_steps=1, autoreset_mode="same_step")
    seen = [env.reset(seed=0)[0], *(env.step(np.zeros(500, dtype=np.int64))[0] for _ in range(5))]
    assert len(np.unique(np.concatenate(seen), axis=0)) == 3000
    assert np.abs(np.concatenate(seen)).max() <= 0.05
