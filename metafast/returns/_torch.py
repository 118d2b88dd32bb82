"""The return estimators in torch's graphs: gradients, torch.compile, torch.func.

One operation is registered, ``metafast::affine_scan``, the recurrence that every estimator reduces to. Its adjoint is
the same recurrence run the other way (Blelloch 1990, section 1.4), so its gradient, and the gradient of that, are calls
of itself. Around it an estimator is a few elementwise torch operations, through which autograd finds the rest. Calls
that need no graph do not come here: they run the fused kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafast import _arrays, _core
from metafast._torch_calls import HALF_PRECISION, quick

MAX_DIMENSIONS = 8  # as in the bindings

_library = torch.library.Library("metafast", "FRAGMENT")
# result_t = offsets_t + decays_t * result_{t+1}, or result_{t-1} with `forwards`; a decay of 0 cuts.
_library.define("affine_scan(Tensor offsets, Tensor decays, int time_axis, bool forwards) -> Tensor")


@torch.library.impl("metafast::affine_scan", "CPU", lib=_library)
def _affine_scan_cpu(offsets: Tensor, decays: Tensor, time_axis: int, forwards: bool) -> Tensor:
    result = _core.affine_scan(offsets.detach().numpy(), decays.detach().numpy(), time_axis, forwards)
    return torch.from_numpy(result).contiguous()


@torch.library.register_fake("metafast::affine_scan", lib=_library)
def _affine_scan_fake(offsets: Tensor, decays: Tensor, time_axis: int, forwards: bool) -> Tensor:
    torch._check(offsets.shape == decays.shape)
    torch._check(offsets.device == decays.device)
    return torch.empty_like(offsets, memory_format=torch.contiguous_format)


@quick
class _AffineScan(torch.autograd.Function):
    """The registered operation with its gradient, in the form that torch.func's transforms can see through."""

    @staticmethod
    def forward(offsets: Tensor, decays: Tensor, time_axis: int, forwards: bool) -> Tensor:
        result: Tensor = torch.ops.metafast.affine_scan(offsets, decays, time_axis, forwards)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, decays, ctx.time_axis, ctx.forwards = inputs
        ctx.save_for_backward(decays, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        decays, output = ctx.saved_tensors
        # What a step passes on comes back to it: lambda_t = g_t + decay_{t-1} lambda_{t-1}.
        shifted = _shift(decays, ctx.time_axis, not ctx.forwards)
        adjoint = _scan(gradient, shifted, ctx.time_axis, not ctx.forwards)
        of_decays = adjoint * _shift(output, ctx.time_axis, ctx.forwards) if ctx.needs_input_grad[1] else None
        return adjoint, of_decays, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], offsets: Tensor, decays: Tensor, time_axis: int, forwards: bool
    ) -> tuple[Tensor, int]:
        # One more trailing axis is one more batch axis.
        offsets, decays = (
            tensor.movedim(dim, -1) if dim is not None else tensor.unsqueeze(-1).expand(*tensor.shape, info.batch_size)
            for tensor, dim in zip((offsets, decays), in_dims[:2], strict=True)
        )
        result = _scan(offsets, decays, time_axis, forwards)
        return result, result.ndim - 1


