"""The one place where arrays of any library become NumPy views, and results become arrays of the caller's library.

The kernels' bindings take NumPy arrays and check them by argument name. This module brings torch tensors, JAX arrays
and anything else with ``__dlpack__`` there without copying, computes half-precision floats in float32, and takes the
results back. No array library but NumPy is imported here unless the caller has used it already.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

HALF_PRECISION = ("float16", "bfloat16")
# Arguments that may be left out, and those that may be numbers as well as arrays.
OPTIONAL = frozenset({"truncated", "mask", "final_values", "bootstrap", "key_mask", "key_lengths"})
COEFFICIENTS = frozenset({"gamma", "lam"})


def library_of(array: Any) -> str:
    """Name the library an array belongs to: ``"numpy"``, ``"torch"``, ``"jax"``, ..., or ``""`` for none."""
    if isinstance(array, np.ndarray):
        return "numpy"
    if is_torch(array):
        return "torch"
    if hasattr(array, "__dlpack__"):
        return type(array).__module__.partition(".")[0].replace("jaxlib", "jax")
    return ""


def is_torch(array: Any) -> bool:
    """Tell whether an array is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def dtype_name(array: Any) -> str:
    """Name an array's dtype alike in every library: ``"float32"``, ``"bfloat16"``, ``"bool"``, ..."""
    dtype = array.dtype if hasattr(array, "dtype") else np.from_dlpack(array).dtype
    return str(dtype).removeprefix("torch.")


def device_of(array: Any) -> str:
    """Name the device an array is on, ``"cpu"`` for the host's memory."""
    if isinstance(array, np.ndarray):
        return "cpu"
    if is_torch(array):
        return str(array.device)
    try:
        kind = int(array.__dlpack_device__()[0])  # 1 is kDLCPU
    except AttributeError:
        raise TypeError(
            f"{type(array).__name__} has no memory to compute on: it is being traced; call the function outside of that"
        ) from None
    return "cpu" if kind == 1 else f"a device of DLPack kind {kind}"


def is_array(value: Any) -> bool:
    """Tell an array, with or without axes, from a number."""
    if isinstance(value, int | float):
        return False  # at once, because torch.compile cannot look for an attribute of a number that it traces
    return isinstance(value, np.ndarray) or is_torch(value) or hasattr(value, "__dlpack__")


def is_traced_by_jax(values: Iterable[Any]) -> bool:
    """Tell whether there is an array among the values that stands for others, because JAX traces the call."""
    core = sys.modules.get("jax.core")
    return core is not None and any(isinstance(value, core.Tracer) for value in values)


def check_same_kind(arrays: Mapping[str, Any], *, devices: bool = True, on_cuda: bool = False) -> None:
    """Raise a TypeError unless all arrays share library and device, on the CPU.

    Parameters
    ----------
    arrays
        Arrays by argument name; the first is the one the others are compared with. None is passed over where the
        argument is optional, and so is a number where it is a coefficient.
    devices
        Look at the devices. What is being traced has none.
    on_cuda
        Torch tensors may be on a CUDA device as well.
    """
    first = next(iter(arrays))
    library, device = "", ""
    for name, array in arrays.items():
        if (array is None and name in OPTIONAL) or (name in COEFFICIENTS and not is_array(array)):
            continue
        if not is_array(array):
            if isinstance(array, np.generic):
                continue  # a NumPy number may stand for a row without axes; the binding judges it
            raise TypeError(
                f"{name} must be an array (NumPy, torch, JAX, or with __dlpack__), not {type(array).__name__}"
            )
        if name in COEFFICIENTS and getattr(array, "ndim", None) == 0:
            continue
        if not library:
            library, device = library_of(array), device_of(array) if devices else "cpu"
        if library_of(array) != library:
            raise TypeError(
                f"{name} is a {library_of(array)} array, but {first} is a {library} array; one call takes one library"
            )
        if devices and device_of(array) != device:
            raise TypeError(f"{name} is on {device_of(array)}, but {first} is on {device}; one call takes one device")
    if not library:
        raise TypeError(f"{first} must be an array (NumPy, torch, JAX, or with __dlpack__), not a number")
    if device != "cpu" and not (on_cuda and library == "torch" and device.startswith("cuda")):
        raise TypeError(f"{first} is on {device}; this function computes on the CPU, so move its arrays there first")


