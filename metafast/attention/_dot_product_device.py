"""Dot-product attention of tensors on a CUDA device, composed of torch's own operations.

Without weights it is torch.nn.functional.scaled_dot_product_attention, which has the card's fused kernels; with them
the [Q, K] weights are a result anyway, and products around a softmax make them. Around either stands what torch leaves
open: keys that take no part may hold anything, and queries that see no key get zeros.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from metafast import _arrays, _device
from metafast._torch_calls import HALF_PRECISION, is_watched
from metafast.attention._dot_product_torch import check_floats_and_shapes

_library = torch.library.Library("metafast", "FRAGMENT")
_library.define("checked_key_lengths(Tensor key_lengths, SymInt keys) -> Tensor")

_functorch = torch._C._functorch
_FLOATS = (torch.float32, torch.float64, *HALF_PRECISION)
# The fused kernels take rows of whole vectors; torch computes others, and holds their scores, operation by operation.
_COLUMNS = 8
# A grid of blocks has no more entries along the axes that they lay batch and heads on.
_MOST_PROBLEMS = 65535


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
    """Compute :func:`metafast.attention.dot_product_attention` on the device of the query."""
    _check(query, key, value, key_mask, key_lengths)
    is_compiling = torch.compiler.is_compiling()
    # Floats that were given as float32 are computed as such, whatever autocast would make of them.
    with _without_autocast(query):
        takes = _taking_part(key, key_mask, key_lengths)
        if is_compiling:
            arguments = query, key, value, takes, causal, scale
            return _attend_with_weights(*arguments) if return_weights else _attend(*arguments)
        try:
            return _run(query, key, value, takes, causal, scale, return_weights)
        except torch.OutOfMemoryError as error:
            shapes = f"query of shape {tuple(query.shape)} and key of shape {tuple(key.shape)}"
            message = f"no memory on {query.device} for the attention of a {shapes}: {error}"
            raise torch.OutOfMemoryError(message) from None


def _run(
    query: Tensor, key: Tensor, value: Tensor, takes: Tensor | None, causal: bool, scale: float, return_weights: bool
) -> Tensor | tuple[Tensor, Tensor]:
    if return_weights:
        return _attend_with_weights(query, key, value, takes, causal, scale)
    if _is_transformed() or torch.autograd.forward_ad._current_level >= 0:
        # The fused kernels have one derivative, and that not forward; torch.func may ask for any.
        return _attend_with_weights(query, key, value, takes, causal, scale)[0]
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        context: Tensor = _Attention.apply(query, key, value, takes, causal, scale)  # type: ignore[no-untyped-call]
        return context
    return _attend(query, key, value, takes, causal, scale)


def _is_transformed() -> bool:
    return _functorch.peek_interpreter_stack() is not None


def _attend(query: Tensor, key: Tensor, value: Tensor, takes: Tensor | None, causal: bool, scale: float) -> Tensor:
    """Attend through torch's fused kernels, whose own backward has no derivative in turn."""
    value_width = value.shape[3]
    if query.shape[1] > _MOST_PROBLEMS:
        return _attend_with_weights(query, key, value, takes, causal, scale)[0]
    if query.shape[0] > _MOST_PROBLEMS:
        queries, keys, values = (tensor.split(_MOST_PROBLEMS) for tensor in (query, key, value))
        masks = [takes] * len(queries) if takes is None or takes.shape[0] == 1 else takes.split(_MOST_PROBLEMS)
        parts = zip(queries, keys, values, masks, strict=True)
        return torch.cat([_attend(*part, causal, scale) for part in parts])
    if causal:
        key, value, takes = _seen_by_the_last(query, key, value, takes)
    if 0 in (*query.shape[:3], key.shape[2], value_width):
        return (query @ key.mT) @ value
    if scale <= 0:
        # The fused kernels scale after they have set what is not seen to minus infinity.
        query, scale = (-query, -scale) if scale < 0 else (0.0 * query, 1.0)
    query, key, value, _, allowed = _select(query, key, value, takes, causal and takes is not None)
    query, key, value = (_in_whole_vectors(tensor) for tensor in (query, key, value))
    context = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=allowed, is_causal=causal and takes is None, scale=scale
    )
    return context[..., :value_width]


