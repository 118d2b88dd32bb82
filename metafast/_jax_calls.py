"""Calls from compiled JAX programs back to functions on the host, on the program's own memory where XLA allows it.

XLA calls foreign functions through a C interface that it keeps stable, its "typed FFI". What is used of it is declared
here with ctypes, so that metafast needs neither XLA's headers nor a build for each of its versions; every struct begins
with its size, by which a call that is not as declared is refused. Compared with :func:`jax.pure_callback` nothing is
copied, and a call takes a fifth of the time or less (benchmarks/returns/test_under_jit.py). On other devices than the
CPU, and where JAX has no such interface, it is :func:`jax.pure_callback` all the same.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

# Reads some arrays and writes its results to others.
HostFunction = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], None]

_EXECUTE = 3
_METADATA_EXTENSION = 1
_INVALID_ARGUMENT = 3
_DTYPES = {
    1: np.bool_, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.uint8, 7: np.uint16, 8: np.uint32,
    9: np.uint64, 11: np.float32, 12: np.float64,
}  # fmt: skip
_Pointer = ctypes.c_void_p


def _struct(*fields: tuple[str, Any]) -> Any:
    return type("Struct", (ctypes.Structure,), {"_fields_": fields})


def _sized(**fields: Any) -> Any:
    """Declare a struct that begins as every one of the interface does."""
    return _struct(("struct_size", ctypes.c_size_t), ("extension", _Pointer), *fields.items())


_Version = _sized(major=ctypes.c_int, minor=ctypes.c_int)
_Buffer = _sized(dtype=ctypes.c_int, data=_Pointer, rank=ctypes.c_int64, shape=ctypes.POINTER(ctypes.c_int64))
_Buffers = _sized(size=ctypes.c_int64, kinds=_Pointer, buffers=ctypes.POINTER(ctypes.POINTER(_Buffer)))
_Text = _struct(("data", _Pointer), ("size", ctypes.c_size_t))
_Texts = ctypes.POINTER(ctypes.POINTER(_Text))
_Attributes = _sized(size=ctypes.c_int64, kinds=_Pointer, names=_Texts, values=_Texts)
_Interface = _sized(version=_Version, internal=_Pointer, create_error=_Pointer)
_Frame = _sized(
    interface=ctypes.POINTER(_Interface),
    context=_Pointer,
    stage=ctypes.c_int,
    arguments=_Buffers,
    results=_Buffers,
    attributes=_Attributes,
)
_Metadata = _struct(("struct_size", ctypes.c_size_t), ("version", _Version), ("traits", ctypes.c_uint32))
_Extension = _struct(
    ("struct_size", ctypes.c_size_t),
    ("kind", ctypes.c_int),
    ("next", _Pointer),
    ("metadata", ctypes.POINTER(_Metadata)),
)
_NewError = _sized(message=ctypes.c_char_p, code=ctypes.c_int)
_Handler = ctypes.CFUNCTYPE(_Pointer, ctypes.POINTER(_Frame))
_CreateError = ctypes.CFUNCTYPE(_Pointer, ctypes.POINTER(_NewError))


class HostCalls:
    """Functions on the host that a compiled program calls, each known to it by a text.

    Parameters
    ----------
    name
        Of all of them together, unique in the process.
    function_of
        Gives the function that a text describes: completely, because a compiled program may be kept on disk and run by
        another process.
    """

    def __init__(self, name: str, function_of: Callable[[str], HostFunction]) -> None:
        self._name = name
        self._function_of = function_of
        self._handler = _Handler(self._handle)  # lives as long as XLA may call it
        self.shares_memory = self._register()

    def __call__(self, description: str, shapes: Sequence[Any], *arrays: Any) -> list[Any]:
        """Call the function that a text describes when the program runs.

        Under :func:`jax.vmap` it is given arrays with one more axis in front, of size 1 where an array has no batch.
        """
        if self.shares_memory and jax.default_backend() == "cpu":
            call = jax.ffi.ffi_call(self._name, tuple(shapes), vmap_method="expand_dims")
            return list(call(*arrays, description=description))
        ndims = [array.ndim for array in arrays]

        def callback(*arrays: Any) -> tuple[np.ndarray, ...]:
            views = [np.asarray(array) for array in arrays]
            batch = np.broadcast_shapes(
                *(view.shape[: view.ndim - ndim] for view, ndim in zip(views, ndims, strict=True))
            )
            results = tuple(np.empty(batch + shape.shape, shape.dtype) for shape in shapes)
            self._function_of(description)(views, results)
            return results

        return list(jax.pure_callback(callback, tuple(shapes), *arrays, vmap_method="expand_dims"))

    def _register(self) -> bool:
        if not hasattr(jax, "ffi"):
            return False
        capsule = jax.ffi.pycapsule(ctypes.cast(self._handler, _Pointer).value)  # type: ignore[no-untyped-call]
        try:
            jax.ffi.register_ffi_target(self._name, capsule, platform="cpu", api_version=1)
        except Exception:  # of another version than 0
            return False
        return True

    def _handle(self, frame_pointer: Any) -> int | None:
        frame = frame_pointer.contents
        if frame.extension:
            extension = ctypes.cast(frame.extension, ctypes.POINTER(_Extension)).contents
            if extension.kind == _METADATA_EXTENSION:
                metadata = extension.metadata.contents
                metadata.version.major, metadata.version.minor, metadata.traits = 0, _MINOR_VERSION, 0
                return None
        try:
            if frame.struct_size < ctypes.sizeof(_Frame) or frame.stage != _EXECUTE:
                raise RuntimeError("XLA called metafast in another way than metafast knows")
            text = frame.attributes.values[0].contents
            function = self._function_of(ctypes.string_at(text.data, text.size).decode())
            function(_views(frame.arguments), _views(frame.results))
        except BaseException as error:
            create_error = _CreateError(frame.interface.contents.create_error)
            message = f"{type(error).__name__}: {error}".encode()
            new_error = _NewError(ctypes.sizeof(_NewError), None, message, _INVALID_ARGUMENT)
            return int(create_error(ctypes.byref(new_error)))
        return None


# The oldest minor version with everything that is declared here; later ones only add to it.
_MINOR_VERSION = 1


def _views(buffers: Any) -> list[np.ndarray]:
    return [_view(buffers.buffers[index].contents) for index in range(buffers.size)]


def _view(buffer: Any) -> np.ndarray:
    shape = tuple(buffer.shape[: buffer.rank]) if buffer.rank else ()
    dtype = np.dtype(_DTYPES[buffer.dtype])
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, (ctypes.c_char * size).from_address(buffer.data))
