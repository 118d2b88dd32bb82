"""Additive attention: context vectors under softmax(score_weight . tanh(query + key))."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from metafast import _arrays, _core, _device


def additive_attention(
    query: Any,
    key: Any,
    value: Any,
    score_weight: Any,
    *,
    key_mask: Any = None,
    key_lengths: Any = None,
    return_weights: bool = False,
) -> Any:
    r"""Attend to `value` by additive scores of `query` and `key`, in memory that no product of their sizes enters.

    .. math:: s_{qk} = \sum_h w_h \tanh(\mathrm{query}_{qh} + \mathrm{key}_{kh}),\qquad
              \mathrm{context}_q = \sum_k \mathrm{softmax}_k(s_{qk})\,\mathrm{value}_k

    The softmax runs over the keys that take part. Forward, backward and double backward compute tanh anew wherever
    they need it; nothing of B x Q x K x H elements is ever held.

    Parameters
    ----------
    query : array [B, Q, H] or [B, heads, Q, H]
        float32 or float64; float16 and bfloat16 are computed in float32 and returned as given. A NumPy array, a torch
        tensor on the CPU or a CUDA device, or anything with ``__dlpack__``, in any strides.
    key : array [B, K, H] or [B, heads, K, H]
        Of the same library, device and dtype, like all floats of the call.
    value : array [B, K, V] or [B, heads, K, V]
        What is averaged. A batch of 1 in any of the three, or in the two below, stands for every entry.
    score_weight : array [H] or [heads, H]
        The vector w; with heads, one for each.
    key_mask : array [B, K], optional
        bool, or 0 and 1: keys with True or 1 take part. The others may hold anything, NaN included.
    key_lengths : array [B], optional
        Integers: the first so many keys take part (of those that `key_mask` lets in).
    return_weights : bool
        Return the weights too.

    Returns
    -------
    context : array [B, Q, V] or [B, heads, Q, V]
        Where no key takes part, zeros.
    weights : array [B, Q, K] or [B, heads, Q, K]
        Only with `return_weights`; zero for the keys that take no part.

    Raises
    ------
    TypeError
        Where the arrays are of different libraries, devices or dtypes, or not floating point.
    ValueError
        Where a shape does not fit, or a length is below 0 or above K.

    Notes
    -----
    Torch tensors get gradients of first and second order, in all four arrays; the third order raises. A float32 score
    is within 2.5e-7 of the sum of abs(score_weight) of the exact one for columns that differ (the worst case, and its
    proof, are in csrc/attention/exponential_form.hpp).

    CUDA tensors are computed on their device, on the current stream; the same input gives the same bits there too.
    The bounds are the CPU's. The two differ by rounding, in float32 by at most 2e-6 of the largest abs(value) in the
    context and 1e-5 of its largest element in a gradient, unless eager torch's own error is of that size.
    `key_lengths` are read back to be checked, for which the call waits; not while a CUDA graph is recorded.

    References
    ----------
    Bahdanau, Cho and Bengio (2015), Neural Machine Translation by Jointly Learning to Align and Translate, A.1.2.

    Examples
    --------
    >>> import numpy as np
    >>> query, key = np.zeros((1, 1, 2)), np.array([[[0.0, 0.0], [9.0, 9.0]]])
    >>> context, weights = additive_attention(query, key, key, np.ones(2), return_weights=True)
    >>> weights.round(3)
    array([[[0.119, 0.881]]])
    """
    if _arrays.is_torch(query):
        from metafast.attention import _additive_torch

        return _additive_torch.additive_attention(
            query, key, value, score_weight, key_mask, key_lengths, return_weights
        )
    context, weights = _arrays.call_on_host(
        _attend,
        {"query": query, "key": key, "value": value, "score_weight": score_weight},
        {"key_mask": key_mask, "key_lengths": key_lengths},
        return_weights=return_weights,
    )
    return (context, weights) if return_weights else context


def _attend(
    query: Any, key: Any, value: Any, score_weight: Any, key_mask: Any, key_lengths: Any, **options: Any
) -> Any:
    arrays = broadcast_batch(np.broadcast_to, query, key, value, key_mask, key_lengths)
    query, key, value, key_mask, key_lengths = arrays
    return _core.additive_attention(query, key, value, score_weight, key_mask, key_lengths, **options)


def broadcast_batch(broadcast_to: Callable[[Any, tuple[int, ...]], Any], *arrays: Any) -> tuple[Any, ...]:
    """Repeat arrays with a batch of 1, without copying, for as many entries as the others have; None stays."""
    sizes = {array.shape[0] for array in arrays if array is not None and array.ndim}
    if len(sizes) <= 1:
        return arrays
    batch = max(sizes - {1}, default=1)
    return tuple(
        broadcast_to(array, (batch, *array.shape[1:]))
        if array is not None and array.ndim and array.shape[0] == 1
        else array
        for array in arrays
    )


class PreparedKeys:
    """Keys that were prepared once, for queries that come one after another: a decoder's, or a rollout's.

    Made by :func:`prepare`. Nothing of the arrays given there is kept but copies; several threads may use it at once.
    """

    def __init__(self, keys: Any, like: Any) -> None:
        self._keys = keys
        # Of the keys' library and dtype, for the results.
        self._like = like[:0]

    def __call__(self, query: Any, *, return_weights: bool = False) -> Any:
        """Attend as :func:`additive_attention` does, with the keys, values and score weights prepared.

        Parameters
        ----------
        query : array [B, Q, H] or [B, heads, Q, H]
            Of the keys' library, device and dtype; a tensor that requires grad is a ValueError.
        return_weights : bool
            Return the weights too.
        """
        _refuse_gradient({"query": query})
        arrays = {"key": self._like, "query": query}
        on_device = _device.is_on_device(self._like)
        _arrays.check_same_kind(arrays, devices=not on_device)
        _arrays.check_floats_share_dtype(arrays)
        if on_device:
            from metafast.attention import _additive_cuda

            _additive_cuda.check_devices(arrays)
            results = self._keys.attend(_additive_cuda.without_half_precision(query), return_weights)
            context, weights = (None if result is None else result.to(query.dtype) for result in results)
        else:
            results = self._keys.attend(_arrays.to_numpy(query), return_weights)
            context, weights = (_arrays.from_numpy(result, self._like) for result in results)
        return (context, weights) if return_weights else context


def prepare(key: Any, value: Any, score_weight: Any, *, key_mask: Any = None, key_lengths: Any = None) -> PreparedKeys:
    """Do once what :func:`additive_attention` does with the keys, for queries that come one after another.

    Parameters
    ----------
    key, value, score_weight, key_mask, key_lengths
        As for :func:`additive_attention`. For inference: a tensor that requires grad is a ValueError unless torch's
        gradients are off.

    Returns
    -------
    PreparedKeys
        Call it with a query.

    Examples
    --------
    >>> import numpy as np
    >>> key = np.array([[[0.0, 0.0], [9.0, 9.0]]])
    >>> attend = prepare(key, key, np.ones(2))
    >>> [attend(np.full((1, 1, 2), step)).round(2).tolist() for step in (0.0, -20.0)]
    [[[[7.93, 7.93]]], [[[4.5, 4.5]]]]
    """
    floats = {"key": key, "value": value, "score_weight": score_weight}
    _refuse_gradient(floats)
    on_device = _device.is_on_device(key)
    _arrays.check_same_kind({**floats, "key_mask": key_mask, "key_lengths": key_lengths}, devices=not on_device)
    _arrays.check_floats_share_dtype(floats)
    if on_device:
        from metafast.attention import _additive_cuda

        return PreparedKeys(_additive_cuda.prepare(key, value, score_weight, key_mask, key_lengths), key)
    arrays = [_arrays.to_numpy(array) for array in (key, value, score_weight, key_mask, key_lengths)]
    arrays[0], arrays[1], *arrays[3:] = broadcast_batch(np.broadcast_to, arrays[0], arrays[1], *arrays[3:])
    return PreparedKeys(_core.PreparedAdditiveKeys(*arrays), key)


def _refuse_gradient(arrays: dict[str, Any]) -> None:
    torch = sys.modules.get("torch")
    if torch is None:
        return
    for name, array in arrays.items():
        if not _arrays.is_torch(array):
            continue
        has_tangent = torch.autograd.forward_ad._current_level >= 0 and (
            torch.autograd.forward_ad.unpack_dual(array).tangent is not None
        )
        if has_tangent or (array.requires_grad and torch.is_grad_enabled()):
            raise ValueError(
                f"{name} requires grad, but prepared keys are for inference: use torch.no_grad(), or additive_attention"
            )
