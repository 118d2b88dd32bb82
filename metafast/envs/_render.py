"""Pictures of the native environments, drawn by gymnasium's own renderers from our state."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled

__all__ = ["Renderer", "check_render_mode", "render_modes"]

Frame = npt.NDArray[np.uint8]

# Gymnasium has these under the same ids, and their state is the vector that its environments call ``state``.
_DRAWN = ("Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")


def render_modes(env_id: str) -> list[str]:
    """The render modes of an environment."""
    return ["rgb_array"] if env_id in _DRAWN else []


def check_render_mode(env_id: str, render_mode: object) -> None:
    """Raise ValueError for a mode that the environment does not have, DependencyNotInstalled without pygame."""
    if render_mode is None:
        return
    modes = render_modes(env_id)
    if not modes:
        raise ValueError(f"render_mode must be None: {env_id} draws nothing; it is {render_mode!r}")
    if render_mode not in modes:
        advice = (
            "; for a window, wrap an environment of that mode in gymnasium.wrappers.HumanRendering, "
            "or in gymnasium.wrappers.vector.HumanRendering"
        )
        raise ValueError(
            f"render_mode must be None or 'rgb_array', not {render_mode!r}{advice if render_mode == 'human' else ''}"
        )
    if importlib.util.find_spec("pygame") is None:
        raise DependencyNotInstalled(
            "render_mode='rgb_array' draws with pygame, which is not installed: "
            'pip install "gymnasium[classic-control]"'
        )


class Renderer:
    """Draws states with one environment of gymnasium's, which is never stepped."""

    def __init__(self, env_id: str) -> None:
        # The frames are ours to check and to count, so gymnasium's wrappers stay out.
        self._env: Any = gymnasium.make(env_id, render_mode="rgb_array", disable_env_checker=True).unwrapped
        self._env.reset(seed=0)
        self._shows_action = hasattr(self._env, "last_u")

    def draw(self, states: npt.NDArray[np.float64], actions: Sequence[Any]) -> tuple[Frame, ...]:
        """Return a frame, uint8 [height, width, 3], for each of the states [N, state size].

        `actions` are those of the steps that led there, None where there was none.
        """
        frames = []
        for state, action in zip(states, actions, strict=True):
            self._env.state = state
            if self._shows_action:
                # Pendulum draws the torque that was applied.
                limit = self._env.max_torque
                self._env.last_u = None if action is None else float(np.clip(np.ravel(action)[0], -limit, limit))
            frames.append(self._env.render())
        return tuple(frames)

    def close(self) -> None:
        """Let go of what the renderer holds."""
        self._env.close()
