"""The checks of arguments that need no memory: for torch's graphs and fake kernels, and for what JAX traces.

Everybody else's arguments are checked by the bindings, in the same words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from metafast import _arrays
from metafast.returns._estimator import FLAGS, INTEGERS, OPTIONS, Estimator

MAX_DIMENSIONS = 8  # as in the bindings


def check(estimator: Estimator, named: Mapping[str, Any], *, traced: bool = False, on_cuda: bool = False) -> None:
    """Raise what the binding of an estimator would raise.

    Parameters
    ----------
    estimator
        Whose arguments these are.
    named
        The arguments by name, without those that may be None and are.
    traced
        They have no memory, so no device.
    on_cuda
        They may be on a CUDA device.
    """
    arrays = {name: named[name] for name in ("rewards", *named) if name not in OPTIONS}
    _arrays.check_same_kind(arrays, devices=not traced, on_cuda=on_cuda)
    floats = {name: array for name, array in arrays.items() if name not in FLAGS | INTEGERS}
    _arrays.check_floats_share_dtype(floats)
    rewards = named["rewards"]
    if not _arrays.dtype_name(rewards).startswith(("float", "bfloat")):
        raise TypeError(f"rewards has dtype {_arrays.dtype_name(rewards)}; expected a float dtype")
    _check_options(named)
    shape = tuple(rewards.shape)
    if "time_axis" in named:
        time_axis = named["time_axis"]
        if time_axis not in (0, 1):
            raise ValueError(f"time_axis must be 0 or 1, not {time_axis}")
        if len(shape) <= time_axis:
            raise ValueError(f"rewards has shape {shape}, which has no axis {time_axis} for time")
        if len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"rewards has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are taken")
        row = shape[:time_axis] + shape[time_axis + 1 :]
        like_row = f"the shape of rewards without its time axis {time_axis}"
    elif len(shape) != 1:
        raise ValueError(f"rewards has shape {shape}, expected one axis")
    # Of every array: its shape, the expected one, and what that is.
    for name, array in arrays.items():
        if name in _arrays.COEFFICIENTS:
            _check_coefficient(name, array, shape)
        elif name in ("lengths", "last_values"):
            segments = tuple(named["lengths"].shape)
            if len(segments) != 1:
                raise ValueError(f"lengths has shape {segments}, expected one axis")
            _expect(name, array, segments, "the shape of lengths")
        elif name == "bootstrap" or (name == "next_values" and "values" in named and array.ndim != len(shape)):
            _expect(name, array, row, like_row)
        else:
            _expect(name, array, shape, "the shape of rewards")
        if name in INTEGERS and not _arrays.dtype_name(array).startswith(("int", "uint")):
            raise TypeError(f"{name} has dtype {_arrays.dtype_name(array)}; expected integers")
    if estimator.name == "segment_returns" and ("values" in named) != ("lam" in named):
        given, missing = ("values", "lam") if "values" in named else ("lam", "values")
        raise ValueError(f"{missing} is missing: {given} is given, and advantages need both")


def _check_options(named: Mapping[str, Any]) -> None:
    n = named.get("n", 1)
    if isinstance(n, bool | np.bool_) or not isinstance(n, int | np.integer):
        raise TypeError(f"n must be an integer, not {n!r}")
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    if named.get("kind", "grpo") not in ("grpo", "rloo"):
        raise ValueError(f"kind must be 'grpo' or 'rloo', not {named['kind']!r}")
    for name in ("clip_rho", "clip_c", "clip_pg_rho"):
        clip = named.get(name, 1.0)
        if isinstance(clip, bool) or not isinstance(clip, int | float | np.number):
            raise TypeError(f"{name} must be a number, not {clip!r}")
        if math.isnan(clip) or clip <= 0:
            raise ValueError(f"{name} must be positive, not {clip}")


def _check_coefficient(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if not _arrays.is_array(value):
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
            raise TypeError(f"{name} must be a number or an array that broadcasts to rewards, not {value!r}")
        return
    own = tuple(value.shape)
    if len(own) > len(shape) or any(
        size not in (1, target) for size, target in zip(reversed(own), reversed(shape), strict=False)
    ):
        raise ValueError(f"{name} has shape {own}, which does not broadcast to {shape}, the shape of rewards")


def _expect(name: str, array: Any, shape: tuple[int, ...], meaning: str) -> None:
    if tuple(array.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(array.shape)}, expected {shape}, {meaning}")
