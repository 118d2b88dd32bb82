"""Bandit-v0 against a plain replay, and its distributions."""

import numpy as np
import pytest
from envs.task_streams import uniform24, words
from scipy import stats

import metafast


def make(num_envs, **kwargs):
    return metafast.envs.make_vec("Bandit-v0", num_envs, **kwargs)


def expected_probabilities(state, arms):
    blocks = [uniform24(words(state, 0, block)) for block in range((arms + 3) // 4)]
    return np.concatenate(blocks)[:arms].T


def expected_rewards(state, actions):
    pulls = state["elapsed_steps"]
    word = words(state, pulls // 4 + 1, 0)[pulls % 4, np.arange(len(pulls))]
    chances = state["state"]["probabilities"][np.arange(len(pulls)), actions]
    return (uniform24(word) < chances).astype(np.float32)


@pytest.mark.parametrize("arms", [1, 3, 8, 10])
def test_every_pull_is_the_replays(isa, rng, arms):
    env = make(301, arms=arms, pulls=7, autoreset_mode="same_step")
    env.reset(seed=5)
    for t in range(30):
        state = env.get_state()
        np.testing.assert_array_equal(state["state"]["probabilities"], expected_probabilities(state, arms))
        actions = rng.integers(0, arms, 301)
        _, rewards, terminated, truncated, _ = env.step(actions)
        np.testing.assert_array_equal(rewards, expected_rewards(state, actions))
        assert terminated.all() == terminated.any() == (t % 7 == 6)
        assert not truncated.any()


@pytest.mark.parametrize("num_envs", [5, 300])
def test_every_pull_is_the_replays_where_tasks_are_out_of_step(isa, rng, num_envs):
    """Four pulls share a block of random numbers: whichever environments are at its beginning."""
    env = make(num_envs, pulls=11, autoreset_mode="disabled")
    env.reset(seed=6)
    terminated = np.zeros(num_envs, bool)
    for _ in range(60):
        mask = terminated | (rng.random(num_envs) < 0.1)
        if mask.any():
            env.reset(options={"reset_mask": mask})
        state = env.get_state()
        actions = rng.integers(0, 10, num_envs)
        _, rewards, terminated, _, _ = env.step(actions)
        np.testing.assert_array_equal(rewards, expected_rewards(state, actions))
        np.testing.assert_array_equal(terminated, state["elapsed_steps"] == 10)


def test_probabilities_are_uniform_and_independent():
    env = make(20_000, arms=6)
    env.reset(seed=1)
    first = env.get_state()["state"]["probabilities"]
    env.reset()
    samples = np.hstack([first, env.get_state()["state"]["probabilities"]])
    assert samples.min() >= 0
    assert samples.max() < 1
    for column in samples.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    for i in range(12):
        for j in range(i):
            counts, _, _ = np.histogram2d(samples[:, i], samples[:, j], bins=10, range=[[0, 1]] * 2)
            assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_rewards_come_with_the_arms_probability():
    env = make(20_000, arms=4, pulls=60)
    env.reset(seed=2)
    probabilities = env.get_state()["state"]["probabilities"].astype(np.float64)
    actions = np.random.default_rng(0).integers(0, 4, (60, 20_000))
    rewards = np.stack([env.step(row)[1] for row in actions])
    chances = probabilities[np.arange(20_000), actions]
    edges = np.linspace(0, 1, 21)
    paid, _ = np.histogram(chances, bins=edges, weights=rewards)
    expected, _ = np.histogram(chances, bins=edges, weights=chances)
    variance, _ = np.histogram(chances, bins=edges, weights=chances * (1 - chances))
    assert stats.chi2.sf((((paid - expected) ** 2) / variance).sum(), 20) > 1e-4
    # Successive pulls of one task are independent, those that share a block among them.
    excess = (rewards - chances) / np.sqrt(chances * (1 - chances) + 1e-9)
    for lag in (1, 2, 3, 4):
        products = excess[lag:] * excess[:-lag]
        assert abs(products.mean()) < 4 / np.sqrt(products.size)


def test_what_policies_earn():
    """A random policy earns a half a pull; who knows the probabilities earns their largest, arms / (arms + 1)."""
    env = make(10_000, arms=5, pulls=50)
    env.reset(seed=3)
    best = env.get_state()["state"]["probabilities"].argmax(axis=1)
    known = np.mean([env.step(best)[1] for _ in range(50)])
    env.step(best)
    chance = np.mean([env.step(row)[1] for row in np.random.default_rng(1).integers(0, 5, (50, 10_000))])
    assert known == pytest.approx(5 / 6, abs=0.006)
    assert chance == pytest.approx(0.5, abs=0.006)


def test_nothing_is_observed_without_the_meta_observation():
    env = make(40, pulls=3)
    assert env.single_observation_space.shape == (1,)
    observations = [env.reset(seed=0)[0], *(env.step(np.zeros(40, np.int64))[0] for _ in range(9))]
    np.testing.assert_array_equal(observations, np.zeros((10, 40, 1), np.float32))


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_the_meta_observation(rng, mode):
    env = make(257, arms=4, pulls=5, meta_observation=True, autoreset_mode=mode)
    assert env.single_observation_space.shape == (7,)
    observations, _ = env.reset(seed=4)
    np.testing.assert_array_equal(observations, np.zeros((257, 7)))
    for t in range(1, 19):
        actions = rng.integers(0, 4, 257)
        observations, rewards, terminated, _, infos = env.step(actions)
        expected = np.column_stack([np.zeros(257), np.eye(4)[actions], rewards, np.ones(257)])
        if mode == "same_step" and t % 5 == 0:
            assert terminated.all()
            np.testing.assert_array_equal(np.stack(infos["final_obs"]), expected)
            expected[:] = 0
        elif mode == "next_step" and t % 6 == 0:
            expected[:] = 0
        np.testing.assert_array_equal(observations, expected)
        assert all(row in env.single_observation_space for row in observations)


def test_max_episode_steps_truncates():
    env = make(3, max_episode_steps=4)
    env.reset(seed=0)
    flags = [env.step(np.zeros(3, np.int64))[2:4] for _ in range(4)]
    assert [truncated.all() for _, truncated in flags] == [False, False, False, True]
    assert not any(terminated.any() for terminated, _ in flags)


def test_a_state_that_is_no_bandits_is_refused():
    env = make(3, arms=2, meta_observation=True)
    env.reset(seed=0)
    for name, value in (("probabilities", 1.5), ("probabilities", np.nan), ("previous_action", 2)):
        state = env.get_state()
        state["state"][name][1] = value
        with pytest.raises(ValueError, match=f"{name}.* must lie in"):
            env.set_state(state)
    state = env.get_state()
    state["state"]["previous_reward"][0] = np.inf
    with pytest.raises(ValueError, match=r"previous_reward.* must be finite"):
        env.set_state(state)


def test_unfit_arguments_are_refused():
    with pytest.raises(ValueError, match="arms must be between 1 and 100000, not 0"):
        make(2, arms=0)
    with pytest.raises(TypeError, match=r"pulls must be an int, not 2\.5"):
        make(2, pulls=2.5)
    with pytest.raises(TypeError, match="meta_observation must be a bool, not 1"):
        make(2, meta_observation=1)
    with pytest.raises(TypeError, match="Bandit-v0 has no argument 'states'"):
        make(2, states=4)


def test_words_do_not_depend_on_the_neighbours():
    """Also where the seeds were changed in the middle of four pulls."""
    words = []
    for neighbours_pulls in (4, 5):
        env = metafast.envs.make_vec("Bandit-v0", 2, pulls=50)
        env.reset(seed=[7, 8])
        env.step(np.zeros(2, np.int64))
        state = env.get_state()
        state["seeds"][0] = 99
        state["elapsed_steps"][1] = neighbours_pulls
        env.set_state(state)
        rewards = [env.step(np.zeros(2, np.int64))[1][0] for _ in range(8)]
        words.append([*rewards, *(env.get_state()["state"][f"random_word_{k}"][0] for k in range(4))])
    assert words[0] == words[1]
