"""CartPoleTasks-v0 and PendulumTasks-v0: physics of each task's own, against float64 NumPy."""

import math

import numpy as np
import pytest
from envs.task_streams import uniforms
from scipy import stats

import metafast

CARTPOLE_RANGES = {
    "gravity": (7.0, 13.0),
    "cart_mass": (0.5, 2.0),
    "pole_mass": (0.05, 0.2),
    "pole_half_length": (0.25, 1.0),
    "force": (5.0, 15.0),
}
PENDULUM_RANGES = {"gravity": (7.0, 13.0), "mass": (0.7, 1.3), "length": (0.7, 1.3), "max_torque": (1.5, 2.5)}


def first_cartpole(drawn):
    return -0.05 + 0.1 * drawn[:4]


def first_pendulum(drawn):
    return np.stack([-np.pi + 2 * np.pi * drawn[0], -1 + 2 * drawn[1]])


def move_cartpole(physical, physics, action):
    """Barto, Sutton and Anderson (1983) with explicit Euler steps of 0.02."""
    x, v, angle, w = physical
    gravity, cart, pole, length, strength = physics
    total = cart + pole
    force = np.where(action == 1, strength, -strength)
    pushed = (force + pole * length * w**2 * np.sin(angle)) / total
    turned = (gravity * np.sin(angle) - np.cos(angle) * pushed) / (length * (4 / 3 - pole * np.cos(angle) ** 2 / total))
    moved = pushed - pole * length * turned * np.cos(angle) / total
    following = np.stack([x + 0.02 * v, v + 0.02 * moved, angle + 0.02 * w, w + 0.02 * turned])
    fallen = (np.abs(following[0]) > 2.4) | (np.abs(following[2]) > 12 * 2 * math.pi / 360)
    return following, np.ones(len(action)), fallen


def move_pendulum(physical, physics, action):
    """A rod of even mass about one end, with steps of 0.05 and speeds up to 8."""
    angle, speed = physical
    gravity, mass, length, limit = physics
    torque = np.clip(action[:, 0].astype(np.float64), -limit, limit)
    upright = (angle + np.pi) % (2 * np.pi) - np.pi
    reward = -(upright**2 + 0.1 * speed**2 + 0.001 * torque**2)
    acceleration = 3 * gravity / (2 * length) * np.sin(angle) + 3 / (mass * length**2) * torque
    following = np.clip(speed + 0.05 * acceleration, -8, 8)
    return np.stack([angle + 0.05 * following, following]), reward, np.zeros(len(angle), bool)


def see_pendulum(physical):
    return np.column_stack([np.cos(physical[0]), np.sin(physical[0]), physical[1]])


MODELS = {
    "CartPoleTasks-v0": (CARTPOLE_RANGES, first_cartpole, move_cartpole, np.transpose, 4),
    "PendulumTasks-v0": (PENDULUM_RANGES, first_pendulum, move_pendulum, see_pendulum, 2),
}
tasks = pytest.mark.parametrize("env_id", MODELS)


def sample_actions(env, rng):
    if env.single_action_space.shape == ():
        return rng.integers(0, 2, env.num_envs)
    limit = env.single_action_space.high[0]
    return rng.uniform(-1.2 * limit, 1.2 * limit, (env.num_envs, 1)).astype(np.float32)


def parts(env_id, state):
    """Physical state [K, N], physics [P, N], inner step, inner episode."""
    ranges, size = MODELS[env_id][0], MODELS[env_id][4]
    columns = state["state"].T
    return columns[:size], columns[size : size + len(ranges)], *columns[size + len(ranges) :][:2]


@tasks
def test_a_task_begins_as_drawn(isa, env_id):
    ranges, first, _, see, size = MODELS[env_id]
    env = metafast.envs.make_vec(env_id, 307)
    for options in ({"seed": 3}, {}):
        observations, _ = env.reset(**options)
        state = env.get_state()
        drawn = uniforms(state, 0, size + len(ranges))
        physical, physics, inner_step, inner_episode = parts(env_id, state)
        np.testing.assert_allclose(physical, first(drawn), rtol=1e-14, atol=1e-16)
        low, high = np.array(list(ranges.values())).T[:, :, None]
        np.testing.assert_allclose(physics, low + (high - low) * drawn[size:], rtol=1e-14)
        np.testing.assert_allclose(observations, see(physical), rtol=1e-6, atol=1e-6)
        assert not inner_step.any()
        assert not inner_episode.any()


@tasks
def test_physics_are_uniform_in_their_ranges_and_independent(env_id):
    env = metafast.envs.make_vec(env_id, 10_000)
    env.reset(seed=4)
    _, physics, _, _ = parts(env_id, env.get_state())
    scaled = []
    for values, (low, high) in zip(physics, MODELS[env_id][0].values(), strict=True):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4
        scaled.append((values - low) / (high - low))
    for i in range(len(scaled)):
        for j in range(i):
            counts, _, _ = np.histogram2d(scaled[i], scaled[j], bins=8, range=[[0, 1]] * 2)
            assert stats.chisquare(counts.ravel()).pvalue > 1e-4


