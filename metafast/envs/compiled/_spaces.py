"""How the spaces' elements reach a user's functions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

__all__ = ["Element", "action_element", "observation_element"]


@dataclass(frozen=True)
class Element:
    """One environment's action or observation: `scalar`, or else an array, in contiguous rows."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    scalar: bool = False

    @property
    def nbytes(self) -> int:
        return int(self.dtype.itemsize * np.prod(self.shape, dtype=np.int64))

    def describe(self) -> str:
        """Everything that compiled code depends on."""
        return repr((self.dtype.str, self.shape, self.scalar))


def action_element(space: Any) -> Element:
    """A Discrete action is a number; a MultiDiscrete one an int64 array, MultiBinary int8, Box of its own dtype."""
    if isinstance(space, spaces.Discrete):
        return Element(np.dtype(np.int64), (), scalar=True)
    if isinstance(space, spaces.MultiDiscrete):
        return Element(np.dtype(np.int64), space.shape)
    return _array("action_space", space)


def observation_element(space: Any) -> Element:
    """An observation is always an array that the user fills; a Discrete one has a single element."""
    if isinstance(space, spaces.Discrete):
        return Element(np.dtype(space.dtype), (1,))
    return _array("observation_space", space)


def _array(name: str, space: Any) -> Element:
    if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)):
        dtype = np.dtype(space.dtype)
        if dtype.kind not in "fiub" or dtype == np.float16:
            raise TypeError(f"{name} has the dtype {dtype}, which compiled environments do not have")
        return Element(dtype, tuple(int(length) for length in space.shape))
    raise TypeError(f"{name} must be a gymnasium Box, Discrete, MultiDiscrete or MultiBinary, not {space!r}")
