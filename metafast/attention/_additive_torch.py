"""Additive attention in torch's graphs: first and second derivatives, torch.compile, torch.func.

Three operations are registered, one for each kernel: forward, backward, and the gradient of the backward one. Calls
that need no graph do not come to them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metafast import _arrays, _core, _device
from metafast._torch_calls import HALF_PRECISION, call_on_plain_tensors, needs_graph, quick
from metafast.attention import _additive_cuda
from metafast.attention.additive import broadcast_batch

_library = torch.library.Library("metafast", "FRAGMENT")
_ARGUMENTS = "Tensor query, Tensor key, Tensor value, Tensor score_weight, Tensor? key_mask, Tensor? key_lengths"
_GRADIENTS = f"{_ARGUMENTS}, Tensor weights, Tensor context_gradient, Tensor? weights_gradient"
_COTANGENTS = "Tensor? query_cotangent, Tensor? key_cotangent, Tensor? value_cotangent, Tensor? score_weight_cotangent"
_library.define(f"additive_attention({_ARGUMENTS}) -> (Tensor, Tensor)")
_library.define(f"additive_attention_backward({_GRADIENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
# Gradients of query, key, value, score_weight, context_gradient and (empty without it) weights_gradient.
_library.define(
    f"additive_attention_double_backward({_GRADIENTS}, {_COTANGENTS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _on_host(kernel: Callable[..., Any], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    results = kernel(*(tensor if tensor is None else tensor.detach().resolve_neg().numpy() for tensor in tensors))
    return tuple(torch.empty(0) if result is None else torch.from_numpy(result) for result in results)


def _kernel(on_host: Callable[..., Any], on_device: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    """Join the two kernels of an operation into one that goes by where the query is."""

    def call(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        if _device.is_on_device(tensors[0]):
            results: tuple[Tensor, ...] = on_device(*tensors)
            return results
        return _on_host(on_host, *tensors)

    return call


_forward = _kernel(functools.partial(_core.additive_attention, return_weights=True), _additive_cuda.forward)
_backward = _kernel(_core.additive_attention_backward, _additive_cuda.backward)
_double_backward = _kernel(_core.additive_attention_double_backward, _additive_cuda.double_backward)
for _name, _function in (
    ("additive_attention", _forward),
    ("additive_attention_backward", _backward),
    ("additive_attention_double_backward", _double_backward),
):
    _library.impl(_name, _function, "CPU")
    _library.impl(_name, _function, "CUDA")


def _check_shape(name: str, tensor: Tensor, expected: tuple[Any, ...]) -> None:
    torch._check(
        tensor.ndim == len(expected) and all(found == size for found, size in zip(tensor.shape, expected, strict=True)),
        lambda: f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected)}",
    )


@torch.library.register_fake("metafast::additive_attention", lib=_library)
def _forward_fake(
    query: Tensor, key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    others = {"key": key, "value": value, "score_weight": score_weight}
    torch._check(query.ndim in (3, 4), lambda: f"query has shape {tuple(query.shape)}, expected 3 or 4 axes")
    _check_shape("key", key, (*query.shape[:-2], key.shape[-2] if key.ndim > 1 else 0, query.shape[-1]))
    _check_shape("value", value, (*key.shape[:-1], value.shape[-1] if value.ndim > 0 else 0))
    _check_shape("score_weight", score_weight, (*query.shape[1:-2], query.shape[-1]))
    for name, tensor in others.items():
        torch._check_type(tensor.dtype == query.dtype, lambda: f"{name} has dtype {tensor.dtype}, not {query.dtype}")  # noqa: B023
    rows = query.shape[:-1]
    return query.new_empty(*rows, value.shape[-1]), query.new_empty(*rows, key.shape[-2])


def _contiguous_like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors)


@torch.library.register_fake("metafast::additive_attention_backward", lib=_library)
def _backward_fake(query: Tensor, key: Tensor, value: Tensor, score_weight: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _contiguous_like(query, key, value, score_weight)


@torch.library.register_fake("metafast::additive_attention_double_backward", lib=_library)
def _double_backward_fake(
    query: Tensor, key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Any, key_lengths: Any, weights: Tensor,
    context_gradient: Tensor, weights_gradient: Tensor | None, *_: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    last = query.new_empty(0) if weights_gradient is None else weights_gradient
    return _contiguous_like(query, key, value, score_weight, context_gradient, last)


def _call(operation: Any, kernel: Callable[..., tuple[Tensor, ...]], *tensors: Any) -> Any:
    """Call a registered operation where something looks on that must see it, else the kernel itself: 20 us less."""
    if torch._C._len_torch_dispatch_stack() > 0 or _functorch_is_active():
        return operation(*tensors)
    for tensor in tensors:
        if tensor is None:
            continue
        # Of is_grads_batched, which torch.func knows nothing of.
        batched = torch._C._functorch.is_legacy_batchedtensor(tensor)
        if batched or type(tensor) not in (Tensor, torch.nn.Parameter):
            return operation(*tensors)
    return kernel(*tensors)


def _functorch_is_active() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def _one_by_one(function: Any, info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
    """Call a function for every entry of a torch.func.vmap axis, and stack what it returns."""

    def call(entry: int) -> Any:
        return function.apply(
            *(
                argument if dim is None else argument.select(dim, entry)
                for argument, dim in zip(arguments, in_dims, strict=True)
            )
        )

    if info.batch_size > 0:
        stacked = tuple(torch.stack(column) for column in zip(*map(call, range(info.batch_size)), strict=True))
    else:
        # What an entry would give, none of it.
        arguments = tuple(
            argument if dim is None else argument.new_zeros(argument.movedim(dim, 0).shape[1:]).unsqueeze(dim)
            for argument, dim in zip(arguments, in_dims, strict=True)
        )
        stacked = tuple(result.new_empty(0, *result.shape) for result in call(0))
    return stacked, tuple(0 for _ in stacked)


# Eager torch and torch.func see these functions; torch.compile and torch.export, which see the operations, the same
# gradients registered below.
@quick
class _Forward(torch.autograd.Function):
    """(context, weights)"""

    @staticmethod
    def forward(query: Any, key: Any, value: Any, score_weight: Any, key_mask: Any, key_lengths: Any) -> Any:
        operation = torch.ops.metafast.additive_attention
        return _call(operation, _forward, query, key, value, score_weight, key_mask, key_lengths)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        query, key, value, score_weight, key_mask, key_lengths = inputs
        ctx.save_for_backward(query, key, value, score_weight, key_mask, key_lengths, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, context_gradient: Any, weights_gradient: Any) -> Any:
        query, key, value, score_weight, key_mask, key_lengths, weights = ctx.saved_tensors
        if context_gradient is None:
            context_gradient = query.new_zeros(*query.shape[:-1], value.shape[-1])
        # Without a graph to build (create_graph=False) the function object is not needed.
        seen = torch.is_grad_enabled() or _functorch_is_active()
        backward = _Backward.apply if seen else _Backward.forward
        of_query, of_key, of_value, of_score_weight = backward(
            query, key, value, score_weight, key_mask, key_lengths, weights, context_gradient, weights_gradient
        )
        return of_query, of_key, of_value, of_score_weight, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return _one_by_one(_Forward, info, in_dims, arguments)


@quick
class _Backward(torch.autograd.Function):
    """The gradients of query, key, value and score_weight."""

    @staticmethod
    def forward(
        query: Any, key: Any, value: Any, score_weight: Any, key_mask: Any, key_lengths: Any, weights: Any,
        context_gradient: Any, weights_gradient: Any,
    ) -> Any:  # fmt: skip
        operation = torch.ops.metafast.additive_attention_backward
        return _call(
            operation, _backward, query, key, value, score_weight, key_mask, key_lengths, weights, context_gradient,
            weights_gradient,
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        inputs = ctx.saved_tensors
        *four, of_context, of_weights = _DoubleBackward.apply(*inputs, *cotangents)  # type: ignore[no-untyped-call]
        # The weights are what the other arguments say they are: their share is in the gradients of those.
        return (*four, None, None, None, of_context, None if inputs[-1] is None else of_weights)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return _one_by_one(_Backward, info, in_dims, arguments)


@quick
class _DoubleBackward(torch.autograd.Function):
    """The gradient of the backward pass; its own gradient raises."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return _call(torch.ops.metafast.additive_attention_double_backward, _double_backward, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        raise RuntimeError("additive_attention has derivatives of first and second order, not of third")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return _one_by_one(_DoubleBackward, info, in_dims, arguments)


