"""Dot-product attention in torch's graphs: gradients of any order, torch.compile, torch.func.

Two operations are registered, the attention and its gradient, each a kernel. The gradient of the gradient is written
out below in torch operations, which hold the [Q, K] weights; they can be differentiated again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metafast import _arrays, _core
from metafast._torch_calls import HALF_PRECISION, call_on_plain_tensors, needs_graph, quick

__all__ = ["call_on_plain_tensors", "dot_product_attention", "needs_graph"]

_library = torch.library.Library("metafast", "FRAGMENT")
# `statistics` is what the gradient needs of every query; `weights` has no columns unless they are asked for.
_library.define(
    "dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? key_mask, Tensor? key_lengths, bool causal,"
    " float scale, bool return_weights) -> (Tensor context, Tensor statistics, Tensor weights)"
)
_library.define(
    "dot_product_attention_gradient(Tensor query, Tensor key, Tensor value, Tensor? key_mask, Tensor? key_lengths,"
    " bool causal, float scale, Tensor context, Tensor statistics, Tensor? weights, Tensor context_gradient,"
    " Tensor? weights_gradient) -> (Tensor query_gradient, Tensor key_gradient, Tensor value_gradient)"
)
_Tensors = tuple[Tensor, Tensor, Tensor]


def _views(arguments: tuple[Any, ...]) -> list[Any]:
    return [argument.detach().numpy() if isinstance(argument, Tensor) else argument for argument in arguments]


@torch.library.impl("metafast::dot_product_attention", "CPU", lib=_library)
def _attention_cpu(*arguments: Any) -> _Tensors:
    context, statistics, *weights = map(torch.from_numpy, _core.dot_product_attention(*_views((*arguments, True))))
    return context, statistics, weights[0] if weights else context.new_empty((*context.shape[:-1], 0))


@torch.library.impl("metafast::dot_product_attention_gradient", "CPU", lib=_library)
def _gradient_cpu(*arguments: Any) -> _Tensors:
    of_query, of_key, of_value = map(torch.from_numpy, _core.dot_product_attention_gradient(*_views(arguments)))
    return of_query, of_key, of_value


@torch.library.register_fake("metafast::dot_product_attention", lib=_library)
def _attention_fake(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None,
    key_lengths: Tensor | None,
    causal: bool,
    scale: float,
    return_weights: bool,
) -> _Tensors:
    rows = query.shape[:-1]
    return (
        query.new_empty((*rows, value.shape[-1])),
        query.new_empty((*rows, 2)),
        query.new_empty((*rows, key.shape[-2] if return_weights else 0)),
    )


@torch.library.register_fake("metafast::dot_product_attention_gradient", lib=_library)
def _gradient_fake(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> _Tensors:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


# torch.func sees through an autograd.Function alone; torch.compile, which cannot trace one inside the backward of
# another, through the registered operation alone. Both have the same gradient.
def _attention(*arguments: Any) -> _Tensors:
    if torch.compiler.is_compiling():
        return tuple(torch.ops.metafast.dot_product_attention(*arguments))
    return tuple(_Attention.apply(*arguments))  # type: ignore[no-untyped-call]


def _attention_gradient(*arguments: Any) -> _Tensors:
    if torch.compiler.is_compiling():
        return tuple(torch.ops.metafast.dot_product_attention_gradient(*arguments))
    return tuple(_AttentionGradient.apply(*arguments))  # type: ignore[no-untyped-call]


@quick
class _Attention(torch.autograd.Function):
    """The attention with its gradient, in the form that torch.func's transforms can see through."""

    @staticmethod
    def forward(*arguments: Any) -> _Tensors:
        results: _Tensors = torch.ops.metafast.dot_product_attention(*arguments)
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Tensors) -> None:
        query, key, value, key_mask, key_lengths, ctx.causal, ctx.scale, ctx.return_weights = inputs
        ctx.save_for_backward(query, key, value, key_mask, key_lengths, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, context_gradient: Tensor | None, _: Tensor | None, weights_gradient: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        query, key, value, key_mask, key_lengths, context, statistics, weights = ctx.saved_tensors
        if not ctx.return_weights:
            weights_gradient = None
        if context_gradient is None and weights_gradient is None:
            return (None,) * 8
        if context_gradient is None:
            context_gradient = torch.zeros_like(context)
        gradients = _attention_gradient(
            query, key, value, key_mask, key_lengths, ctx.causal, ctx.scale, context, statistics,
            weights if weights_gradient is not None else None, context_gradient, weights_gradient,
        )  # fmt: skip
        return (*gradients, None, None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _fold(_Attention, info, in_dims, arguments)


@quick
class _AttentionGradient(torch.autograd.Function):
    """The gradient with its own gradient. `context`, `statistics` and `weights` are functions of the other inputs."""

    @staticmethod
    def forward(*arguments: Any) -> _Tensors:
        results: _Tensors = torch.ops.metafast.dot_product_attention_gradient(*arguments)
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Tensors) -> None:
        query, key, value, key_mask, key_lengths, ctx.causal, ctx.scale, *_, of_context, of_weights = inputs
        ctx.save_for_backward(query, key, value, key_mask, key_lengths, of_context, of_weights)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, of_query: Tensor | None, of_key: Tensor | None, of_value: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gradients = _second_gradient(ctx, of_query, of_key, of_value)
        of_inputs, of_outputs = gradients[:3], gradients[3:]
        return (*of_inputs, None, None, None, None, None, None, None, *of_outputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _fold(_AttentionGradient, info, in_dims, arguments)


for _name, _function in (
    ("metafast::dot_product_attention", _Attention),
    ("metafast::dot_product_attention_gradient", _AttentionGradient),
):
    torch.library.register_autograd(_name, _function.backward, setup_context=_function.setup_context, lib=_library)


def _fold(
    function: Any, info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """One more batch axis is more batch entries."""
    size = info.batch_size
    folded = [
        (argument.unsqueeze(0).expand(size, *argument.shape) if dim is None else argument.movedim(dim, 0)).flatten(0, 1)
        if isinstance(argument, Tensor)
        else argument
        for argument, dim in zip(arguments, in_dims, strict=True)
    ]
    batch = folded[0].shape[0] // size if size else 0
    results = function.apply(*folded)
    return tuple(result.unflatten(0, (size, batch)) for result in results), (0,) * len(results)


def _second_gradient(
    ctx: Any, of_query: Tensor | None, of_key: Tensor | None, of_value: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Differentiate the gradient, whose formulas csrc/attention/dot_product_backward.hpp states, once more.

    With cotangents X, Y, Z of dQ, dK, dV, that of dS is B = scale (X K^T + Q Y^T), and that of dP is P (B - sum P B).
    P itself has dO Z^T + B (dP - delta) - dP sum P B, which goes on through the softmax. Returns the gradients of
    query, key, value, dO and dW.
    """
    query, key, value, key_mask, key_lengths, context_gradient, weights_gradient = ctx.saved_tensors
    causal, scale = ctx.causal, ctx.scale
    of_query, of_key, of_value = (
        torch.zeros_like(tensor) if gradient is None else gradient
        for gradient, tensor in ((of_query, query), (of_key, key), (of_value, value))
    )
    weights = _attention(query, key, value, key_mask, key_lengths, causal, scale, True)[2]
    # A key that does not take part may hold anything: select, for 0 times NaN is NaN.
    takes = _taking_part(key, key_mask, key_lengths)
    key, value, of_key, of_value = (_select(takes, tensor) for tensor in (key, value, of_key, of_value))
    seen = _seen(query, key, takes, causal)

    of_weights = context_gradient @ value.mT  # dP
    if weights_gradient is not None:
        of_weights = of_weights + weights_gradient
    of_weights = _select(seen, of_weights)
    centred = of_weights - (weights * of_weights).sum(-1, keepdim=True)
    of_scores = weights * centred  # dS
    b = _select(seen, scale * (of_query @ key.mT + query @ of_key.mT))
    mean_b = (weights * b).sum(-1, keepdim=True)
    back_of_weights = weights * (b - mean_b)
    of_p = _select(seen, context_gradient @ of_value.mT + b * centred - mean_b * of_weights)
    back_of_scores = weights * (of_p - (weights * of_p).sum(-1, keepdim=True))
    return (
        scale * (of_scores @ of_key + back_of_scores @ key),
        scale * (of_scores.mT @ of_query + back_of_scores.mT @ query),
        back_of_weights.mT @ context_gradient,
        weights @ of_value + back_of_weights @ value,
        back_of_weights if weights_gradient is not None else None,
    )


def _select(condition: Tensor | None, tensor: Tensor) -> Tensor:
    return tensor if condition is None else torch.where(condition, tensor, tensor.new_zeros(()))


def _taking_part(key: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None) -> Tensor | None:
    """Tell which keys take part, [B, 1, K, 1]; None where all do."""
    takes = None if key_mask is None else key_mask != 0
    if key_lengths is not None:
        below = torch.arange(key.shape[-2], device=key.device) < key_lengths[:, None]
        takes = below if takes is None else takes & below
    return None if takes is None else takes[:, None, :, None]


def _seen(query: Tensor, key: Tensor, takes: Tensor | None, causal: bool) -> Tensor | None:
    """Tell which query sees which key, to broadcast to [B, heads, Q, K]; None where all see all."""
    seen = None if takes is None else takes.mT
    if causal:
        earlier = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=key.device).tril()
        seen = earlier if seen is None else seen & earlier
    return seen


def dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None,
    key_lengths: Tensor | None,
    causal: bool,
    scale: float,
    return_weights: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute :func:`metafast.attention.dot_product_attention` as the registered operation."""
    _check(query, key, value, key_mask, key_lengths)
    dtype = query.dtype
    if dtype in HALF_PRECISION:
        query, key, value = query.float(), key.float(), value.float()
    if key_mask is not None and key_mask.dtype in HALF_PRECISION:
        key_mask = key_mask != 0  # NumPy has no bfloat16
    context, _, weights = _attention(query, key, value, key_mask, key_lengths, causal, scale, return_weights)
    return (context.to(dtype), weights.to(dtype)) if return_weights else context.to(dtype)


def _check(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None) -> None:
    """Check what the fake kernels do not; the binding checks it again where there is memory."""
    _arrays.check_same_kind(
        {"query": query, "key": key, "value": value, "key_mask": key_mask, "key_lengths": key_lengths}
    )
    check_floats_and_shapes(query, key, value, key_mask, key_lengths)


def check_floats_and_shapes(
    query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None
) -> None:
    """Raise a TypeError or a ValueError for tensors of one device that do not belong together."""
    floats = {"query": query, "key": key, "value": value}
    _arrays.check_floats_share_dtype(floats)
    if not query.dtype.is_floating_point:
        raise TypeError(f"query has dtype {_arrays.dtype_name(query)}; expected float32 or float64")
    for name, tensor in floats.items():
        if tensor.ndim != 4:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected four axes [batch, heads, rows, columns]"
            )
    batch, heads, _, width = query.shape
    keys = key.shape[2]
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "key": (key, (batch, heads, keys, width)),
        "value": (value, (batch, heads, keys, value.shape[3])),
        "key_mask": (key_mask, (batch, keys)),
        "key_lengths": (key_lengths, (batch,)),
    }
    for name, (given, shape) in expected.items():
        if given is not None and given.shape != shape:
            raise ValueError(f"{name} has shape {tuple(given.shape)}, expected {shape}")