@tasks
@pytest.mark.parametrize("num_envs", [3, 300])
@pytest.mark.parametrize("meta", [False, True])
def test_every_step_is_the_replays(isa, rng, env_id, num_envs, meta):
    """Through inner episodes and tasks that end at different times."""
    _, first, move, see, size = MODELS[env_id]
    options = {"episodes": 3, "inner_steps": 17, "meta_observation": meta, "autoreset_mode": "same_step"}
    env = metafast.envs.make_vec(env_id, num_envs, **options)
    env.reset(seed=5)
    inner_ends = task_ends = 0
    for _ in range(120):
        state = env.get_state()
        physical, physics, inner_step, inner_episode = parts(env_id, state)
        actions = sample_actions(env, rng)
        following, reward, fallen = move(physical, physics, actions)
        over = fallen | (inner_step + 1 >= 17)
        ended = over & (inner_episode + 1 >= 3)
        again = over & ~ended
        drawn = uniforms(state, state["elapsed_steps"].astype(np.int64) + 1, size)
        following[:, again] = first(drawn)[:, again]
        observations, rewards, terminated, truncated, infos = env.step(actions)
        np.testing.assert_array_equal(terminated, ended)
        assert not truncated.any()
        np.testing.assert_allclose(rewards, reward, rtol=1e-6, atol=1e-6)
        last = observations.copy()
        for index in np.flatnonzero(ended):
            last[index] = infos["final_obs"][index]
        np.testing.assert_allclose(last[:, : see(following).shape[1]], see(following), rtol=1e-5, atol=1e-6)
        if meta:
            limit = env.single_action_space.high[0] if env.single_action_space.shape else 1
            previous = np.clip(actions, -limit, limit) if env.single_action_space.shape else np.eye(2)[actions]
            np.testing.assert_allclose(last[:, -len(previous[0]) - 2 : -2], previous, rtol=1e-6)
            np.testing.assert_allclose(last[:, -2], rewards, rtol=1e-6)
            np.testing.assert_array_equal(last[:, -1], over)
            assert not observations[ended, -len(previous[0]) - 2 :].any()
        assert all(row in env.single_observation_space for row in last)
        after = env.get_state()
        same = ~ended
        np.testing.assert_array_equal(parts(env_id, after)[1][:, same], physics[:, same])
        np.testing.assert_array_equal(parts(env_id, after)[2][same], np.where(again, 0, inner_step + 1)[same])
        np.testing.assert_array_equal(parts(env_id, after)[3][same], (inner_episode + over)[same])
        inner_ends += again.sum()
        task_ends += ended.sum()
    assert inner_ends > 3
    assert task_ends > 3


def test_cartpole_tasks_with_cartpoles_physics_are_cartpole(rng):
    fixed = {"gravity": 9.8, "cart_mass": 1, "pole_mass": 0.1, "pole_half_length": 0.5, "force": (10, 10)}
    task = metafast.envs.make_vec("CartPoleTasks-v0", 64, **fixed)
    plain = metafast.envs.make_vec("CartPole-v1", 64)
    np.testing.assert_array_equal(task.reset(seed=1)[0], plain.reset(seed=1)[0])
    for row in rng.integers(0, 2, (100, 64)):
        for ours, theirs in zip(task.step(row)[:4], plain.step(row)[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_pendulum_tasks_with_pendulums_physics_are_pendulum(rng):
    task = metafast.envs.make_vec("PendulumTasks-v0", 64, gravity=10, mass=1, length=1, max_torque=2)
    plain = metafast.envs.make_vec("Pendulum-v1", 64)
    np.testing.assert_array_equal(task.reset(seed=1)[0], plain.reset(seed=1)[0])
    for t, row in enumerate(rng.uniform(-3, 3, (200, 64, 1)).astype(np.float32)):
        ours, theirs = task.step(row), plain.step(row)
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
        # The task's budget ends it; Pendulum-v1 itself is cut.
        assert ours[2].all() == theirs[3].all() == (t == 199)


@tasks
def test_unfit_arguments_are_refused(env_id):
    name = next(reversed(MODELS[env_id][0]))

    def make(**kwargs):
        return metafast.envs.make_vec(env_id, 2, **kwargs)

    with pytest.raises(ValueError, match=f"{name} must be a pair \\(low, high\\) with low <= high"):
        make(**{name: (3, 2)})
    with pytest.raises(ValueError, match=f"{name} must be a number or a pair"):
        make(**{name: (1, 2, 3)})
    with pytest.raises(ValueError, match=f"{name} must be between .* and 1000.0, not nan"):
        make(**{name: (1, math.nan)})
    with pytest.raises(TypeError, match=f"{name} must be a number, not 'strong'"):
        make(**{name: "strong"})
    with pytest.raises(ValueError, match="inner_steps must be between 1 and"):
        make(inner_steps=0)
    with pytest.raises(TypeError, match="episodes must be an int, not True"):
        make(episodes=True)
