"""Each step against gymnasium's own CartPoleEnv, from the same state."""

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import metafast

POSITION_LIMIT = 2.4
ANGLE_LIMIT = 12 * 2 * np.pi / 360


def place(env, states, elapsed_steps=0):
    state = env.get_state()
    state["state"] = np.array(states, dtype=np.float64)
    state["elapsed_steps"][:] = elapsed_steps
    state["ended"][:] = False
    env.set_state(state)


def expected_steps(states, actions, **kwargs):
    single = CartPoleEnv(**kwargs)
    observations, rewards, terminated = [], [], []
    for state, action in zip(states, actions, strict=True):
        single.reset(seed=0)
        single.state = np.array(state)
        observation, reward, over, _, _ = single.step(int(action))
        observations.append(observation)
        rewards.append(reward)
        terminated.append(over)
    return np.array(observations), np.array(rewards, dtype=np.float32), np.array(terminated)


def edge_states():
    """On, just inside and just outside of every limit, at rest and fast, with signed zeros and denormals."""
    positions = [0.0, -0.0, 5e-324, 2.4, np.nextafter(2.4, 3), np.nextafter(2.4, 0), 2.39]
    angles = [0.0, -0.0, 5e-324, ANGLE_LIMIT, np.nextafter(ANGLE_LIMIT, 1), np.nextafter(ANGLE_LIMIT, 0), 0.2]
    speeds = [0.0, -0.0, 1.5, -30.0]
    return np.array(
        [
            (sign * x, v, sign * angle, w)
            for x in positions
            for angle in angles
            for v in speeds
            for w in speeds
            for sign in (1, -1)
        ]
    )


@pytest.mark.parametrize("kwargs", [{}, {"sutton_barto_reward": True}])
def test_edge_states_step_as_gymnasiums(isa, kwargs):
    states = np.repeat(edge_states(), 2, axis=0)
    actions = np.arange(len(states)) % 2
    env = metafast.envs.make_vec("CartPole-v1", len(states), **kwargs)
    env.reset(seed=0)
    place(env, states)
    observations, rewards, terminated, truncated, _ = env.step(actions)
    expected = expected_steps(states, actions, **kwargs)
    np.testing.assert_array_equal(observations, expected[0])
    np.testing.assert_array_equal(rewards, expected[1])
    np.testing.assert_array_equal(terminated, expected[2])
    assert not truncated.any()
    assert terminated.any()
    assert not terminated.all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_random_states_step_as_gymnasiums(isa, rng, scale):
    limits = scale * np.array([POSITION_LIMIT, 3.0, ANGLE_LIMIT, 3.5])
    states = rng.uniform(-limits, limits, (3001, 4))
    actions = rng.integers(0, 2, len(states))
    env = metafast.envs.make_vec("CartPole-v1", len(states))
    env.reset(seed=0)
    place(env, states)
    observations, rewards, terminated, _, _ = env.step(actions)
    expected = expected_steps(states, actions)
    np.testing.assert_array_equal(observations, expected[0])
    np.testing.assert_array_equal(rewards, expected[1])
    np.testing.assert_array_equal(terminated, expected[2])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-5, 5), st.floats(-50, 50), st.floats(-0.5, 0.5), st.floats(-50, 50)),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, 1),
)
def test_any_state_steps_as_gymnasiums(states, action):
    env = metafast.envs.make_vec("CartPole-v1", len(states))
    env.reset(seed=0)
    place(env, states)
    observations, _, terminated, _, _ = env.step([action] * len(states))
    expected = expected_steps(states, [action] * len(states))
    np.testing.assert_array_equal(observations, expected[0])
    np.testing.assert_array_equal(terminated, expected[2])


def test_a_trajectory_stays_with_gymnasiums(rng):
    """A float64 state: rounding alone parts the two, and that takes hundreds of steps to show."""
    env = metafast.envs.make_vec("CartPole-v1", 1)
    env.reset(seed=11)
    single = CartPoleEnv()
    single.reset(seed=0)
    single.state = env.get_state()["state"][0]
    for _ in range(100):
        x, v, angle, w = single.state
        action = int(angle + 0.5 * w + 0.05 * x + 0.1 * v > 0)
        ours = env.step([action])
        theirs = single.step(action)
        np.testing.assert_allclose(ours[0][0], theirs[0], rtol=1e-6, atol=1e-7)
        assert (ours[1][0], ours[2][0]) == theirs[1:3]


def test_every_level_gives_the_same_bits(random_rollout):
    from metafast import _core

    usual = _core.isa()
    rollouts = []
    for level in _core.supported_isas():
        _core.force_isa(level)
        env = metafast.envs.make_vec("CartPole-v1", 77)
        env.reset(seed=5)
        rollouts.append((*random_rollout(env, 200), env.get_state()["state"]))
    _core.force_isa(usual)
    for rollout in rollouts[1:]:
        for ours, first in zip(rollout, rollouts[0], strict=True):
            np.testing.assert_array_equal(ours, first)
