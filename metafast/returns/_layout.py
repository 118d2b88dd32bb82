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
        if steps is None:
            tensor = tensor.contiguous()
            steps = self._steps_of(tensor.stride())
            assert steps is not None
        return tensor, steps

    def row(self, tensor: Tensor) -> tuple[Tensor, Steps]:
        """Give the strides of a tensor that has the rewards' shape without the time axis."""
        return self.view(tensor.unsqueeze(self.time_axis).expand(self.shape))

    def empty(self, name: str) -> Tensor:
        """Allocate a tensor that lies in memory as the rewards do."""
        batch = self.shape[: self.time_axis] + self.shape[self.time_axis + 1 :]
        length = self.shape[self.time_axis]
        time_last = self.time_axis == 1
        if self.has_one_batch and self._steps is not None and length > 1 and self.extents[2] > 1:
            _, of_time, of_columns = self._steps
            time_last = of_columns != 1 and (of_time == 1 or time_last)
        elif not self.has_one_batch:
            return _device.empty(name, self.shape, self.leading)  # type: ignore[no-any-return]
        if time_last:
            made = _device.empty(name, (*batch, length), self.leading).movedim(-1, self.time_axis)
        else:
            made = _device.empty(name, (length, *batch), self.leading).movedim(0, self.time_axis)
        result: Tensor = made
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
