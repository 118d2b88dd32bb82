"""`rng` in compiled and in plain code."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from scipy import stats

from metafast import _core
from metafast.envs import compile_env
from metafast.envs.compiled._generator import Generator, philox

NUM_DRAWS = 16


@compile_env(
    observation_space=Box(-np.inf, np.inf, (4, NUM_DRAWS), np.float64),
    action_space=Discrete(2),
    state={"drawn": (np.float64, (4, NUM_DRAWS))},
    max_episode_steps=4,
)
class Draws:
    def reset(state, rng):
        for k in range(NUM_DRAWS):
            state.drawn[0, k] = rng.uniform(-2.0, 3.0)
            state.drawn[1, k] = rng.normal(1.0, 2.0)
            state.drawn[2, k] = rng.integers(-3, 4)
            state.drawn[3, k] = rng.random()

    def step(state, action, rng):
        for k in range(NUM_DRAWS):
            state.drawn[0, k] = rng.uniform(high=3.0, low=-2.0)
            state.drawn[1, k] = rng.normal(std=2.0, mean=1.0)
            state.drawn[2, k] = rng.integers(-3, 4)
            state.drawn[3, k] = rng.uniform()
        return 0.0, False

    def observe(state, observation):
        observation[:] = state.drawn


def drawn(seed, num_envs=100, num_steps=30, **options):
    env = Draws.make_vec(num_envs, **options)
    actions = np.zeros(num_envs, dtype=np.int64)
    return np.stack([env.reset(seed=seed)[0], *(env.step(actions)[0] for _ in range(num_steps))])


def test_plain_philox_is_the_cores():
    table = np.random.default_rng(0).integers(0, 2**32, (50, 6), dtype=np.uint32)
    core = _core.philox(table[:, :4].copy(), table[:, 4:].copy())
    for row, expected in zip(table.tolist(), core.tolist(), strict=True):
        assert philox(tuple(row[:4]), tuple(row[4:])) == tuple(expected)


def test_resets_draw_what_metafasts_own_cartpole_draws():
    """Native resets take both uniforms of a block, a user's the first of each."""
    import metafast

    native = metafast.envs.make_vec("CartPole-v1", 5)
    native.reset(seed=11)
    first = drawn(11, num_envs=5, num_steps=0)[0, :, 0, 0]
    np.testing.assert_array_equal(-0.05 + 0.1 * ((first + 2.0) / 5.0), native.get_state()["state"][:, 0])


def test_compiled_and_plain_draws_are_equal_over_episodes():
    np.testing.assert_array_equal(drawn(2**64 - 6, 5, 10), drawn(2**64 - 6, 5, 10, debug=True))


def test_distributions():
    values = drawn(0)
    uniform, normal, integers, unit = (values[:, :, k].ravel() for k in range(4))
    assert stats.kstest(uniform, stats.uniform(-2, 5).cdf).pvalue > 1e-3
    assert stats.kstest(normal, stats.norm(1, 2).cdf).pvalue > 1e-3
    assert stats.kstest(unit, "uniform").pvalue > 1e-3
    counts = np.bincount(integers.astype(int) + 3, minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-3
    assert uniform.min() >= -2
    assert uniform.max() < 3


def test_every_step_episode_environment_and_draw_has_its_own_numbers():
    values = drawn(3)[:, :, 3]
    assert len(np.unique(values)) == values.size


def test_an_environments_numbers_do_not_depend_on_its_place():
    alone = drawn(40, num_envs=1)
    batch = drawn(0, num_envs=700, num_threads=2)
    np.testing.assert_array_equal(batch[:, 40:41], alone)
    np.testing.assert_array_equal(batch, drawn(0, num_envs=700, num_threads=1))
    assert not np.array_equal(drawn(41, num_envs=1), alone)


def test_extreme_integers():
    rng = Generator(0, 0, 0)
    assert {rng.integers(0, 1) for _ in range(50)} == {0}
    assert all(-(2**62) <= rng.integers(-(2**62), 2**62) < 2**62 for _ in range(200))
    with pytest.raises(ValueError, match="needs low < high"):
        rng.integers(3, 3)


def test_a_range_that_is_empty_raises_in_compiled_code_too():
    @compile_env(observation_space=Discrete(9), action_space=Discrete(3), state={"x": np.int64})
    class Empty:
        def reset(state, rng):
            state.x = 0

        def step(state, action, rng):
            state.x = rng.integers(0, action)
            return 0.0, False

        def observe(state, observation):
            observation[0] = state.x

    env = Empty.make_vec(3)
    env.reset(seed=0)
    env.step(np.array([1, 2, 1]))
    with pytest.raises(ValueError, match="needs low < high"):
        env.step(np.array([1, 2, 0]))