def _operation_gradient(ctx: Any, context_gradient: Tensor | None, weights_gradient: Tensor | None) -> Any:
    query, key, value, score_weight, key_mask, key_lengths, weights = ctx.saved_tensors
    if context_gradient is None:
        context_gradient = query.new_zeros(*query.shape[:-1], value.shape[-1])
    gradients = torch.ops.metafast.additive_attention_backward(
        query, key, value, score_weight, key_mask, key_lengths, weights, context_gradient, weights_gradient
    )
    return (*gradients, None, None)


def _gradient_of_gradient(ctx: Any, *cotangents: Any) -> Any:
    inputs = ctx.saved_tensors
    *four, of_context, of_weights = torch.ops.metafast.additive_attention_double_backward(*inputs, *cotangents)
    return (*four, None, None, None, of_context, None if inputs[-1] is None else of_weights)


def _register(name: str, gradient: Callable[..., Any], setup_context: Any) -> None:
    torch.library.register_autograd(f"metafast::{name}", gradient, setup_context=setup_context, lib=_library)


_register("additive_attention", _operation_gradient, _Forward.setup_context)
_register("additive_attention_backward", _gradient_of_gradient, _Backward.setup_context)
_register("additive_attention_double_backward", _DoubleBackward.backward, _DoubleBackward.setup_context)


