"""Each step of Pendulum, the MountainCars and Acrobot against gymnasium's own, from the same state."""

import functools

import numpy as np
import pytest
from envs.classic_control_cases import CASES, PI
from hypothesis import given
from hypothesis import strategies as st

import metafast

ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# Acrobot multiplies what rounding differs by hundreds; a tenth of this is a float32's rounding.
CHAOS = 1e-6


def step_from(case, states, actions, **kwargs):
    env = metafast.envs.make_vec(case.env_id, len(states), **kwargs)
    env.reset(seed=0)
    state = env.get_state()
    state["state"] = np.array(states)
    env.set_state(state)
    observations, rewards, terminated, truncated, _ = env.step(actions)
    assert not truncated.any()
    assert observations.dtype == rewards.dtype == np.float32
    return observations, rewards, terminated


def assert_same_float32(ours, theirs):
    """Equal, but for numbers whose float64 lies on the border between two float32."""
    theirs = np.asarray(theirs, dtype=np.float32)
    different = ours != theirs
    assert different.mean() < 1e-3
    np.testing.assert_array_max_ulp(ours[different], theirs[different], 1)


@functools.cache
def random_steps(case, scale):
    rng = np.random.default_rng(20260730)
    states, actions = case.random_states(rng, 1001, scale)
    return states, actions, case.expected(states, actions)


@ALL
def test_edge_states_step_as_gymnasiums(isa, case):
    states, actions, expected = case.edge_steps
    observations, rewards, terminated = step_from(case, states, actions)
    if case.env_id == "Acrobot-v1":
        np.testing.assert_allclose(observations, expected[0], rtol=CHAOS, atol=CHAOS)
    else:
        np.testing.assert_array_equal(observations, expected[0])
    assert_same_float32(rewards, expected[1])
    np.testing.assert_array_equal(terminated, expected[2])
    assert terminated.any() == (case.env_id != "Pendulum-v1")
    assert not terminated.all()


@ALL
@pytest.mark.parametrize("scale", [0.01, 0.6, 1.0])
def test_random_states_step_as_gymnasiums(isa, case, scale):
    states, actions, expected = random_steps(case, scale)
    observations, rewards, terminated = step_from(case, states, actions)
    assert_same_float32(observations, expected[0])
    assert_same_float32(rewards, expected[1])
    np.testing.assert_array_equal(terminated, expected[2])


@ALL
def test_float32_states_step_as_gymnasiums(case, rng):
    states, actions = case.random_states(rng, 501)
    states = states.astype(np.float32).astype(np.float64)
    expected = case.expected(states, actions)
    observations, rewards, terminated = step_from(case, states, actions)
    assert_same_float32(observations, expected[0])
    assert_same_float32(rewards, expected[1])
    np.testing.assert_array_equal(terminated, expected[2])


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("Pendulum-v1", {"g": 9.81}),
        ("Pendulum-v1", {"g": 0}),
        ("MountainCar-v0", {"goal_velocity": 0.03}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.03}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.07}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.0700000001}),
    ],
)
def test_arguments_are_gymnasiums(env_id, kwargs):
    case = CASES[env_id]
    states, actions = case.edge_states()
    expected = case.expected(states, actions, **kwargs)
    observations, rewards, terminated = step_from(case, states, actions, **kwargs)
    np.testing.assert_array_equal(observations, expected[0])
    assert_same_float32(rewards, expected[1])
    np.testing.assert_array_equal(terminated, expected[2])
    usual = step_from(case, states, actions)
    assert (usual[0] != observations).any() or (usual[2] != terminated).any()


@ALL
@given(data=st.data())
def test_any_state_steps_as_gymnasiums(case, data):
    numbers = st.tuples(*(st.floats(-limit, limit) for limit in case.limits))
    states = np.array(data.draw(st.lists(numbers, min_size=1, max_size=20)))
    actions = case.as_actions(
        data.draw(st.lists(st.sampled_from(case.actions), min_size=len(states), max_size=len(states)))
    )
    expected = case.expected(states, actions)
    observations, rewards, terminated = step_from(case, states, actions)
    np.testing.assert_allclose(
        observations, expected[0], rtol=2e-7, atol=1e-12 if case.env_id != "Acrobot-v1" else CHAOS
    )
    np.testing.assert_allclose(rewards, expected[1].astype(np.float32), rtol=2e-7)
    np.testing.assert_array_equal(terminated, expected[2])


