"""What each environment id means: its kernels, spaces, episode limit and keyword arguments."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

__all__ = ["CATALOGUE", "EnvironmentDefinition"]


@dataclass(frozen=True)
class EnvironmentDefinition:
    """One environment of the catalogue.

    `parameters` turns the environment's keyword arguments into the doubles that its kernels take; its signature is the
    list of arguments that the environment knows.
    """

    env_id: str
    kernels: str
    observation_space: Callable[[], spaces.Box]
    action_space: Callable[[], spaces.Discrete]
    parameters: Callable[..., list[float]]
    render_fps: int


def _cartpole_observation_space() -> spaces.Box:
    # Twice the limits at which an episode ends, so that the last observation of an episode lies within.
    high = np.array([2.4 * 2, np.inf, 12 * 2 * math.pi / 360 * 2, np.inf], dtype=np.float32)
    return spaces.Box(-high, high, dtype=np.float32)


def _cartpole_parameters(*, sutton_barto_reward: Any = False) -> list[float]:
    if not isinstance(sutton_barto_reward, (bool, np.bool_)):
        raise TypeError(f"sutton_barto_reward must be a bool, not {sutton_barto_reward!r}")
    upright_reward, fallen_reward = (0.0, -1.0) if sutton_barto_reward else (1.0, 1.0)
    return [upright_reward, fallen_reward]


CATALOGUE = {
    definition.env_id: definition
    for definition in (
        EnvironmentDefinition(
            env_id="CartPole-v1",
            kernels="cartpole",
            observation_space=_cartpole_observation_space,
            action_space=lambda: spaces.Discrete(2),
            parameters=_cartpole_parameters,
            render_fps=50,
        ),
    )
}