@quick
class _ForwardModeAffineScan(_AffineScan):
    """The same with tangents: apart, because torch.compile takes no function that defines them."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _AffineScan.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[1], output)

    @staticmethod
    def jvp(ctx: Any, offsets: Tensor | None, decays: Tensor | None, *_: None) -> Tensor:
        saved_decays, output = ctx.saved_tensors
        tangent = torch.zeros_like(output) if offsets is None else offsets
        if decays is not None:
            tangent = tangent + decays * _shift(output, ctx.time_axis, ctx.forwards)
        return _scan(tangent, saved_decays, ctx.time_axis, ctx.forwards)


def _scan(offsets: Tensor, decays: Tensor, time_axis: int, forwards: bool = False) -> Tensor:
    function = _AffineScan if torch.compiler.is_compiling() else _ForwardModeAffineScan
    result: Tensor = function.apply(offsets, decays, time_axis, forwards)  # type: ignore[no-untyped-call]
    return result


def _shift(tensor: Tensor, time_axis: int, later: bool) -> Tensor:
    """Move every element one step later (or earlier) in time, zeros coming in."""
    length = tensor.shape[time_axis]
    gap = torch.zeros_like(tensor.narrow(time_axis, 0, min(length, 1)))
    if later:
        return torch.cat([gap, tensor.narrow(time_axis, 0, max(length - 1, 0))], time_axis)
    return torch.cat([tensor.narrow(time_axis, min(length, 1), max(length - 1, 0)), gap], time_axis)


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    gamma: Tensor | float,
    lam: Tensor | float,
    final_values: Tensor | None,
    mask: Tensor | None,
    time_axis: int,
) -> tuple[Tensor, Tensor]:
    """Compute :func:`metafast.gae` as torch operations around the registered scan."""
    floats = {"rewards": rewards, "values": values, "final_values": final_values}
    bootstrapped = _check(floats, {"next_values": next_values}, (terminated, truncated, mask), time_axis)
    dtype = rewards.dtype
    rewards, values, next_values, final_values = (
        _computable(tensor) for tensor in (rewards, values, next_values, final_values)
    )
    gamma, lam = _coefficient("gamma", gamma, rewards), _coefficient("lam", lam, rewards)
    ends = terminated != 0
    cuts = ends if truncated is None else ends | (truncated != 0)
    if bootstrapped:
        successors = _successors(values, next_values, mask, time_axis)
        if truncated is not None and final_values is not None:
            successors = torch.where(truncated != 0, final_values, successors)
        elif truncated is not None:
            _require_final_values(cuts & ~ends, mask, time_axis)
    else:
        successors = next_values
    # Select before multiplying, so that neither a value nor a gradient is NaN * 0.
    zero = rewards.new_zeros(())
    successors = torch.where(ends, zero, successors)
    decays = torch.where(cuts, zero, gamma * lam)
    if mask is not None:
        taken = mask != 0
        rewards, values, successors = (torch.where(taken, x, zero) for x in (rewards, values, successors))
        decays = torch.where(taken, decays, zero + 1)
    advantages = _scan(rewards + gamma * successors - values, decays.expand_as(rewards), time_axis)
    if mask is not None:
        advantages = torch.where(taken, advantages, zero)
    return advantages.to(dtype), (advantages + values).to(dtype)


def discounted_returns(
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    gamma: Tensor | float,
    bootstrap: Tensor | None,
    final_values: Tensor | None,
    time_axis: int,
) -> Tensor:
    """Compute :func:`metafast.discounted_returns` as torch operations around the registered scan."""
    floats = {"rewards": rewards, "final_values": final_values}
    _check(floats, {"bootstrap": bootstrap}, (terminated, truncated, None), time_axis)
    dtype = rewards.dtype
    rewards, bootstrap, final_values = (_computable(tensor) for tensor in (rewards, bootstrap, final_values))
    gamma = _coefficient("gamma", gamma, rewards)
    ends = terminated != 0
    cuts = ends if truncated is None else ends | (truncated != 0)
    zero = rewards.new_zeros(())
    rest = zero.expand_as(rewards)
    if truncated is not None and final_values is not None:
        rest = torch.where(cuts & ~ends, final_values, zero)
    length = rewards.shape[time_axis]
    if bootstrap is not None and length > 0:
        last = torch.where(cuts.select(time_axis, -1), rest.select(time_axis, -1), bootstrap)
        rest = torch.cat([rest.narrow(time_axis, 0, length - 1), last.unsqueeze(time_axis)], time_axis)
    decays = torch.where(cuts, zero, gamma)
    return _scan(rewards + gamma * rest, decays.expand_as(rewards), time_axis).to(dtype)


def _coefficient(name: str, value: Any, rewards: Tensor) -> Tensor:
    """A number, or a tensor that broadcasts to the rewards, as a tensor that is computed with."""
    if isinstance(value, Tensor) and not (
        value.ndim and value.dtype.is_floating_point and rewards.dtype != value.dtype
    ):
        if _broadcasts(value.shape, rewards.shape):
            return value.to(rewards.dtype)
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, which does not broadcast to {tuple(rewards.shape)}, "
            "the shape of rewards"
        )
    if isinstance(value, int | float | np.number | np.ndarray) and not isinstance(value, bool):
        return rewards.new_full((), float(value))
    raise TypeError(f"{name} must be a number or a tensor of the dtype of rewards, not {value!r}")


def _computable(tensor: Tensor | None) -> Any:
    return tensor.float() if tensor is not None and tensor.dtype in HALF_PRECISION else tensor


def _successors(values: Tensor, bootstrap: Tensor, mask: Tensor | None, time_axis: int) -> Tensor:
    """V(s_{t+1}) of every step: the next value in time, or the next whose mask is 1."""
    length = values.shape[time_axis]
    if length == 0:
        return values
    later = torch.cat([values.narrow(time_axis, 1, length - 1), bootstrap.unsqueeze(time_axis)], time_axis)
    if mask is None:
        return later
    always = torch.ones_like(bootstrap, dtype=torch.bool)
    taken = torch.cat([(mask != 0).narrow(time_axis, 1, length - 1), always.unsqueeze(time_axis)], time_axis)
    zero = values.new_zeros(())
    return _scan(torch.where(taken, later, zero), torch.where(taken, zero, zero + 1), time_axis)


def _require_final_values(truncated: Tensor, mask: Tensor | None, time_axis: int) -> None:
    taken = torch.ones_like(truncated) if mask is None else mask != 0
    # The bootstrap is the successor of the last step, which under a mask is the last whose mask is 1.
    followed = taken.flip(time_axis).cumsum(time_axis).flip(time_axis) > taken.long()
    missing = (truncated & taken & followed).any()
    message = (
        "final_values is missing: truncated is set at a step before the last, and next_values holds only the values "
        "after the last step; pass final_values, or next_values in the full shape of rewards"
    )
    if torch.compiler.is_compiling():
        torch._assert_async(~missing, message)
        return
    while torch._C._functorch.is_functorch_wrapped_tensor(missing):
        missing = torch._C._functorch.get_unwrapped(missing)
    if missing.any():
        raise ValueError(message)


def _check(
    floats: dict[str, Tensor | None],
    row: dict[str, Tensor | None],
    flags: tuple[Tensor, Tensor | None, Tensor | None],
    time_axis: int,
) -> bool:
    """Check what broadcasting would hide; returns whether the array in `row` lacks the time axis."""
    named_flags = dict(zip(("terminated", "truncated", "mask"), flags, strict=True))
    _arrays.check_same_kind({**floats, **row, **named_flags})
    _arrays.check_floats_share_dtype({**floats, **row})
    rewards = floats["rewards"]
    assert rewards is not None
    if not rewards.dtype.is_floating_point:
        raise TypeError(f"rewards has dtype {_arrays.dtype_name(rewards)}; expected a float dtype")
    if time_axis not in (0, 1):
        raise ValueError(f"time_axis must be 0 or 1, not {time_axis}")
    if rewards.ndim <= time_axis:
        raise ValueError(f"rewards has shape {tuple(rewards.shape)}, which has no axis {time_axis} for time")
    if rewards.ndim > MAX_DIMENSIONS:
        raise ValueError(f"rewards has {rewards.ndim} dimensions; at most {MAX_DIMENSIONS} are taken")
    shape = rewards.shape
    for name, tensor in {**floats, **named_flags}.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}, the shape of rewards")
    row_shape = shape[:time_axis] + shape[time_axis + 1 :]
    for name, tensor in row.items():
        if tensor is None or (tensor.shape == shape and name == "next_values"):
            continue
        if tensor.shape != row_shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected {tuple(row_shape)}, the shape of rewards without "
                f"its time axis {time_axis}"
            )
        return True
    return False


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(
        size in (1, target) for size, target in zip(reversed(shape), reversed(to), strict=False)
    )
