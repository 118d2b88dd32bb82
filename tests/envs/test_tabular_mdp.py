"""TabularMDP-v0 against a plain float64 replay, and the distributions of its tables."""

import numpy as np
import pytest
from envs.task_streams import normal, uniform24, words
from scipy import stats

import metafast


def make(num_envs, **kwargs):
    return metafast.envs.make_vec("TabularMDP-v0", num_envs, **kwargs)


def tables_of(state, states, actions):
    """Transition probabilities [N, S, A, S] and mean rewards [N, S, A] in float64."""
    tables = state["state"]["tables"].astype(np.float64)
    tables = tables.reshape(len(tables), states, actions, -1)
    cuts = np.sort(tables[..., : states - 1], axis=-1)
    ends = np.ones((*cuts.shape[:-1], 1))
    return np.diff(np.concatenate([0 * ends, cuts, ends], axis=-1), axis=-1), tables[..., -1]


def expected_tables(state, states, actions, row_size):
    num_rows = states * actions
    num_blocks = num_rows * row_size // 4
    table = np.concatenate(np.stack([uniform24(words(state, 0, b)) for b in range(num_blocks)], axis=1))
    table = table.T.reshape(-1, num_rows, row_size).copy()
    table[:, :, states - 1 :] = 2
    for row in range(num_rows):
        drawn = words(state, 0, num_blocks + row)
        table[:, row, -1] = 1 + normal(drawn[0], drawn[1])
    return table


def expected_step(state, actions, states, num_actions, horizon):
    """The next states (before an inner episode's end) and the rewards, by the cumulative probabilities."""
    probabilities, means = tables_of(state, states, num_actions)
    drawn = words(state, state["elapsed_steps"].astype(np.int64) + 1, 0)
    current = state["state"]["observed_state"]
    every = np.arange(len(actions))
    cumulative = probabilities[every, current, actions].cumsum(axis=1)
    # Cuts and uniform numbers are multiples of 2^-24, which float64 adds exactly.
    following = (cumulative[:, :-1] <= uniform24(drawn[0])[:, None]).sum(axis=1)
    following[state["state"]["inner_step"] + 1 == horizon] = 0
    return following, means[every, current, actions] + normal(drawn[1], drawn[2])


SIZES = [(10, 5, 16), (1, 1, 16), (15, 2, 16), (16, 3, 32), (40, 2, 48)]


@pytest.mark.parametrize(("states", "actions", "row_size"), SIZES)
def test_tables_are_the_replays(isa, states, actions, row_size):
    env = make(37, states=states, actions=actions)
    for options in ({"seed": 12}, {}):
        env.reset(**options)
        state = env.get_state()
        expected = expected_tables(state, states, actions, row_size)
        tables = state["state"]["tables"]
        np.testing.assert_array_equal(tables[:, :, :-1], expected[:, :, :-1])
        np.testing.assert_allclose(tables[:, :, -1], expected[:, :, -1], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(("states", "actions", "row_size"), SIZES)
@pytest.mark.parametrize("num_envs", [3, 300])
def test_every_step_is_the_replays(isa, rng, num_envs, states, actions, row_size):
    env = make(num_envs, states=states, actions=actions, horizon=4, episodes=3, autoreset_mode="same_step")
    env.reset(seed=8)
    for t in range(30):
        state = env.get_state()
        taken = rng.integers(0, actions, num_envs)
        following, expected = expected_step(state, taken, states, actions, 4)
        observations, rewards, terminated, truncated, infos = env.step(taken)
        over = t % 12 == 11
        last = np.stack(infos["final_obs"]) if over else observations
        np.testing.assert_array_equal(last, np.eye(states)[following])
        np.testing.assert_allclose(rewards, expected, rtol=1e-6, atol=2e-6)
        assert terminated.all() == terminated.any() == over
        assert not truncated.any()
        if over:
            np.testing.assert_array_equal(observations, np.eye(states)[np.zeros(num_envs, int)])


def test_transitions_are_flat_dirichlet_and_means_normal(isa):
    """Of a flat Dirichlet's parts each is Beta(1, S - 1), and parts of two places too are Beta(2, S - 2)."""
    states, actions = 6, 3
    env = make(3000, states=states, actions=actions)
    env.reset(seed=17)
    first = tables_of(env.get_state(), states, actions)
    env.reset()
    second = tables_of(env.get_state(), states, actions)
    probabilities, means = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1)
    assert probabilities.min() >= 0
    rows = probabilities.reshape(-1, states)
    for k in range(states):
        assert stats.kstest(rows[:, k], stats.beta(1, states - 1).cdf).pvalue > 1e-4
        assert stats.kstest(rows[:, k] + rows[:, k - 1], stats.beta(2, states - 2).cdf).pvalue > 1e-4
    assert stats.kstest(means.ravel(), stats.norm(1, 1).cdf).pvalue > 1e-4
    # Tables of one environment, of neighbours and of successive tasks have nothing to do with one another.
    flat = means.reshape(len(means), -1)
    together = np.corrcoef(np.hstack([flat[:-1], flat[1:]]), rowvar=False)
    np.fill_diagonal(together, 0)
    assert np.abs(together).max() < 5 / np.sqrt(len(flat))
    assert abs(np.corrcoef(first[1].ravel(), second[1].ravel())[0, 1]) < 4 / np.sqrt(first[1].size)


