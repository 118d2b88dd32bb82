"""Gymnasium's classic control, with its dynamics in float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from metafast._gymnasium_hook import REGISTERED
from metafast.envs._environment import Environment

__all__ = ["BUILDERS"]


def _vector(size: int) -> np.dtype[Any]:
    return np.dtype((np.float64, (size,)))


def _cartpole(*, sutton_barto_reward: Any = False) -> Environment:
    if not isinstance(sutton_barto_reward, (bool, np.bool_)):
        raise TypeError(f"sutton_barto_reward must be a bool, not {sutton_barto_reward!r}")
    # Of a step that leaves the pole up, and of one that does not.
    rewards = (0.0, -1.0) if sutton_barto_reward else (1.0, 1.0)
    # Twice the limits at which an episode ends, so that the last observation of an episode lies within.
    high = np.array([2.4 * 2, np.inf, 12 * 2 * math.pi / 360 * 2, np.inf], dtype=np.float32)
    return Environment(
        env_id="CartPole-v1",
        phases="cartpole",
        parameters=np.array(rewards).tobytes(),
        state=_vector(4),
        single_observation_space=spaces.Box(-high, high, dtype=np.float32),
        single_action_space=spaces.Discrete(2),
        render_fps=50,
        max_episode_steps=REGISTERED["CartPole-v1"].max_episode_steps,
    )


BUILDERS: dict[str, Callable[..., Environment]] = {"CartPole-v1": _cartpole}
