"""The state of a user's environment: its named fields and where they lie in a tile."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["IGNORED", "TILE", "Field", "Layout"]

# Environments of a tile: kTile of csrc/envs/batch.hpp.
TILE = 256
# kIgnored of the same file: the mark of an environment whose step is to be ignored.
IGNORED = 2

# What get_attr and set_attr of the vector environment mean by these names.
_TAKEN = ("state", "elapsed_steps", "ended", "seeds", "episodes", "np_random_seed")
_NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float32", "float64")


@dataclass(frozen=True)
class Field:
    """One field. In a tile it is an array of TILE elements at the byte `offset`, each of the field's shape."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """The bytes of one environment's element."""
        return int(self.dtype.itemsize * np.prod(self.shape, dtype=np.int64))


class Layout:
    """The fields in order, without gaps between their arrays.

    Raises TypeError or ValueError where the declaration is no dictionary of names to number types, or to pairs of a
    number type and a shape.
    """

    def __init__(self, declared: Any) -> None:
        if not isinstance(declared, Mapping) or not declared:
            raise TypeError(f"state must be a dict of field names to types, not {declared!r}")
        offset = 0
        fields = []
        for name, kind in declared.items():
            if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
                raise ValueError(f"state has a field named {name!r}, which does not read as state.<name>")
            if name in _TAKEN:
                raise ValueError(f"state has a field named {name!r}, which every environment has: call it otherwise")
            dtype, shape = _type_and_shape(name, kind)
            fields.append(Field(name, dtype, shape, offset))
            offset += fields[-1].nbytes * TILE
        self.fields = {field.name: field for field in fields}

    @property
    def record(self) -> np.dtype[Any]:
        """The structured type of one environment's state, as `get_state` returns it."""
        return np.dtype([(field.name, field.dtype, field.shape) for field in self.fields.values()])

    def tile_arrays(self, address: int) -> dict[str, npt.NDArray[Any]]:
        """The arrays [TILE, *shape] of the tile whose memory begins at `address`, as views."""
        arrays = {}
        for field in self.fields.values():
            memory: Any = (ctypes.c_byte * (field.nbytes * TILE)).from_address(address + field.offset)
            arrays[field.name] = np.frombuffer(memory, dtype=field.dtype).reshape((TILE, *field.shape))
        return arrays

    def describe(self) -> str:
        """Everything that compiled code depends on."""
        return repr([(field.name, field.dtype.str, field.shape) for field in self.fields.values()])


def _type_and_shape(name: str, kind: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    declared: Any
    shape: Any
    declared, shape = kind if isinstance(kind, tuple) and len(kind) == 2 else (kind, ())
    if isinstance(shape, (int, np.integer)) and not isinstance(shape, bool):
        shape = (shape,)
    try:
        if declared is None:
            raise TypeError
        dtype = np.dtype(declared)
        shape = tuple(int(length) for length in shape)
    except TypeError as error:
        raise TypeError(
            f"state[{name!r}] must be a number type such as numpy.float64, or a pair of a type and a shape such as "
            f"(numpy.int32, (4, 4)), not {kind!r}"
        ) from error
    if dtype.name not in _NUMBERS or not dtype.isnative:
        raise TypeError(f"state[{name!r}] must be one of {', '.join(_NUMBERS)}, not {dtype}")
    if any(length < 1 for length in shape):
        raise ValueError(f"state[{name!r}] has the shape {shape}; every length must be at least 1")
    return dtype, shape