@ALL
def test_an_observation_is_gymnasiums_space(case, rng):
    states, actions = case.random_states(rng, 257)
    env = metafast.envs.make_vec(case.env_id, len(states))
    single = case.single()
    assert env.single_observation_space == single.observation_space
    assert env.single_action_space == single.action_space
    observations, _ = env.reset(seed=1)
    assert env.observation_space.contains(observations)
    assert env.observation_space.contains(env.step(actions)[0])


def test_pendulums_angle_is_brought_back_where_sines_end():
    """Gymnasium's angle grows for ever; ours loses whole turns beyond half of a million."""
    angles = np.array([5.0e5, 5.3e5, -6e5, 1.04e6, 2e9, -3e12])
    states = np.stack([angles, np.full(len(angles), 8.0)], axis=1)
    actions = np.zeros((len(angles), 1), dtype=np.float32)
    case = CASES["Pendulum-v1"]
    observations, rewards, _ = step_from(case, states, actions)
    expected = case.expected(states, actions)
    # The turn in float64 is 2.4e-16 too short.
    error = 1e-6 + np.abs(angles) * 1e-16
    assert (np.abs(observations[:4] - expected[0][:4]) < error[:4, np.newaxis]).all()
    assert (np.abs(rewards[:4] - expected[1][:4]) < 20 * error[:4]).all()
    assert np.isfinite(observations).all()
    np.testing.assert_allclose((observations[:, :2] ** 2).sum(axis=1), 1, rtol=1e-6)


def test_acrobots_angles_stay_within_half_a_turn():
    angles = [PI, -PI, 5.0, 3 * PI, -5 * PI, 100.0, -1e5]
    states = np.array([(a, b, 4 * PI, -9 * PI) for a in angles for b in angles])
    case = CASES["Acrobot-v1"]
    env = metafast.envs.make_vec(case.env_id, len(states))
    env.reset(seed=0)
    env.set_state(env.get_state() | {"state": states})
    env.step(np.ones(len(states), dtype=np.int64))
    assert (np.abs(env.get_state()["state"][:, :2]) <= PI).all()


@pytest.mark.parametrize("env_id", CASES)
def test_every_level_gives_the_same_bits(env_id):
    from metafast import _core

    usual = _core.isa()
    rollouts = []
    for level in _core.supported_isas():
        _core.force_isa(level)
        env = metafast.envs.make_vec(env_id, 77)
        env.reset(seed=5)
        env.action_space.seed(1)
        for _ in range(250):
            outcome = env.step(env.action_space.sample())
        rollouts.append((*outcome[:4], env.get_state()["state"]))
    _core.force_isa(usual)
    for rollout in rollouts[1:]:
        for ours, first in zip(rollout, rollouts[0], strict=True):
            np.testing.assert_array_equal(ours, first)


BAD = {
    "no number": ("Pendulum-v1", {"g": "ten"}, TypeError, "g must be a number, not 'ten'"),
    "bool": ("Pendulum-v1", {"g": True}, TypeError, "g must be a number, not True"),
    "infinite": ("MountainCar-v0", {"goal_velocity": np.inf}, ValueError, "goal_velocity must be finite"),
    "not in gymnasium": ("Acrobot-v1", {"book_or_nips": "nips"}, TypeError, "Acrobot-v1 has no argument"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_are_refused(what):
    env_id, kwargs, error, message = BAD[what]
    with pytest.raises(error, match=message):
        metafast.envs.make_vec(env_id, 1, **kwargs)


def test_actions_that_are_no_numbers_are_refused():
    env = metafast.envs.make_vec("Pendulum-v1", 3)
    env.reset(seed=0)
    before = env.get_state()["state"]
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"finite.*actions\[1, 0\]"):
            env.step(np.array([[0.0], [bad], [0.0]], dtype=np.float32))
    with pytest.raises(ValueError, match=r"shape \(3, 1\)"):
        env.step(np.zeros(3, dtype=np.float32))
    np.testing.assert_array_equal(env.get_state()["state"], before)


def test_float64_actions_are_those_of_their_float32():
    actions = np.array([[0.1], [-1.7], [2.5]])
    outcomes = []
    for dtype in (np.float64, np.float32):
        env = metafast.envs.make_vec("Pendulum-v1", 3)
        env.reset(seed=0)
        outcomes.append(env.step(actions.astype(dtype)))
    for ours, theirs in zip(outcomes[0][:2], outcomes[1][:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
