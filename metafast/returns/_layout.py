"""How the tensors of a sequence problem lie in memory: their axes as an outer, a time and an inner one.

As csrc/bindings/sequence_arrays.cpp does it for the CPU, but for arrays of any strides.
"""

from __future__ import annotations

import math

from torch import Tensor

from metafast import _device

Steps = tuple[int, int, int]  # the strides of the outer, the time and the inner axis, in elements


class Layout:
    """The extents of a problem, taken from its rewards, and where arrays of that shape have their elements.

    Axes before time are the outer, axes after it the inner ones. Where there are only outer axes, they count as inner.
    """

    def __init__(self, leading: Tensor, time_axis: int) -> None:
        self.leading = leading
        self.shape = tuple(leading.shape)
        self.time_axis = time_axis
        before, after = self.shape[:time_axis], self.shape[time_axis + 1 :]
        outer, inner = math.prod(before), math.prod(after)
        self.has_one_batch = outer == 1 or inner == 1
        if self.has_one_batch:
            outer, inner = 1, outer * inner
        self.extents = (outer, self.shape[time_axis], inner)
        self._strides = leading.stride()
        self._steps = self._steps_of(self._strides)

    def view(self, tensor: Tensor) -> tuple[Tensor, Steps]:
        """Give the strides of a tensor of the rewards' shape: of a copy, where its own do not make three axes."""
        strides = tensor.stride()
        steps = self._steps if strides == self._strides else self._steps_of(strides)
        if steps is not None:
            return tensor, steps
        return self.view(tensor.contiguous())

    def row(self, tensor: Tensor) -> tuple[Tensor, Steps]:
        """Give the strides of a tensor that has the rewards' shape without the time axis."""
        strides = tensor.stride()
        steps = self._steps_of((*strides[: self.time_axis], 0, *strides[self.time_axis :]))
        if steps is not None:
            return tensor, steps
        return self.row(tensor.contiguous())

    def takes(self, tensor: Tensor) -> bool:
        """Tell whether a tensor of the rewards' shape needs no copy."""
        return self._steps_of(tensor.stride()) is not None

    def empty(self, name: str) -> Tensor:
        """Allocate a tensor that lies in memory as the rewards do."""
        time_last = self.time_axis == 1
        if self.has_one_batch and self._steps is not None:
            _, of_time, of_columns = self._steps
            time_last = of_columns != 1 and (of_time == 1 or time_last)
        result: Tensor
        if time_last == (self.time_axis == 1) or not self.has_one_batch:
            result = _device.empty(name, self.shape, self.leading)
        elif time_last:
            result = _device.empty(name, (*self.shape[1:], self.shape[0]), self.leading).movedim(-1, 0)
        else:
            result = _device.empty(name, (self.shape[1], self.shape[0], *self.shape[2:]), self.leading).movedim(0, 1)
        return result

    def _steps_of(self, strides: tuple[int, ...]) -> Steps | None:
        if 0 in self.extents:
            return (0, 0, 0)
        before = self._group(strides, 0, self.time_axis)
        after = self._group(strides, self.time_axis + 1, len(strides))
        if before is None or after is None:
            return None
        time = strides[self.time_axis]
        # Of a single batch one of the two has no axis of more than one element, and stride 0.
        return (0, time, before + after) if self.has_one_batch else (before, time, after)

    def _group(self, strides: tuple[int, ...], begin: int, end: int) -> int | None:
        """Find the one stride that walks the axes from `begin` to `end` as if they were one."""
        stride, following = 0, None
        for axis in range(end - 1, begin - 1, -1):
            size = self.shape[axis]
            if size == 1:
                continue
            if following is None:
                stride = strides[axis]
            elif strides[axis] != following:
                return None
            following = strides[axis] * size
        return stride
