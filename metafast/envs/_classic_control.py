"""Gymnasium's classic control, with its dynamics in float64."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from metafast._gymnasium_hook import REGISTERED
from metafast.envs._environment import Environment
from metafast.envs._render import GymnasiumRenderer

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
        renderer=partial(GymnasiumRenderer, "CartPole-v1"),
    )


def _pendulum(*, g: Any = 10.0) -> Environment:
    high = np.array([1.0, 1.0, 8.0], dtype=np.float32)
    return Environment(
        env_id="Pendulum-v1",
        phases="pendulum",
        parameters=np.array([_finite("g", g)]).tobytes(),
        state=_vector(2),
        single_observation_space=spaces.Box(-high, high, dtype=np.float32),
        single_action_space=spaces.Box(-2.0, 2.0, (1,), dtype=np.float32),
        render_fps=30,
        max_episode_steps=REGISTERED["Pendulum-v1"].max_episode_steps,
        renderer=partial(GymnasiumRenderer, "Pendulum-v1"),
    )


def _mountain_car(*, goal_velocity: Any = 0) -> Environment:
    return Environment(
        env_id="MountainCar-v0",
        phases="mountain_car",
        parameters=np.array([_finite("goal_velocity", goal_velocity)]).tobytes(),
        state=_vector(2),
        single_observation_space=_valley(),
        single_action_space=spaces.Discrete(3),
        render_fps=30,
        max_episode_steps=REGISTERED["MountainCar-v0"].max_episode_steps,
        renderer=partial(GymnasiumRenderer, "MountainCar-v0"),
    )


def _continuous_mountain_car(*, goal_velocity: Any = 0) -> Environment:
    return Environment(
        env_id="MountainCarContinuous-v0",
        phases="continuous_mountain_car",
        parameters=np.array([_finite("goal_velocity", goal_velocity)]).tobytes(),
        state=_vector(2),
        single_observation_space=_valley(),
        single_action_space=spaces.Box(-1.0, 1.0, (1,), dtype=np.float32),
        render_fps=30,
        max_episode_steps=REGISTERED["MountainCarContinuous-v0"].max_episode_steps,
        renderer=partial(GymnasiumRenderer, "MountainCarContinuous-v0"),
    )


def _acrobot() -> Environment:
    high = np.array([1.0, 1.0, 1.0, 1.0, 4 * np.pi, 9 * np.pi], dtype=np.float32)
    return Environment(
        env_id="Acrobot-v1",
        phases="acrobot",
        parameters=b"",
        state=_vector(4),
        single_observation_space=spaces.Box(-high, high, dtype=np.float32),
        single_action_space=spaces.Discrete(3),
        render_fps=15,
        max_episode_steps=REGISTERED["Acrobot-v1"].max_episode_steps,
        renderer=partial(GymnasiumRenderer, "Acrobot-v1"),
    )


def _valley() -> spaces.Box:
    limits = np.array([[-1.2, -0.07], [0.6, 0.07]], dtype=np.float32)
    return spaces.Box(*limits, dtype=np.float32)


def _finite(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    return float(value)


BUILDERS: dict[str, Callable[..., Environment]] = {
    "Acrobot-v1": _acrobot,
    "CartPole-v1": _cartpole,
    "MountainCar-v0": _mountain_car,
    "MountainCarContinuous-v0": _continuous_mountain_car,
    "Pendulum-v1": _pendulum,
}
