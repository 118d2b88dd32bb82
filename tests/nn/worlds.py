"""Users' environments with actions and observations of several kinds, and one that raises."""

import functools

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from metafast.envs import compile_env


@functools.cache
def world(name):
    """Adds the actions up, noisily; ends at sums of a certain size, or is cut after 9 steps."""
    action_space, observation_space = SPACES[name]
    size = int(np.prod(action_space.shape))

    @compile_env(
        observation_space=observation_space,
        action_space=action_space,
        state={"total": np.float64, "last": np.float64},
        max_episode_steps=9,
    )
    class World:
        def reset(state, rng):
            state.total = rng.uniform(0.0, 10.0)
            state.last = 0.0

        def step(state, action, rng):
            values = np.asarray(action).reshape(-1)
            for k in range(size):
                state.last = (k + 1) * values[k]
                state.total += 0.3 * state.last
            state.total += rng.normal(0.0, 0.5)
            return state.total - 5.0, abs(state.total - 5.0) > 8.0

        def observe(state, observation):
            flat = observation.reshape(-1)
            flat[0] = min(max(state.total, 0.0), 20.0)
            flat[1] = min(max(state.last + 3.0, 0.0), 9.0)

    return World


SPACES = {
    "discrete_of_bytes": (Discrete(3, start=-1), Box(0, 255, (2,), np.uint8)),
    "table": (MultiDiscrete([[2, 3], [1, 4]], start=[[0, -1], [0, -2]]), Box(-np.inf, np.inf, (2,), np.float64)),
    "bits": (MultiBinary((1, 2)), Box(-100, 100, (2, 1), np.int16)),
    "reals": (
        Box(np.array([[-1, -3]]), np.array([[2, 0.5]]), (1, 2), np.float64),
        Box(-np.inf, np.inf, (2,), np.float64),
    ),
}


@functools.cache
def fragile(limit):
    """Counts, and raises where environment and count reach `limit`."""

    @compile_env(
        observation_space=Box(-np.inf, np.inf, (2,), np.float32),
        action_space=Discrete(2),
        state={"count": np.float64, "own": np.float64},
    )
    class Fragile:
        def reset(state, rng):
            state.count = 0.0
            state.own = rng.random()

        def step(state, action, rng):
            state.count += 1.0
            state.own = rng.random()
            if state.count >= limit and state.own < 0.2:
                raise ValueError("worn out")
            return state.own, False

        def observe(state, observation):
            observation[0] = state.count
            observation[1] = state.own

    return Fragile