def _attend_with_weights(
    query: Tensor, key: Tensor, value: Tensor, takes: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend by products around a softmax, which hold the [Q, K] weights and can be differentiated at will."""
    dtype, keys = query.dtype, key.shape[2]
    if dtype in HALF_PRECISION:
        query, key, value = query.float(), key.float(), value.float()
    if causal:
        key, value, takes = _seen_by_the_last(query, key, value, takes)
    query, key, value, seen, allowed = _select(query, key, value, takes, causal)
    scores = scale * (query @ key.mT)
    if allowed is not None:
        scores = torch.where(allowed, scores, -torch.inf)
    weights = torch.softmax(scores, -1)
    if takes is not None:  # for a query that sees no key
        weights = torch.where(seen, weights, 0.0)  # type: ignore[arg-type]
    context = weights @ value
    if key.shape[2] < keys:
        weights = torch.nn.functional.pad(weights, (0, keys - key.shape[2]))
    return context.to(dtype), weights.to(dtype)


def _seen_by_the_last(
    query: Tensor, key: Tensor, value: Tensor, takes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Leave out the keys after the last query, which no query sees where it sees the earlier ones only."""
    queries = query.shape[2]
    return key[:, :, :queries], value[:, :, :queries], None if takes is None else takes[:, :, :queries]


def _select(
    query: Tensor, key: Tensor, value: Tensor, takes: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Empty the keys that take no part and the queries that see none, for 0 times NaN is NaN.

    Returns them, which query sees which key, and what a softmax may run over: a query that sees none gets the average
    of emptied values, which is zeros with no gradient.
    """
    earlier = None
    if causal:
        earlier = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    if takes is None:
        return query, key, value, earlier, earlier
    seen = takes.mT if earlier is None else takes.mT & earlier
    sees_any = seen.any(-1, keepdim=True)
    allowed = takes.mT | ~sees_any
    if earlier is not None:
        allowed = allowed & earlier
    query = torch.where(sees_any, query, 0.0)
    key, value = torch.where(takes, key, 0.0), torch.where(takes, value, 0.0)
    return query, key, value, seen, allowed


def _in_whole_vectors(tensor: Tensor) -> Tensor:
    """Append columns of zeros, which change no score, until there are as many as the fused kernels ask for."""
    missing = -tensor.shape[3] % _COLUMNS if tensor.shape[3] else _COLUMNS
    if missing:
        return torch.nn.functional.pad(tensor, (0, missing))
    # They load 16 bytes at once, wherever a row begins.
    count = 16 // tensor.element_size()
    aligned = torch.compiler.is_compiling() or tensor.data_ptr() % 16 == 0
    if aligned and tensor.stride(3) == 1 and all(stride % count == 0 for stride in tensor.stride()[:3]):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


class _Attention(torch.autograd.Function):
    """The attention with the fused kernels' own gradient; a gradient that is to have one itself goes by the weights."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, takes: Tensor | None, causal: bool, scale: float
    ) -> Tensor:
        ctx.options = takes, causal, scale
        ctx.save_for_backward(query, key, value)
        ctx.recorded = None
        if _tensors_are_saved_elsewhere():
            return _attend(query, key, value, *ctx.options)
        ctx.recorded = _record(ctx, query, key, value)
        return ctx.recorded[1].detach()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        create_graph = torch.is_grad_enabled()
        with _without_autocast(gradient):
            if create_graph or _is_transformed():
                leaves, context = _record_with_weights(ctx, *inputs)
                gradients = torch.autograd.grad(context, leaves, gradient, create_graph=create_graph)
            else:
                # Held no longer than torch holds what it saved for this graph.
                keep = _keeps_graph()
                leaves, context = ctx.recorded or _record(ctx, *inputs)
                if not keep:
                    ctx.recorded = None
                gradients = torch.autograd.grad(context, leaves, gradient, retain_graph=keep)
        found = iter(gradients)
        return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None)


def _record(ctx: Any, *tensors: Tensor) -> tuple[list[Tensor], Tensor]:
    """Attend in a graph of its own; return the tensors whose gradients are asked for, and the context."""
    with torch.enable_grad():
        inputs = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(tensors, ctx.needs_input_grad[:3], strict=True)
        ]
        query, key, value = inputs
        return [tensor for tensor in inputs if tensor.requires_grad], _attend(query, key, value, *ctx.options)


