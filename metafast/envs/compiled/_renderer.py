"""Draws a user's environments with the function that its class has for that, in plain Python."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from metafast.envs._render import Frame
from metafast.envs.compiled._debug import State
from metafast.envs.compiled._source import place

__all__ = ["UserRenderer"]


class UserRenderer:
    """Draws states with a function `render(state)`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def draw(self, states: npt.NDArray[Any], actions: Sequence[Any]) -> tuple[Frame, ...]:
        """Return a frame, uint8 [height, width, 3], for each of the structured states [N].

        Raises what the function raises, and TypeError where it returns anything but a frame.
        """
        fields = {name: states[name] for name in states.dtype.names or ()}
        return tuple(self._frame(State(fields, index, readonly=True)) for index in range(len(actions)))

    def _frame(self, state: State) -> Frame:
        frame = self._function(state)
        if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
            # The function may draw the next one into the same array.
            return frame.copy()
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else repr(frame)
        raise TypeError(f"{place(self._function)}: render must return uint8 [height, width, 3], not {found}")

    def close(self) -> None:
        """There is nothing to let go of."""
