"""The one place where arrays of any library become NumPy views, and results become arrays of the caller's library.

The kernels' bindings take NumPy arrays and check them by argument name. This module brings torch tensors, JAX arrays
and anything else with ``__dlpack__`` there without copying, computes half-precision floats in float32, and takes the
results back. No array library but NumPy is imported here unless the caller has used it already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

HALF_PRECISION = ("float16", "bfloat16")


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
    return str(array.dtype).removeprefix("torch.")


def device_of(array: Any) -> str:
    """Name the device an array is on, ``"cpu"`` for the host's memory."""
    device = getattr(array, "device", "cpu")
    device = getattr(device, "platform", device)  # a JAX device prints its number, its platform is what counts
    return str(device)


def is_array(value: Any) -> bool:
    """Tell an array from a number: a coefficient such as gamma may be either."""
    return isinstance(value, np.ndarray) or hasattr(value, "__dlpack__")


def check_same_kind(arrays: Mapping[str, Any]) -> None:
    """Raise a TypeError unless all arrays share library and device, on the CPU.

    Parameters
    ----------
    arrays
        Arrays by argument name; the first is the one the others are compared with. None and numbers are passed over.
    """
    names = [name for name, array in arrays.items() if array is not None]
    first = names[0]
    library, device = library_of(arrays[first]), device_of(arrays[first])
    for name in names:
        array = arrays[name]
        other = library_of(array)
        if not other:
            if name in ("gamma", "lam"):
                continue
            raise TypeError(
                f"{name} must be an array (NumPy, torch, JAX, or with __dlpack__), not {type(array).__name__}"
            )
        if name in ("gamma", "lam") and array.ndim == 0:
            continue
        if other != library:
            raise TypeError(f"{name} is a {other} array, but {first} is a {library} array; one call takes one library")
        if device_of(array) != device:
            raise TypeError(f"{name} is on {device_of(array)}, but {first} is on {device}; one call takes one device")
    if device != "cpu":
        raise TypeError(f"{first} is on {device}; this function computes on the CPU, so move its arrays there first")


def check_floats_share_dtype(arrays: Mapping[str, Any]) -> None:
    """Raise a TypeError unless the floats among the arrays (None and 0-d arrays aside) share the first one's dtype."""
    names = [name for name, array in arrays.items() if is_array(array) and array.ndim > 0]
    first = names[0]
    for name in names:
        if dtype_name(arrays[name]) != dtype_name(arrays[first]):
            raise TypeError(
                f"{name} has dtype {dtype_name(arrays[name])}, but {first} has {dtype_name(arrays[first])}; "
                "the floats of one call share a dtype"
            )


def to_numpy(array: Any) -> Any:
    """View an array as NumPy's, without copying; half precision is converted to float32, what is no array passes."""
    if not is_array(array):
        return array
    if dtype_name(array) in HALF_PRECISION:
        array = array.float() if is_torch(array) else array.astype("float32")
    if isinstance(array, np.ndarray):
        return array
    if is_torch(array):
        return array.detach().numpy()
    return np.from_dlpack(array)


def from_numpy(result: np.ndarray, like: Any) -> Any:
    """Give a result the library and the dtype of `like`, without copying unless the dtype differs."""
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
    out: tuple[Any, ...] = (),
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
        The caller's own arrays for the results, if any: passed on as ``out`` and returned.
    options
        What is passed on as it is.
    """
    arrays = {**floats, **flags}
    check_same_kind(arrays)
    check_floats_share_dtype(floats)
    like = next(iter(floats.values()))
    views = {name: to_numpy(array) for name, array in arrays.items()}
    if out:
        outputs = {f"out[{index}]": array for index, array in enumerate(out)}
        check_same_kind({next(iter(floats)): like, **outputs})
        if dtype_name(like) in HALF_PRECISION:
            raise TypeError(f"out cannot be given for {dtype_name(like)}, whose results are computed in float32")
        kernel(**views, **options, out=tuple(to_numpy(array) for array in out))
        return tuple(out)
    results = kernel(**views, **options)
    if isinstance(results, tuple):
        return tuple(from_numpy(result, like) for result in results)
    return from_numpy(results, like)
