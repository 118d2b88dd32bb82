"""Additive attention of CUDA tensors: checks them as the CPU's binding does, allocates, queues the kernels.

The forward pass needs scratch of the size of queries and keys; the gradients that, and as much as the weights. Lengths
are read back to be checked, the only time that the host waits for the card; not while a CUDA graph is recorded, where
the kernels take what is out of range for the nearest length that is in it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metafast import _arrays, _device
from metafast._torch_calls import HALF_PRECISION
from metafast.attention.additive import broadcast_batch

# Blocks that keep a large card busy; the queries of a backward pass are cut into parts until there are so many.
_BLOCKS = 512
_QUERIES_OF_PART = 16
_MOST_PARTS = 16
_COLUMNS_OF_BLOCK = 32


class _Pass(enum.IntEnum):
    """As csrc/attention/additive_device.hpp has it."""

    FORWARD = 0
    BACKWARD = 1
    DOUBLE_BACKWARD = 2


class _Call:
    """The checked arrays of a call, without a query yet, and the memory in which its keys are prepared."""

    def __init__(
        self, key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None,
        like: Tensor, like_name: str, *, check_lengths: bool = True,
    ) -> None:  # fmt: skip
        self.like, self.like_name, self.ndim = like, like_name, like.ndim
        batch, heads = like.shape[0], like.shape[1] if self.ndim == 4 else 1
        width = like.shape[-1]
        self.key = self.rows("key", key, (batch, heads, None, width))
        keys = key.shape[-2]
        self.value = self.rows("value", value, (batch, heads, keys, None))
        self.score_weight = self.weights("score_weight", score_weight, heads, width)
        self.key_mask = None if key_mask is None else _as_flags(key_mask, (batch, keys))
        self.key_lengths = None if key_lengths is None else _as_lengths(key_lengths, batch, keys, check_lengths)
        self.is_double = like.dtype == torch.float64
        self.shape = (batch, heads, keys, width, value.shape[-1])
        padded = max(4, (width + 3) // 4 * 4)
        self.padded = padded
        problems = batch * heads
        self.memory = [
            _device.empty("prepared keys", (problems, keys, padded), like),
            *(_device.empty("prepared keys", (problems, padded), like) for _ in range(3)),
            *(_device.empty("prepared keys", (heads, padded), like) for _ in range(2)),
            *(_device.empty("prepared keys", (heads,), like, torch.int32) for _ in range(2)),
            _device.empty("prepared keys", (problems,), like, torch.int32),
        ]

    def rows(self, name: str, tensor: Tensor, extents: tuple[int | None, int, int | None, int | None]) -> Tensor:
        """Check an array [batch, heads, rows, columns] and return it with columns that are neighbours."""
        if tensor.dtype != self.like.dtype:
            raise TypeError(
                f"{name} has dtype {_arrays.dtype_name(tensor)}, but {self.like_name} has "
                f"{_arrays.dtype_name(self.like)}; the floats of one call share a dtype"
            )
        expected = extents if self.ndim == 4 else (extents[0], *extents[2:])
        if tensor.ndim != len(expected) or any(
            size is not None and found != size for found, size in zip(tensor.shape, expected, strict=True)
        ):
            sizes = ", ".join("any" if size is None else str(size) for size in expected)
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected ({sizes}) for "
                f"[batch, {'heads, ' if self.ndim == 4 else ''}rows, columns]"
            )
        return _readable(tensor)

    def weights(self, name: str, tensor: Tensor, heads: int, width: int) -> Tensor:
        """Check an array like the score weights: [columns], or [heads, columns]."""
        if tensor.dtype != self.like.dtype:
            raise TypeError(
                f"{name} has dtype {_arrays.dtype_name(tensor)}, but the other floats of the call have "
                f"{_arrays.dtype_name(self.like)}"
            )
        expected = (heads, width) if self.ndim == 4 else (width,)
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected {expected} for "
                f"[{'heads, ' if self.ndim == 4 else ''}columns]"
            )
        return _readable(tensor)

    def problem(self, queries: int) -> tuple[Any, ...]:
        """What the bindings take of the arrays."""
        batch, heads, keys, width, value_width = self.shape
        return (
            (batch, heads, queries, keys, width, value_width),
            self.view(self.key),
            self.view(self.value),
            _weights_view(self.score_weight),
            None if self.key_mask is None else (self.key_mask.data_ptr(), self.key_mask.stride(0)),
            _address(self.key_lengths),
            [tensor.data_ptr() for tensor in self.memory],
        )

    def view(self, tensor: Tensor | None) -> tuple[int, int, int, int] | None:
        """Address and strides of an array [batch, heads, rows, columns]."""
        if tensor is None:
            return None
        return (tensor.data_ptr(), tensor.stride(0), tensor.stride(1) if self.ndim == 4 else 0, tensor.stride(-2))

    def prepare(self, pass_: _Pass, queries: int = 1) -> None:
        """Queue the preparation of the keys."""
        with _device.current(self.like):
            stream = _device.stream_of(self.like)
            _device.kernels().additive_prepare(self.is_double, self.problem(queries), int(pass_), stream)

    def new(self, name: str, rows: int, columns: int) -> Tensor:
        """Allocate an array [batch, heads, rows, columns]."""
        batch, heads = self.shape[:2]
        shape = (batch, heads, rows, columns) if self.ndim == 4 else (batch, rows, columns)
        tensor: Tensor = _device.empty(name, shape, self.like)
        return tensor

    def scratch_of_queries(self, queries: int) -> Tensor:
        """Allocate what the exponentials of the queries are written to."""
        batch, heads = self.shape[:2]
        tensor: Tensor = _device.empty("prepared queries", (batch * heads, queries, self.padded), self.like)
        return tensor

    def attend(self, query: Tensor, return_weights: bool) -> tuple[Tensor, Tensor | None]:
        """Queue the forward pass, of keys that are prepared for it."""
        batch, heads, keys, width, value_width = self.shape
        query = self.rows("query", query, (batch, heads, None, width))
        queries = query.shape[-2]
        kernels = _device.kernels()
        context = self.new("the context", queries, value_width)
        weights = None
        if return_weights or value_width > kernels.ADDITIVE_CONTEXT_COLUMNS:
            weights = self.new("the weights", queries, keys)
        query_rows = self.scratch_of_queries(queries)
        with _device.current(query):
            kernels.additive_forward(
                self.is_double, self.problem(queries), self.view(query), query_rows.data_ptr(), context.data_ptr(),
                _address(weights), _device.stream_of(query),
            )  # fmt: skip
        return context, weights if return_weights else None


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _readable(tensor: Tensor) -> Tensor:
    """Return the numbers themselves (of a view that negates them, say), with columns that are neighbours."""
    tensor = tensor.detach().resolve_neg()
    return tensor if tensor.shape[-1] <= 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def _weights_view(tensor: Tensor | None) -> tuple[int, int, int, int] | None:
    return None if tensor is None else (tensor.data_ptr(), 0, tensor.stride(0) if tensor.ndim == 2 else 0, 0)


def _as_flags(key_mask: Tensor, expected: tuple[int, int]) -> Tensor:
    if key_mask.is_complex() or key_mask.is_quantized:
        raise TypeError(
            f"key_mask has dtype {_arrays.dtype_name(key_mask)}; expected bool, or 0 and 1 as integers or floats"
        )
    if tuple(key_mask.shape) != expected:
        raise ValueError(f"key_mask has shape {tuple(key_mask.shape)}, expected {expected} for [batch, keys]")
    flags = key_mask.detach()
    flags = (flags if flags.dtype == torch.bool else flags != 0).view(torch.uint8)
    return flags if flags.shape[1] <= 1 or flags.stride(1) == 1 else flags.contiguous()


def _as_lengths(key_lengths: Tensor, batch: int, keys: int, check: bool) -> Tensor:
    if key_lengths.is_floating_point() or key_lengths.is_complex() or key_lengths.dtype == torch.bool:
        raise TypeError(f"key_lengths has dtype {_arrays.dtype_name(key_lengths)}; expected integers")
    if tuple(key_lengths.shape) != (batch,):
        raise ValueError(f"key_lengths has shape {tuple(key_lengths.shape)}, expected ({batch},) for [batch]")
    # A copy of our own: nobody can change a length between its check and its use.
    lengths = key_lengths.detach().to(torch.int64, copy=True).contiguous()
    if check and not _device.is_capturing():
        for entry, length in enumerate(lengths.tolist()):
            if not 0 <= length <= keys:
                raise ValueError(f"key_lengths[{entry}] is {length}, expected 0 to {keys}, the number of keys")
    return lengths


def _check_first(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} has dtype {_arrays.dtype_name(tensor)}; expected float32 or float64")
    if tensor.ndim not in (3, 4):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, expected [batch, rows, columns] or [batch, heads, rows, columns]"
        )


def check_devices(arrays: dict[str, Tensor | None]) -> None:
    """Raise a TypeError where a tensor is on another device than the first one; None is passed over."""
    first, like = next(iter(arrays.items()))
    for name, array in arrays.items():
        if array is not None and like is not None and array.device != like.device:
            raise TypeError(f"{name} is on {array.device}, but {first} is on {like.device}; one call takes one device")


def _checked(
    query: Tensor, key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Tensor | None,
    key_lengths: Tensor | None, *, check_lengths: bool = True,
) -> _Call:  # fmt: skip
    check_devices(
        {"query": query, "key": key, "value": value, "score_weight": score_weight, "key_mask": key_mask,
         "key_lengths": key_lengths}
    )  # fmt: skip
    _check_first("query", query)
    return _Call(key, value, score_weight, key_mask, key_lengths, query, "query", check_lengths=check_lengths)


def forward(
    query: Tensor, key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Tensor | None,
    key_lengths: Tensor | None, return_weights: bool = True,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return context and, with `return_weights`, the weights."""
    call = _checked(query, key, value, score_weight, key_mask, key_lengths)
    call.prepare(_Pass.FORWARD)
    return call.attend(query, return_weights)


