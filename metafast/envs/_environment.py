"""What one kind of environment is, to the native batch and to the vector environment over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

from metafast.envs._exact import ufunc_loops
from metafast.envs._render import Renderer

if TYPE_CHECKING:
    from metafast.envs._device_batch import DeviceBatch, DeviceKernels

__all__ = ["ActionLayout", "Environment"]


@dataclass(frozen=True)
class ActionLayout:
    """The array of actions that the kernels take for a batch: rows of `shape` and `dtype`.

    Entry k of an integer action lies in [low[k], high[k]); `low` and `high` are None where the actions are floats.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    low: npt.NDArray[np.int64] | None
    high: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, space: Space[Any], integer_dtype: npt.DTypeLike) -> ActionLayout:
        """The layout of a space's actions; those of Discrete and MultiDiscrete come as `integer_dtype`."""
        if isinstance(space, spaces.Discrete):
            low = np.array([space.start], dtype=np.int64)
            return cls(np.dtype(integer_dtype), (), low, low + np.int64(space.n))
        if isinstance(space, spaces.MultiDiscrete):
            low = np.asarray(space.start, dtype=np.int64).ravel()
            return cls(np.dtype(integer_dtype), space.shape, low, low + np.asarray(space.nvec, dtype=np.int64).ravel())
        if isinstance(space, spaces.MultiBinary):
            low = np.zeros(int(np.prod(space.shape)), dtype=np.int64)
            return cls(np.dtype(np.int8), space.shape, low, low + 2)
        if isinstance(space, spaces.Box) and space.dtype in (np.float32, np.float64):
            return cls(space.dtype, space.shape, None, None)
        if isinstance(space, spaces.Box) and space.dtype.kind in "iu" and space.dtype != np.uint64:
            low, high = (np.asarray(bound, dtype=np.int64).ravel() for bound in (space.low, space.high))
            if (high < np.iinfo(np.int64).max).all():
                return cls(space.dtype, space.shape, low, high + 1)
        raise TypeError(f"metafast's environments do not take the action space {space}")


@dataclass(frozen=True)
class Environment:
    """One kind of environment with its keyword arguments settled.

    Attributes
    ----------
    env_id : str
        Its name; gymnasium has it under ``metafast/<env_id>`` where `registered`.
    phases : str or tuple of int
        The name of the native kernels, or the addresses of a user's three compiled functions (csrc/envs/batch.hpp).
    parameters : bytes
        The kernels' own ``Parameters``, without what NumPy gives to those that are exact.
    state : numpy.dtype
        Of one environment: a vector ``(numpy.float64, (K,))``, or packed named fields.
    streams : bool
        Whether episodes begin with NumPy's generators, one for each environment (``exact=True``).
    undoable : bool
        Whether a step can fail in the user's code, so that the state before it must be kept.
    check_state : callable, optional
        Raises ValueError for a state array that the kernels must not be given.
    explain_failure : callable, optional
        Called after user code raised, with the vector environment, the number of the environment, its action (None in a
        reset) and its new seed (None where it has none): raises the error.
    renderer : callable, optional
        Makes what draws it; None where nothing does.
    device_kernels : callable, optional
        Makes what steps a `DeviceBatch` of it on a CUDA device; None where the native kernels named `phases` do.
    """

    env_id: str
    phases: str | tuple[int, int, int]
    parameters: bytes
    state: np.dtype[Any]
    single_observation_space: Space[Any]
    single_action_space: Space[Any]
    render_fps: int
    max_episode_steps: int | None
    reward_dtype: Any = np.float32
    integer_actions: Any = np.int32
    streams: bool = False
    undoable: bool = False
    registered: bool = True
    check_state: Callable[[npt.NDArray[Any]], None] | None = None
    explain_failure: Callable[[Any, int, Any, Any], NoReturn] | None = None
    renderer: Callable[[], Renderer] | None = None
    device_kernels: Callable[[DeviceBatch], DeviceKernels] | None = None

    @property
    def actions(self) -> ActionLayout:
        return ActionLayout.of(self.single_action_space, self.integer_actions)

    @property
    def field_bytes(self) -> list[int]:
        """The sizes of the fields of the state, each of which is an array of its own in a tile."""
        if self.state.names is None:
            return [self.state.base.itemsize] * int(np.prod(self.state.shape))
        return [self.state[name].itemsize for name in self.state.names]

    def exactly(self) -> Environment:
        """The same environment of gymnasium's, bit for bit."""
        return replace(self, phases=f"exact_{self.phases}", reward_dtype=np.float64, streams=True)

    def core_arguments(self) -> dict[str, Any]:
        """The arguments of ``_core.EnvBatch`` that the kind of environment settles."""
        space, actions = self.single_observation_space, self.actions
        return {
            "phases": self.phases,
            "parameters": (ufunc_loops() if self.streams else b"") + self.parameters,
            "field_bytes": self.field_bytes,
            "observation_dtype": np.dtype(space.dtype),
            "observation_shape": list(space.shape or ()),
            "action_dtype": actions.dtype,
            "action_shape": list(actions.shape),
            "action_low": [] if actions.low is None else actions.low.tolist(),
            "action_high": [] if actions.high is None else actions.high.tolist(),
            "reward_dtype": np.dtype(self.reward_dtype),
            "undoable": self.undoable,
            "streams": self.streams,
        }