def test_steps_follow_the_tables():
    """Frequencies of the next states by chi-square, rewards by Kolmogorov and Smirnov."""
    states, actions, num_envs = 5, 2, 4000
    env = make(num_envs, states=states, actions=actions, horizon=50, episodes=1)
    env.reset(seed=23)
    state = env.get_state()
    # The same process for all.
    state["state"]["tables"][:] = state["state"]["tables"][0]
    env.set_state(state)
    probabilities, means = (table[0] for table in tables_of(state, states, actions))
    counts = np.zeros((states, actions, states))
    excess = []
    current = np.zeros(num_envs, int)
    for row in np.random.default_rng(2).integers(0, actions, (49, num_envs)):
        observations, rewards, _, _, _ = env.step(row)
        excess.append(rewards - means[current, row])
        following = observations.argmax(axis=1)
        np.add.at(counts, (current, row, following), 1)
        current = following
    totals = counts.sum(axis=-1, keepdims=True)
    statistic = ((counts - totals * probabilities) ** 2 / (totals * probabilities)).sum()
    assert stats.chi2.sf(statistic, states * actions * (states - 1)) > 1e-4
    assert stats.kstest(np.concatenate(excess), "norm").pvalue > 1e-4
    for lag in (1, 2):
        products = np.concatenate([a * b for a, b in zip(excess[lag:], excess[:-lag], strict=True)])
        assert abs(products.mean()) < 4 / np.sqrt(products.size)


def test_what_policies_earn():
    """A random policy earns 1 a step; value iteration on the tables earns what it says it will."""
    num_envs, horizon = 2000, 10
    env = make(num_envs, episodes=4)
    env.reset(seed=29)
    probabilities, means = tables_of(env.get_state(), 10, 5)
    values, policies = np.zeros((num_envs, 10)), []
    for _ in range(horizon):
        q = means + np.einsum("nsat,nt->nsa", probabilities, values)
        policies.append(q.argmax(axis=2))
        values = q.max(axis=2)
    policies.reverse()
    total, observations = 0.0, np.eye(10)[np.zeros(num_envs, int)]
    for t in range(4 * horizon):
        actions = policies[t % horizon][np.arange(num_envs), observations.argmax(axis=1)]
        observations, rewards, terminated, _, _ = env.step(actions)
        total += rewards.mean()
    assert terminated.all()
    # Four episodes of ten steps with noise of variance about 1 each.
    assert total / 4 == pytest.approx(values[:, 0].mean(), abs=4 * np.sqrt(20 / (4 * num_envs)))
    assert values[:, 0].mean() > 15
    env.reset()
    chance = np.mean([env.step(row)[1] for row in np.random.default_rng(3).integers(0, 5, (40, num_envs))])
    assert chance == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_the_meta_observation(rng, mode):
    states, actions, horizon = 3, 4, 3
    env = make(
        257, states=states, actions=actions, horizon=horizon, episodes=2, meta_observation=True, autoreset_mode=mode
    )
    beginning = np.concatenate([[1, 0, 0], np.zeros(6)])
    observations, _ = env.reset(seed=31)
    np.testing.assert_array_equal(observations, np.tile(beginning, (257, 1)))
    step = 0
    for _ in range(23):
        taken = rng.integers(0, actions, 257)
        observations, rewards, _, _, infos = env.step(taken)
        if mode == "next_step" and step == 6:
            step = 0
            np.testing.assert_array_equal(observations, np.tile(beginning, (257, 1)))
            continue
        step += 1
        seen = observations
        if mode == "same_step" and step == 6:
            np.testing.assert_array_equal(observations, np.tile(beginning, (257, 1)))
            seen, step = np.stack(infos["final_obs"]), 0
        done = step % horizon == 0
        np.testing.assert_array_equal(seen[:, :states].sum(axis=1), 1)
        if done:
            np.testing.assert_array_equal(seen[:, 0], 1)
        np.testing.assert_array_equal(seen[:, states:-2], np.eye(actions)[taken])
        np.testing.assert_array_equal(seen[:, -2], rewards)
        np.testing.assert_array_equal(seen[:, -1], np.full(257, float(done)))
        assert all(row in env.single_observation_space for row in seen)


def test_a_state_outside_the_tables_is_refused():
    env = make(3, states=4, meta_observation=True)
    env.reset(seed=0)
    for name, value in (("observed_state", 4), ("observed_state", -1), ("inner_step", 10), ("previous_action", 5)):
        state = env.get_state()
        state["state"][name][1] = value
        with pytest.raises(ValueError, match=f"{name}.* must lie in"):
            env.set_state(state)
    state = env.get_state()
    state["state"]["tables"][2, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"tables.* must be finite"):
        env.set_state(state)


def test_unfit_arguments_are_refused():
    for name in ("states", "actions"):
        with pytest.raises(ValueError, match=f"{name} must be between 1 and 256, not 257"):
            make(2, **{name: 257})
    with pytest.raises(ValueError, match=r"horizon \* episodes must be at most 2147483646"):
        make(2, horizon=2**20, episodes=2**20)
    with pytest.raises(TypeError, match="episodes must be an int, not 'many'"):
        make(2, episodes="many")
