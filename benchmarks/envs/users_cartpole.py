"""CartPole-v1 as a user writes it: as in a textbook, and without branches."""

import math

import numpy as np
from gymnasium.spaces import Box, Discrete

from metafast.envs import compile_env
from metafast.envs.math import cos, sin

SPACES = {
    "observation_space": Box(-np.inf, np.inf, (4,), np.float32),
    "action_space": Discrete(2),
    "state": {"x": np.float64, "v": np.float64, "angle": np.float64, "w": np.float64},
    "max_episode_steps": 500,
}
LIMIT = 12 * 2 * math.pi / 360


@compile_env(**SPACES)
class Naive:
    def reset(state, rng):
        state.x = rng.uniform(-0.05, 0.05)
        state.v = rng.uniform(-0.05, 0.05)
        state.angle = rng.uniform(-0.05, 0.05)
        state.w = rng.uniform(-0.05, 0.05)

    def step(state, action, rng):
        force = 10.0 if action == 1 else -10.0
        push = (force + 0.05 * state.w**2 * math.sin(state.angle)) / 1.1
        turn = (9.8 * math.sin(state.angle) - math.cos(state.angle) * push) / (
            0.5 * (4.0 / 3.0 - 0.1 * math.cos(state.angle) ** 2 / 1.1)
        )
        acceleration = push - 0.05 * turn * math.cos(state.angle) / 1.1
        state.x += 0.02 * state.v
        state.v += 0.02 * acceleration
        state.angle += 0.02 * state.w
        state.w += 0.02 * turn
        if state.x < -2.4 or state.x > 2.4 or state.angle < -LIMIT or state.angle > LIMIT:
            return 1.0, True
        return 1.0, False

    def observe(state, observation):
        observation[0] = state.x
        observation[1] = state.v
        observation[2] = state.angle
        observation[3] = state.w


@compile_env(**SPACES)
class BranchFree:
    def reset(state, rng):
        state.x = rng.uniform(-0.05, 0.05)
        state.v = rng.uniform(-0.05, 0.05)
        state.angle = rng.uniform(-0.05, 0.05)
        state.w = rng.uniform(-0.05, 0.05)

    def step(state, action, rng):
        force = 10.0 if action == 1 else -10.0
        sine, cosine = sin(state.angle), cos(state.angle)
        push = (force + 0.05 * state.w * state.w * sine) / 1.1
        turn = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * cosine * cosine / 1.1))
        acceleration = push - 0.05 * turn * cosine / 1.1
        state.x += 0.02 * state.v
        state.v += 0.02 * acceleration
        state.angle += 0.02 * state.w
        state.w += 0.02 * turn
        return 1.0, (abs(state.x) > 2.4) | (abs(state.angle) > LIMIT)

    def observe(state, observation):
        observation[0] = state.x
        observation[1] = state.v
        observation[2] = state.angle
        observation[3] = state.w