def without_half_precision(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, in which they are computed."""
    return tensor.float() if tensor.dtype in HALF_PRECISION else tensor


def prepare(
    key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None
) -> PreparedKeys:
    """Prepare keys for :func:`metafast.attention.prepare`."""
    check_devices(
        {"key": key, "value": value, "score_weight": score_weight, "key_mask": key_mask, "key_lengths": key_lengths}
    )
    key, value, score_weight = (without_half_precision(tensor) for tensor in (key, value, score_weight))
    _check_first("key", key)
    key, value, key_mask, key_lengths = broadcast_batch(Tensor.expand, key, value, key_mask, key_lengths)
    return PreparedKeys(key, value, score_weight, key_mask, key_lengths)


class PreparedKeys:
    """Keys that were prepared once. Nothing of the tensors is kept but copies."""

    def __init__(
        self, key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None
    ) -> None:
        copies = (None if tensor is None else tensor.detach().clone() for tensor in (value, key_mask, key_lengths))
        value, key_mask, key_lengths = copies  # type: ignore[assignment]
        self._call = _Call(key, value, score_weight, key_mask, key_lengths, key, "key")
        self._call.prepare(_Pass.FORWARD)
        # Of the keys and weights nothing is read any more but what has been made of them.
        self._call.key = self._call.like = key.new_empty(0).view(*(0,) * key.ndim)
        self._call.score_weight = score_weight.new_empty(*(0,) * score_weight.ndim)

    def attend(self, query: Tensor, return_weights: bool) -> tuple[Tensor, Tensor | None]:
        """Return context and, with `return_weights`, the weights of queries."""
        return self._call.attend(query, return_weights)


def _cut_queries(call: _Call, queries: int) -> int:
    batch, heads, _, width, _ = call.shape
    blocks = batch * heads * ((width + _COLUMNS_OF_BLOCK - 1) // _COLUMNS_OF_BLOCK)
    parts = (queries + _QUERIES_OF_PART - 1) // _QUERIES_OF_PART
    return max(1, min(_BLOCKS // max(1, blocks), parts, _MOST_PARTS))


class _GradientCall:
    """What the backward passes have in common: the gradients given, scratch, the new arrays."""

    def __init__(
        self, call: _Call, query: Tensor, weights: Tensor, context_gradient: Tensor, weights_gradient: Tensor | None
    ) -> None:
        batch, heads, keys, width, value_width = call.shape
        queries = query.shape[-2]
        self.queries, self.query = queries, _readable(query)
        self.weights = call.rows("weights", weights, (batch, heads, queries, keys))
        self.context_gradient = call.rows("context_gradient", context_gradient, (batch, heads, queries, value_width))
        self.weights_gradient = (
            None
            if weights_gradient is None
            else call.rows("weights_gradient", weights_gradient, (batch, heads, queries, keys))
        )
        self.splits = _cut_queries(call, queries)
        problems = batch * heads
        self.query_rows = call.scratch_of_queries(queries)
        self.scores = call.new("the gradients of the scores", queries, keys)
        self.weight_sums = _device.empty("the gradients' sums", (self.splits, problems, call.padded), query)
        self.key_sums = (
            _device.empty("the gradients' sums", (self.splits, problems, keys, width), query)
            if self.splits > 1
            else None
        )
        self.results = (
            call.new("the gradient of query", queries, width),
            call.new("the gradient of key", keys, width),
            call.new("the gradient of value", keys, value_width),
            _device.empty("the gradient of score_weight", tuple(call.score_weight.shape), query),
        )

    def given(self, call: _Call) -> tuple[Any, ...]:
        return call.view(self.weights), call.view(self.context_gradient), call.view(self.weights_gradient)

    def scratch(self) -> tuple[Any, ...]:
        tensors = self.query_rows, self.scores, self.key_sums, self.weight_sums
        return (*map(_address, tensors), self.splits)


def backward(
    query: Tensor, key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Tensor | None,
    key_lengths: Tensor | None, weights: Tensor, context_gradient: Tensor, weights_gradient: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of query, key, value and score_weight."""
    # The lengths have been looked at by the forward pass, and looking would wait for the card.
    call = _checked(query, key, value, score_weight, key_mask, key_lengths, check_lengths=False)
    check_devices(
        {"query": query, "weights": weights, "context_gradient": context_gradient, "weights_gradient": weights_gradient}
    )
    gradient = _GradientCall(call, query, weights, context_gradient, weights_gradient)
    call.prepare(_Pass.BACKWARD, gradient.queries)
    with _device.current(query):
        _device.kernels().additive_backward(
            call.is_double, call.problem(gradient.queries), call.view(gradient.query), gradient.given(call),
            gradient.scratch(), tuple(map(_address, gradient.results)), _device.stream_of(query),
        )  # fmt: skip
    return gradient.results


def double_backward(
    query: Tensor, key: Tensor, value: Tensor, score_weight: Tensor, key_mask: Tensor | None,
    key_lengths: Tensor | None, weights: Tensor, context_gradient: Tensor, weights_gradient: Tensor | None,
    *cotangents: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of query, key, value, score_weight, context_gradient and weights_gradient (or nothing)."""
    # The lengths have been looked at by the forward pass, and looking would wait for the card.
    call = _checked(query, key, value, score_weight, key_mask, key_lengths, check_lengths=False)
    names = "query_cotangent", "key_cotangent", "value_cotangent", "score_weight_cotangent"
    check_devices(
        {"query": query, "weights": weights, "context_gradient": context_gradient,
         "weights_gradient": weights_gradient, **dict(zip(names, cotangents, strict=True))}
    )  # fmt: skip
    gradient = _GradientCall(call, query, weights, context_gradient, weights_gradient)
    batch, heads, keys, width, value_width = call.shape
    queries = gradient.queries
    extents: Sequence[tuple[int, int, int, int]] = (
        (batch, heads, queries, width), (batch, heads, keys, width), (batch, heads, keys, value_width)
    )  # fmt: skip
    rows = [
        None if cotangent is None else call.rows(name, cotangent, extent)
        for name, cotangent, extent in zip(names, cotangents, extents, strict=False)
    ]
    of_weight = None if cotangents[3] is None else call.weights(names[3], cotangents[3], heads, width)
    products = call.new("the gradients of the scores", queries, keys)
    inner = call.new("the gradient of weights_gradient", queries, keys)
    of_context = call.new("the gradient of context_gradient", queries, value_width)
    call.prepare(_Pass.DOUBLE_BACKWARD, queries)
    with _device.current(query):
        _device.kernels().additive_double_backward(
            call.is_double, call.problem(queries), call.view(gradient.query), gradient.given(call),
            (*map(call.view, rows), _weights_view(of_weight)),
            (*gradient.scratch(), products.data_ptr(), inner.data_ptr()),
            (*map(_address, gradient.results), of_context.data_ptr()), _device.stream_of(query),
        )  # fmt: skip
    of_weights = query.new_empty(0) if weights_gradient is None else inner
    return *gradient.results, of_context, of_weights