def _record_with_weights(ctx: Any, *tensors: Tensor) -> tuple[list[Tensor], Tensor]:
    """Attend in torch's graph of the inputs, each its own even where the caller gave one tensor twice."""
    with torch.enable_grad():
        inputs = [tensor.view_as(tensor) for tensor in tensors]
        wanted = [tensor for tensor, needed in zip(inputs, ctx.needs_input_grad[:3], strict=True) if needed]
        query, key, value = inputs
        return wanted, _attend_with_weights(query, key, value, *ctx.options)[0]


def _tensors_are_saved_elsewhere() -> bool:
    """Tell whether hooks recompute or move what a graph saves, as checkpointing does; a recorded one would evade them.

    Asked of a torch that cannot tell, no.
    """
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return hooks is not None and hooks(False) is not None


def _keeps_graph() -> bool:
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else bool(asked())


def _without_autocast(tensor: Tensor) -> Any:
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def _taking_part(key: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None) -> Tensor | None:
    """Tell which keys take part, [B, 1, K, 1]; None where all do."""
    takes = None if key_mask is None else key_mask != 0
    if key_lengths is not None:
        keys = key.shape[2]
        lengths = _checked(key_lengths, keys)
        below = torch.arange(keys, device=key.device) < lengths[:, None]
        takes = below if takes is None else takes & below
    return None if takes is None else takes[:, None, :, None]


def _checked(key_lengths: Tensor, keys: int) -> Tensor:
    """Check that every length is one, where that can be known; return them as int64."""
    if torch.compiler.is_compiling() or (is_watched() and not _is_transformed()):
        return torch.ops.metafast.checked_key_lengths(key_lengths, keys)  # type: ignore[no-any-return]
    values = key_lengths
    while _functorch.is_functorch_wrapped_tensor(values):  # what torch.func.vmap goes over
        values = _functorch.get_unwrapped(values)
    _check_lengths(values, keys)
    return key_lengths.to(torch.int64)


@torch.library.impl("metafast::checked_key_lengths", "CompositeExplicitAutograd", lib=_library)
def _checked_when_run(key_lengths: Tensor, keys: int) -> Tensor:
    _check_lengths(key_lengths, keys)
    return key_lengths.to(torch.int64, copy=True)


@torch.library.register_fake("metafast::checked_key_lengths", lib=_library)
def _checked_fake(key_lengths: Tensor, keys: int) -> Tensor:
    return key_lengths.new_empty(key_lengths.shape, dtype=torch.int64)


def _check_lengths(key_lengths: Tensor, keys: int) -> None:
    """Raise a ValueError for a length that is none. Waits for the card, which a graph that is captured cannot."""
    if _device.is_capturing():
        return
    flat = key_lengths.flatten().tolist()
    for entry, length in enumerate(flat):
        if not 0 <= length <= keys:
            raise ValueError(f"key_lengths[{entry}] is {length}, expected 0 to {keys}, the number of keys")


def _check(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None) -> None:
    arrays = {"query": query, "key": key, "value": value, "key_mask": key_mask, "key_lengths": key_lengths}
    _arrays.check_same_kind(arrays, devices=False)
    for name, tensor in arrays.items():
        if tensor is not None and tensor.device != query.device:
            raise TypeError(f"{name} is on {tensor.device}, but query is on {query.device}; one call takes one device")
    check_floats_and_shapes(query, key, value, key_mask, key_lengths)
    if query.dtype not in _FLOATS:
        raise TypeError(f"query has dtype {_arrays.dtype_name(query)}; expected float32 or float64")
    if key_mask is not None and key_mask.dtype.is_complex:
        raise TypeError(
            f"key_mask has dtype {_arrays.dtype_name(key_mask)}; expected bool, or 0 and 1 as integers or floats"
        )
    if key_lengths is not None and (
        key_lengths.dtype.is_floating_point or key_lengths.dtype.is_complex or key_lengths.dtype == torch.bool
    ):
        raise TypeError(f"key_lengths has dtype {_arrays.dtype_name(key_lengths)}; expected integers")
