"""The checks of calls on CUDA tensors: in the words of every other call, but quick where all is well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafast import _arrays
from metafast.returns._checks import check
from metafast.returns._estimator import FLAGS, Estimator

DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def check_arguments(estimator: Estimator, named: Mapping[str, Any]) -> None:
    """Raise what the estimator's binding would raise for such arguments on the CPU."""
    rewards = named["rewards"]
    if not _are_ordinary(estimator, named, rewards):
        check(estimator, {k: v for k, v in named.items() if v is not None or k not in estimator.optional}, on_cuda=True)
    if rewards.dtype not in DTYPES:
        raise TypeError(f"rewards has dtype {_arrays.dtype_name(rewards)}; expected float32, float64 or half precision")


def check_out(estimator: Estimator, named: Mapping[str, Any], out: Any) -> None:
    """Raise where the caller's tensors for the results cannot be written to."""
    rewards = named["rewards"]
    if estimator.results:
        expected = f"out must be a pair of arrays ({', '.join(estimator.results)}), not "
        if not isinstance(out, tuple | list):
            raise TypeError(expected + type(out).__name__)
        if len(out) != len(estimator.results):
            raise ValueError(f"{expected}{len(out)} of them")
    outputs = _arrays.name_outputs(out) if estimator.results else {"out": out}
    _arrays.check_same_kind({"rewards": rewards, **outputs}, on_cuda=True)
    _arrays.check_floats_share_dtype({"rewards": rewards, **outputs})
    _arrays.check_can_be_written(out)
    taken = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    for name, output in outputs.items():
        if output.shape != rewards.shape:
            expected = f"{tuple(rewards.shape)}, the shape of rewards"
            raise ValueError(f"{name} has shape {tuple(output.shape)}, expected {expected}")
        for other_name, other in taken.items():
            if _overlap(output, other):
                raise ValueError(f"{name} shares memory with {other_name}; results need memory of their own")
        taken[name] = output


def _are_ordinary(estimator: Estimator, named: Mapping[str, Any], rewards: Tensor) -> bool:
    """Tell whether every argument has the commonest of its right forms, of which there is nothing to say."""
    if not isinstance(rewards, Tensor) or "time_axis" not in named or not rewards.is_floating_point():
        return False
    shape, dtype, device = rewards.shape, rewards.dtype, rewards.device
    for name, value in named.items():
        if isinstance(value, Tensor):
            if value.device != device or (value.dtype != dtype and name not in FLAGS):
                return False
            if value.shape != shape and not (
                name in ("next_values", "bootstrap")
                and (name == "bootstrap" or "values" in named)
                and value.shape == shape[: named["time_axis"]] + shape[named["time_axis"] + 1 :]
            ):
                return False
        elif name == "time_axis":
            if type(value) is not int or not 0 <= value <= 1 or value >= len(shape):
                return False
        elif not (type(value) is float and name in _arrays.COEFFICIENTS) and not (
            value is None and name in estimator.optional
        ):
            return False
    return True


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors share memory, of which only the addresses are looked at."""
    return bool(np.shares_memory(np.asarray(_Memory(one)), np.asarray(_Memory(other))))


class _Memory:
    def __init__(self, tensor: Tensor) -> None:
        size = tensor.element_size()
        self.__array_interface__ = {
            "version": 3,
            "typestr": f"|V{size}",
            "shape": tuple(tensor.shape),
            "strides": tuple(size * stride for stride in tensor.stride()),
            "data": (tensor.data_ptr(), True),
        }