def additive_attention(
    query: Tensor, key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Tensor | None,
    key_lengths: Tensor | None, return_weights: bool,
) -> Any:  # fmt: skip
    """Compute :func:`metafast.attention.additive_attention` of torch tensors."""
    floats = {"query": query, "key": key, "value": value, "score_weight": score_weight}
    flags = {"key_mask": key_mask, "key_lengths": key_lengths}
    dtype = query.dtype
    on_device = _device.is_on_device(query)
    if on_device:
        _arrays.check_same_kind({**floats, **flags}, devices=False)
        _additive_cuda.check_devices({**floats, **flags})
    else:
        for name, tensor in (*floats.items(), *flags.items()):
            if not (isinstance(tensor, Tensor) and tensor.is_cpu) and not (tensor is None and name in flags):
                _arrays.check_same_kind({**floats, **flags})
    if key_mask is not None and key_mask.dtype in HALF_PRECISION:
        key_mask = key_mask != 0
    needs_no_graph = not needs_graph(query, key, value, score_weight)
    if needs_no_graph and not on_device:
        arguments = query, key, value, score_weight, key_mask, key_lengths, return_weights
        same_batch = query.shape[:1] == key.shape[:1] == value.shape[:1]
        results = call_on_plain_tensors(_core.additive_attention, *arguments) if same_batch else None
        if results is not None:
            return results if return_weights else results[0]
    if not key.dtype == value.dtype == score_weight.dtype == dtype:
        _arrays.check_floats_share_dtype(floats)
    if dtype in HALF_PRECISION:
        query, key, value, score_weight = (tensor.float() for tensor in (query, key, value, score_weight))
    arrays = broadcast_batch(Tensor.expand, query, key, value, key_mask, key_lengths)
    query, key, value, key_mask, key_lengths = arrays
    if needs_no_graph and on_device:
        results = _additive_cuda.forward(query, key, value, score_weight, key_mask, key_lengths, return_weights)
    else:
        attend = torch.ops.metafast.additive_attention if torch.compiler.is_compiling() else _Forward.apply
        results = attend(query, key, value, score_weight, key_mask, key_lengths)  # type: ignore[no-untyped-call]
    context, weights = results
    if context.dtype is not dtype:
        context, weights = context.to(dtype), None if weights is None else weights.to(dtype)
    return (context, weights) if return_weights else context
