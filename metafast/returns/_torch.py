"""The return estimators in torch's graphs: gradients, torch.compile, torch.func.

For those that have gradients one operation is registered, ``metafast::affine_scan``, the recurrence that they all
reduce to. Its adjoint is the same recurrence run the other way (Blelloch 1990, section 1.4), so its gradient, and the
gradient of that, are calls of itself. Around it an estimator is a few elementwise torch operations, through which
autograd finds the rest. Those whose results are constants are registered whole. Calls that need no graph do not come
here: they run the fused kernel.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from metafast import _arrays, _core, _device
from metafast._torch_calls import HALF_PRECISION, quick
from metafast.returns import _batching, _cuda, _graphs
from metafast.returns._checks import check
from metafast.returns._estimator import ESTIMATORS, FLAGS, INTEGERS, OPTIONS, Estimator

_library = torch.library.Library("metafast", "FRAGMENT")
# result_t = offsets_t + decays_t * result_{t+1}, or result_{t-1} with `forwards`; a decay of 0 cuts.
_library.define("affine_scan(Tensor offsets, Tensor decays, int time_axis, bool forwards) -> Tensor")


def _solve_affine_scan(offsets: Tensor, decays: Tensor, time_axis: int, forwards: bool) -> Tensor:
    if _device.is_on_device(offsets):
        return _cuda.affine_scan(offsets.detach(), decays.detach(), time_axis, forwards)
    result = _core.affine_scan(offsets.detach().numpy(), decays.detach().numpy(), time_axis, forwards)
    return torch.from_numpy(result).contiguous()


for _key in ("CPU", "CUDA"):
    torch.library.impl("metafast::affine_scan", _key, lib=_library)(_solve_affine_scan)


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
        step = 1 if ctx.forwards else -1
        shifted = _graphs.earlier(torch, decays, step, ctx.time_axis)
        adjoint = _scan(gradient, shifted, ctx.time_axis, not ctx.forwards)
        of_decays = None
        if ctx.needs_input_grad[1]:
            of_decays = adjoint * _graphs.earlier(torch, output, -step, ctx.time_axis)
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
            behind = _graphs.earlier(torch, output, -1 if ctx.forwards else 1, ctx.time_axis)
            tangent = tangent + decays * behind
        return _scan(tangent, saved_decays, ctx.time_axis, ctx.forwards)


def _scan(offsets: Tensor, decays: Tensor, time_axis: int, forwards: bool = False) -> Tensor:
    function = _AffineScan if torch.compiler.is_compiling() else _ForwardModeAffineScan
    result: Tensor = function.apply(offsets, decays, time_axis, forwards)  # type: ignore[no-untyped-call]
    return result


# What an argument is in the schema of a registered estimator; floats and flags are tensors.
_SCHEMA_TYPES = {"time_axis": "int", "kind": "str", **dict.fromkeys(("clip_rho", "clip_c", "clip_pg_rho"), "float")}


def _register(estimator: Estimator) -> None:
    """Register an estimator whose results are constants as an operation of its own name."""

    def evaluate(*arguments: Any) -> Any:
        if _device.is_on_device(arguments[0]):
            results = _cuda.call(estimator, arguments)
            if estimator.results:
                return tuple(result.contiguous() for result in results)
            return results.contiguous()
        views = [
            (argument.item() if name in _arrays.COEFFICIENTS and argument.ndim == 0 else argument.detach().numpy())
            if isinstance(argument, Tensor)
            else argument
            for name, argument in zip(estimator.arguments, arguments, strict=True)
        ]
        results = estimator.kernel(*views)
        if estimator.results:
            return tuple(torch.from_numpy(result).contiguous() for result in results)
        return torch.from_numpy(results).contiguous()

    def fake(*arguments: Any) -> Any:
        named = estimator.named(arguments)
        check(estimator, named, on_cuda=True)
        results = [
            torch.empty_like(named["rewards"], memory_format=torch.contiguous_format)
            for _ in estimator.results or ("result",)
        ]
        return tuple(results) if estimator.results else results[0]

    optional = estimator.optional
    arguments = ", ".join(
        f"{_SCHEMA_TYPES.get(name, 'Tensor')}{'?' if name in optional else ''} {name}" for name in estimator.arguments
    )
    result = f"({', '.join('Tensor ' + name for name in estimator.results)})" if estimator.results else "Tensor"
    _library.define(f"{estimator.name}({arguments}) -> {result}")
    for key in ("CPU", "CUDA"):
        torch.library.impl(f"metafast::{estimator.name}", key, lib=_library)(evaluate)
    torch.library.register_fake(f"metafast::{estimator.name}", lib=_library)(fake)


for _estimator in ESTIMATORS:
    if _estimator.constant:
        _register(_estimator)


@quick
class _Constant(torch.autograd.Function):
    """A registered estimator whose results are constants, in the form that torch.func's transforms can see through."""

    @staticmethod
    def forward(estimator: Estimator, *arguments: Any) -> Any:
        return getattr(torch.ops.metafast, estimator.name)(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.num_results = len(output) if isinstance(output, tuple) else None
        ctx.mark_non_differentiable(*(output if isinstance(output, tuple) else (output,)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        return None if ctx.num_results is None else (None,) * ctx.num_results

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], estimator: Estimator, *arguments: Any) -> Any:
        batched = [
            argument
            if not isinstance(argument, Tensor)
            else argument.unsqueeze(0)
            if dim is None
            else argument.movedim(dim, 0)
            for argument, dim in zip(arguments, in_dims[1:], strict=True)
        ]
        call = functools.partial(_Constant.apply, estimator)
        leading = batched[estimator.arguments.index(estimator.leading)]
        shape = (info.batch_size, *leading.shape[1:])
        if _batching.has_room_for_a_batch(estimator):
            results = call(*_batching.fold(torch, estimator, batched, info.batch_size))
        else:
            entries = _batching.entries(batched, info.batch_size)
            results = torch.cat([leading.new_empty(0), *(call(*entry) for entry in entries)])
        if isinstance(results, tuple):
            return tuple(result.reshape(shape) for result in results), (0,) * len(results)
        return results.reshape(shape), 0


def call(estimator: Estimator, arguments: tuple[Any, ...]) -> Any:
    """Call an estimator as torch operations.

    Parameters
    ----------
    estimator
        Which one.
    arguments
        Those of its binding, in its order, without ``out``.
    """
    named = estimator.named(arguments)
    check(estimator, named, on_cuda=True)
    dtype = named["rewards"].dtype
    prepared = {name: _prepared(name, value, named["rewards"]) for name, value in named.items()}
    if estimator.constant:
        ordered = [prepared.get(name) for name in estimator.arguments]
        if torch.compiler.is_compiling():
            # torch.compile takes no function that defines tangents; what it is given has none.
            ordered = [value.detach() if isinstance(value, Tensor) else value for value in ordered]
            results = getattr(torch.ops.metafast, estimator.name)(*ordered)
        else:
            results = _Constant.apply(estimator, *ordered)  # type: ignore[no-untyped-call]
    else:
        _require_what_only_memory_tells(prepared)
        results = getattr(_graphs, estimator.name)(torch, _scan, **prepared)
    return tuple(result.to(dtype) for result in results) if isinstance(results, tuple) else results.to(dtype)


def _prepared(name: str, value: Any, rewards: Tensor) -> Any:
    if name in OPTIONS:
        return float(value) if name.startswith("clip_") else value
    if name in FLAGS:
        return value != 0
    if name in INTEGERS:
        return value.long()
    dtype = torch.float32 if rewards.dtype in HALF_PRECISION else rewards.dtype
    if name in _arrays.COEFFICIENTS:
        if isinstance(value, Tensor):
            return value.to(rewards.device, dtype)
        return rewards.new_full((), float(value), dtype=dtype)
    return value.to(dtype)


def _require_what_only_memory_tells(prepared: dict[str, Any]) -> None:
    rewards, truncated, lengths = prepared["rewards"], prepared.get("truncated"), prepared.get("lengths")
    bootstrapped = "values" in prepared and prepared.get("next_values", rewards).ndim != rewards.ndim
    if bootstrapped and truncated is not None and "final_values" not in prepared:
        require_final_values(truncated & ~prepared["terminated"], prepared.get("mask"), prepared["time_axis"])
    if lengths is not None:
        require_lengths(lengths, rewards.shape[0])


def require_lengths(lengths: Tensor, steps: int) -> None:
    """Raise a ValueError unless the lengths of segments make up so many steps."""
    message = f"lengths must be 0 or more each and sum to {steps}, the number of rewards"
    _require((lengths >= 0).all() & (lengths.sum() == steps), message)


def require_final_values(truncated: Tensor, mask: Tensor | None, time_axis: int) -> None:
    """Raise a ValueError where a truncated step that did not terminate is followed by another."""
    taken = torch.ones_like(truncated) if mask is None else mask
    # The bootstrap is the successor of the last step, which under a mask is the last whose mask is 1.
    followed = taken.flip(time_axis).cumsum(time_axis).flip(time_axis) > taken.long()
    _require(
        ~(truncated & taken & followed).any(),
        "final_values is missing: truncated is set at a step before the last, and next_values holds only the values "
        "after the last step; pass final_values, or next_values in the full shape of rewards",
    )


def _require(condition: Tensor, message: str) -> None:
    if torch.compiler.is_compiling() or _device.is_capturing():
        torch._assert_async(condition, message)
        return
    while torch._C._functorch.is_functorch_wrapped_tensor(condition):
        condition = torch._C._functorch.get_unwrapped(condition)
    if not condition.all():
        raise ValueError(message)
