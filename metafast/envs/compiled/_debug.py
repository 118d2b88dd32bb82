"""A user's functions as plain Python behind the interface of compiled ones, for the same batch driver to call."""

import ctypes
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from metafast.envs.compiled._fields import IGNORED, Layout
from metafast.envs.compiled._generator import Generator
from metafast.envs.compiled._spaces import Element

__all__ = ["PlainPhases"]

_POINTER = ctypes.c_void_p
_INTEGER = ctypes.c_int64
_ADVANCE = ctypes.CFUNCTYPE(_INTEGER, _POINTER, _POINTER, _INTEGER, *[_POINTER] * 6)
_BEGIN = ctypes.CFUNCTYPE(_INTEGER, _POINTER, _POINTER, _POINTER, _INTEGER, *[_POINTER] * 3)
_OBSERVE = ctypes.CFUNCTYPE(_INTEGER, _POINTER, _POINTER, _INTEGER, _POINTER, _INTEGER, _POINTER)


def _memory(address: int, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    dtype = np.dtype(dtype)
    size = int(dtype.itemsize * np.prod(shape, dtype=np.int64))
    memory: Any = (ctypes.c_byte * size).from_address(address)
    array: npt.NDArray[Any] = np.frombuffer(memory, dtype=dtype)
    return array.reshape(shape)


class State:
    """`state` in plain Python: one environment's fields in the batch's own memory."""

    __slots__ = ("_arrays", "_index", "_readonly")

    def __init__(self, arrays: dict[str, npt.NDArray[Any]], index: int, readonly: bool = False) -> None:
        object.__setattr__(self, "_arrays", arrays)
        object.__setattr__(self, "_index", index)
        object.__setattr__(self, "_readonly", readonly)

    def _array(self, name: str) -> npt.NDArray[Any]:
        arrays: dict[str, npt.NDArray[Any]] = self._arrays
        if name not in arrays:
            raise AttributeError(f"state has no field {name!r}; it has: {', '.join(arrays)}")
        return arrays[name]

    def __getattr__(self, name: str) -> Any:
        value = _widened(self._array(name)[self._index])
        if self._readonly and isinstance(value, np.ndarray):
            value.flags.writeable = False
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        array = self._array(name)
        if self._readonly:
            raise TypeError(f"observe must not change the state, but assigns to state.{name}")
        if array.ndim > 1:
            array[self._index][:] = value
            return
        with np.errstate(all="ignore"):
            # As in compiled code: truncated, wrapped round or rounded to the type of the field.
            if array.dtype.kind in "iu" and not isinstance(value, (int, np.integer, np.bool_)):
                value = np.float64(value).astype(np.int64)
            array[self._index] = np.asarray(value).astype(array.dtype)

    def __repr__(self) -> str:
        return f"State({', '.join(f'{name}={array[self._index]}' for name, array in self._arrays.items())})"


class WideningArray(np.ndarray[Any, Any]):
    """An array whose elements are read as float64 and int64, and take any number as those of compiled code do."""

    def __setitem__(self, key: Any, value: Any) -> None:
        given = np.asarray(value)
        super().__setitem__(key, given.astype(self.dtype) if given.dtype.kind in "biuf" else value)

    def __getitem__(self, key: Any) -> Any:
        return _widened(super().__getitem__(key))


def _widened(value: Any) -> Any:
    """Numbers as float64 and int64, arrays as views whose elements are so."""
    if isinstance(value, np.ndarray):
        return value.view(WideningArray)
    if isinstance(value, np.floating):
        return np.float64(value)
    return np.int64(value) if isinstance(value, np.integer) else value


def _users_part(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback without the frames of this file."""
    if traceback is None:
        return None
    following = _users_part(traceback.tb_next)
    if traceback.tb_frame.f_code.co_filename == __file__:
        return following
    return types.TracebackType(following, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)


class PlainPhases:
    """The three phases as C functions that call Python.

    Attributes
    ----------
    addresses : tuple of int
        advance, begin and observe (csrc/envs/batch.hpp).
    error : BaseException or None
        What the user's code raised since the last `take_error`.
    """

    def __init__(
        self, functions: dict[str, Callable[..., Any]], layout: Layout, action: Element, observation: Element
    ) -> None:
        self._functions, self._layout = functions, layout
        self._action, self._observation = action, observation
        self.error: BaseException | None = None
        self._callbacks = (_ADVANCE(self._advance), _BEGIN(self._begin), _OBSERVE(self._observe))
        advance, begin, observe = (ctypes.cast(callback, _POINTER).value for callback in self._callbacks)
        assert advance is not None
        assert begin is not None
        assert observe is not None
        self.addresses = (advance, begin, observe)

    def take_error(self) -> BaseException | None:
        error, self.error = self.error, None
        return error

    def _run(self, indices: Any, run: Callable[[int], None]) -> int:
        if self.error is not None:
            # The call has failed, in another tile.
            return -1
        for index in indices:
            try:
                with np.errstate(all="ignore"):
                    run(int(index))
            except BaseException as error:
                # An exception does not pass through the driver; the vector environment raises it afterwards.
                self.error = error.with_traceback(_users_part(error.__traceback__))
                return int(index)
        return -1

    def _advance(self, _: int, tile: int, count: int, actions: int, seeds: int, episodes: int, *others: int) -> int:
        elapsed_steps, rewards, terminated = others
        fields = self._layout.tile_arrays(tile)
        rows = _memory(actions, self._action.dtype, (count, *self._action.shape))
        generators = _memory(seeds, np.uint64, (count,)), _memory(episodes, np.uint64, (count,))
        steps = _memory(elapsed_steps, np.int32, (count,))
        outcomes = _memory(rewards, np.float32, (count,)), _memory(terminated, np.uint8, (count,))
        rows.flags.writeable = False

        def advance_one(i: int) -> None:
            if outcomes[1][i] == IGNORED:
                return
            rng = Generator(int(generators[0][i]), int(generators[1][i]) - 1, int(steps[i]) + 1)
            returned = self._functions["step"](State(fields, i), _widened(rows[i]), rng)
            if not isinstance(returned, tuple) or len(returned) != 2:
                raise TypeError(f"step must return (reward, terminated), not {returned!r}")
            outcomes[0][i], outcomes[1][i] = returned[0], bool(returned[1])

        return self._run(range(count), advance_one)

    def _begin(self, _: int, tile: int, indices: int, num_indices: int, seeds: int, episodes: int, __: int) -> int:
        if num_indices == 0:
            return -1
        fields = self._layout.tile_arrays(tile)
        listed = _memory(indices, np.int32, (num_indices,))
        last = int(listed.max()) + 1
        generators = _memory(seeds, np.uint64, (last,)), _memory(episodes, np.uint64, (last,))

        def begin_one(i: int) -> None:
            for array in fields.values():
                array[i] = 0
            self._functions["reset"](State(fields, i), Generator(int(generators[0][i]), int(generators[1][i]) - 1, 0))

        return self._run(listed, begin_one)

    def _observe(self, _: int, tile: int, count: int, indices: int, num_indices: int, observations: int) -> int:
        fields = self._layout.tile_arrays(tile)
        rows = _memory(observations, self._observation.dtype, (count, *self._observation.shape))

        def observe_one(i: int) -> None:
            rows[i] = 0
            self._functions["observe"](State(fields, i, readonly=True), rows[i, ...].view(WideningArray))

        return self._run(range(count) if num_indices < 0 else _memory(indices, np.int32, (num_indices,)), observe_one)