def check_floats_share_dtype(arrays: Mapping[str, Any]) -> None:
    """Raise a TypeError unless the floats among the arrays share the first one's dtype; numbers may have their own."""
    first = next(iter(arrays))
    for name, array in arrays.items():
        if not is_array(array) or (name in COEFFICIENTS and getattr(array, "ndim", None) == 0):
            continue
        if dtype_name(array) != dtype_name(arrays[first]):
            raise TypeError(
                f"{name} has dtype {dtype_name(array)}, but {first} has {dtype_name(arrays[first])}; "
                "the floats of one call share a dtype"
            )


def name_outputs(out: Any) -> dict[str, Any]:
    """Name the arrays of `out`, one or several of them, as errors do."""
    return (
        {f"out[{index}]": array for index, array in enumerate(out)} if isinstance(out, tuple | list) else {"out": out}
    )


def check_can_be_written(out: Any) -> None:
    """Raise a ValueError where autograd looks at a torch tensor that results are to be written to."""
    for name, array in name_outputs(out).items():
        if is_torch(array) and array.requires_grad:
            raise ValueError(f"{name} requires grad, so it cannot be written to")


def to_numpy(array: Any) -> Any:
    """View an array as NumPy's, without copying; half precision is converted to float32, what is no array passes."""
    if not is_array(array):
        return array
    if dtype_name(array) in HALF_PRECISION:
        array = array.float() if is_torch(array) else array.astype("float32")
    if isinstance(array, np.ndarray):
        return array
    if is_torch(array):
        return array.detach().resolve_neg().numpy()
    return np.from_dlpack(array)


def empty_aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Make an array that JAX takes without a copy: NumPy's own begin anywhere, JAX's at multiples of 64 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    aligned: np.ndarray = memory[start : start + size].view(dtype).reshape(shape)
    return aligned


def from_numpy(result: np.ndarray | None, like: Any) -> Any:
    """Give a result the library and the dtype of `like`, without copying unless the dtype differs; None stays."""
    if result is None:
        return None
    if isinstance(like, np.ndarray):
        return result if result.dtype == like.dtype else result.astype(like.dtype)
    if is_torch(like):
        return sys.modules["torch"].from_numpy(result).to(like.dtype)
    array = like.__array_namespace__().from_dlpack(result)
    return array if array.dtype == like.dtype else array.astype(like.dtype)


def call_on_host(
    kernel: Callable[..., Any],
    floats: Mapping[str, Any],
    flags: Mapping[str, Any],
    out: Any = None,
    **options: Any,
) -> Any:
    """Call a binding with NumPy views of anybody's arrays, and return its results in the library of the first float.

    Parameters
    ----------
    kernel
        The binding: takes NumPy arrays by argument name, returns one or a tuple of them.
    floats, flags
        Arrays by argument name; None where not given.
    out
        The caller's own array for the result, or a tuple of them, if any: passed on as ``out`` and returned.
    options
        What is passed on as it is.
    """
    arrays = {**floats, **flags}
    check_same_kind(arrays)
    check_floats_share_dtype(floats)
    like = next(iter(floats.values()))
    if not is_torch(like) and not isinstance(like, np.ndarray) and not hasattr(like, "__array_namespace__"):
        raise TypeError(
            f"{next(iter(floats))} is a {library_of(like)} array, whose library has no __array_namespace__ to give "
            "results back in; pass numpy.from_dlpack of the arrays instead"
        )
    views = {name: to_numpy(array) for name, array in arrays.items()}
    if out is not None:
        outputs = name_outputs(out)
        check_same_kind({next(iter(floats)): like, **outputs})
        if dtype_name(like) in HALF_PRECISION:
            raise TypeError(f"out cannot be given for {dtype_name(like)}, whose results are computed in float32")
        check_can_be_written(out)
        targets = [to_numpy(array) for array in outputs.values()]
        kernel(**views, **options, out=tuple(targets) if isinstance(out, tuple) else targets[0])
        if is_torch(like):
            sys.modules["torch"].autograd.graph.increment_version(tuple(outputs.values()))
        return out
    results = kernel(**views, **options)
    if isinstance(results, tuple):
        return tuple(from_numpy(result, like) for result in results)
    return from_numpy(results, like)
