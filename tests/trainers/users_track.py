"""A user's environment: nothing but its definition."""

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete

from metafast.envs import compile_env


@compile_env(
    observation_space=Box(-np.inf, np.inf, (2,), np.float64),
    action_space=MultiDiscrete([3, 2], start=[-1, 1]),
    state={"place": np.float64, "speed": np.float32},
    max_episode_steps=50,
)
class Track:
    def reset(state, rng):
        state.place = rng.uniform(-1.0, 1.0)

    def step(state, action, rng):
        state.speed += 0.1 * action[0] * action[1]
        state.place += 0.1 * state.speed
        return 1.0 - state.place * state.place, abs(state.place) > 3.0

    def observe(state, observation):
        observation[0] = state.place
        observation[1] = state.speed
