"""Where time is in torchrl's tensors, and the way from there to the kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Time", "check_shapes", "is_each"]


class Time(NamedTuple):
    """Where time is in the caller's tensors, and the way to the kernels, which take it as the first or second axis."""

    shape: torch.Size
    position: int

    @classmethod
    def of(cls, reward: Tensor, time_dim: int) -> Time:
        if not -reward.ndim <= time_dim < reward.ndim:
            raise RuntimeError(f"time_dim is {time_dim}, but reward has shape {tuple(reward.shape)}")
        return cls(reward.shape, time_dim % reward.ndim)

    @property
    def axis(self) -> int:
        return min(self.position, 1)

    def fold(self, tensor: Tensor) -> Tensor:
        """Make one axis of those ahead of time."""
        return tensor.flatten(0, self.position - 1) if self.position > 1 else tensor

    def floats(self, *tensors: Tensor) -> list[Tensor]:
        """Fold tensors, and give them the dtype that they would be added up in."""
        dtype = tensors[0].dtype
        for tensor in tensors[1:]:
            dtype = torch.promote_types(dtype, tensor.dtype)
        return [self.fold(tensor).to(dtype) for tensor in tensors]

    def ends(self, done: Tensor, terminated: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The kernels' `terminated` and `truncated`, of which the latter may repeat the former."""
        return (self.fold(done), None) if terminated is None else (self.fold(terminated), self.fold(done))

    def coefficient(self, value: float | Tensor, like: Tensor) -> Any:
        """Fold a coefficient of many elements; tensors get the dtype of what they are multiplied with."""
        if not isinstance(value, Tensor):
            return value
        value = value.to(like.dtype)
        return value.reshape(()) if value.numel() == 1 else self.fold(value.expand(self.shape))

    def back(self, tensor: Tensor, *like: Tensor) -> Tensor:
        """Give a result the caller's shape, and the dtype of a sum of the tensors in `like`."""
        dtype = like[0].dtype if len(like) == 1 else torch.promote_types(like[0].dtype, like[1].dtype)
        return tensor.reshape(self.shape).to(dtype)


def check_shapes(reward: Tensor, **tensors: Tensor | None) -> None:
    """Raise a RuntimeError, as torchrl does, unless all tensors that are given have the shape of the rewards."""
    for tensor in tensors.values():
        if tensor is not None and tensor.shape != reward.shape:
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
            raise RuntimeError(
                f"reward has shape {tuple(reward.shape)}, but the others have {shapes}; expected one shape"
            )


def is_each(value: Any, done: Tensor) -> bool:
    """Tell a tensor with a number for each step."""
    return isinstance(value, Tensor) and value.shape == done.shape
