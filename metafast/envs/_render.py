"""Pictures of environments, drawn from their state: gymnasium's by gymnasium's own renderers."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled

__all__ = ["Frame", "GymnasiumRenderer", "Renderer", "make_renderer", "render_modes"]

Frame = npt.NDArray[np.uint8]


class Renderer(Protocol):
    """What draws one kind of environment."""

    def draw(self, states: npt.NDArray[Any], actions: Sequence[Any]) -> tuple[Frame, ...]:
        """Return a frame, uint8 [height, width, 3], for each of the states, as `get_state` has them.

        `actions` are those of the steps that led there, None where there was none.
        """

    def close(self) -> None:
        """Let go of what the renderer holds."""


def render_modes(renderer: Callable[[], Renderer] | None) -> list[str]:
    """The render modes of an environment that this renderer, if any, draws."""
    return [] if renderer is None else ["rgb_array"]


def make_renderer(env_id: str, renderer: Callable[[], Renderer] | None, render_mode: object) -> Renderer | None:
    """Make what draws the environment in a mode. Raises ValueError for a mode that the environment does not have."""
    if render_mode is None:
        return None
    if renderer is None:
        raise ValueError(f"render_mode must be None: {env_id} draws nothing; it is {render_mode!r}")
    if render_mode != "rgb_array":
        advice = (
            "; for a window, wrap an environment of that mode in gymnasium.wrappers.HumanRendering, "
            "or in gymnasium.wrappers.vector.HumanRendering"
        )
        raise ValueError(
            f"render_mode must be None or 'rgb_array', not {render_mode!r}{advice if render_mode == 'human' else ''}"
        )
    return renderer()


class GymnasiumRenderer:
    """Draws states, the vectors that gymnasium's environments call ``state``, with one that is never stepped.

    Raises DependencyNotInstalled without pygame.
    """

    def __init__(self, env_id: str) -> None:
        if importlib.util.find_spec("pygame") is None:
            raise DependencyNotInstalled(
                "render_mode='rgb_array' draws with pygame, which is not installed: "
                'pip install "gymnasium[classic-control]"'
            )
        # The frames are ours to check and to count, so gymnasium's wrappers stay out.
        self._env: Any = gymnasium.make(env_id, render_mode="rgb_array", disable_env_checker=True).unwrapped
        self._env.reset(seed=0)
        self._shows_action = hasattr(self._env, "last_u")

    def draw(self, states: npt.NDArray[Any], actions: Sequence[Any]) -> tuple[Frame, ...]:
        """Return a frame, uint8 [height, width, 3], for each of the states [N, state size]."""
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
        """Let go of gymnasium's environment."""
        self._env.close()
