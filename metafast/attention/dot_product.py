"""Dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from metafast import _arrays, _core, _device


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    key_mask: Any = None,
    key_lengths: Any = None,
    causal: bool = False,
    scale: float | None = None,
    return_weights: bool = False,
) -> Any:
    """Attend by scaled dot products, ``softmax(scale * query @ key.T) @ value``, in one pass over the keys.

    The scores are never held as a whole unless `return_weights` asks for them. A key that does not take part is not
    read, so a NaN or infinity in it, or in its value, reaches nothing. A query that sees no key gets zeros.

    Takes NumPy arrays, torch tensors on the CPU or a CUDA device, JAX arrays and others with ``__dlpack__``, all of one
    library and device, and returns that library's. float32 and float64 are computed as such; float16 and bfloat16 in
    float32. On a CUDA device torch's own fused kernels compute the context: see the notes.

    Parameters
    ----------
    query : float array, shape [B, heads, Q, D]
        What is looked for.
    key : float array, shape [B, heads, K, D]
        What it is compared with.
    value : float array, shape [B, heads, K, V]
        What is averaged.
    key_mask : array of bool, or of 0 and 1, shape [B, K], optional
        Where it is True or 1 the key takes part.
    key_lengths : integer array, shape [B], optional
        Only the first so many keys take part. With `key_mask` both must allow a key.
    causal : bool
        Query i sees the keys 0 to i only, counted from the first of both, as ``is_causal=True`` of
        ``torch.nn.functional.scaled_dot_product_attention`` means it.
    scale : float, optional
        What scores are multiplied by. Default ``1 / sqrt(D)``.
    return_weights : bool
        Return the weights too.

    Returns
    -------
    context : array, shape [B, heads, Q, V]
    weights : array, shape [B, heads, Q, K]
        With `return_weights` only. 0 where a key does not take part.

    Raises
    ------
    ValueError
        A shape does not fit; a length is negative or beyond K.
    TypeError
        Arrays of several libraries, devices or float dtypes; arrays that are not floats, or lengths that are not
        integers; masked, byte-swapped or misaligned arrays; a `scale` that requires grad.
    MemoryError
        No memory for the results, or for what the kernel holds beside them.

    Notes
    -----
    Vaswani et al., "Attention is all you need", NeurIPS 2017, equation 1. Torch tensors that require grad get
    gradients of any order, those of the weights included; the first order is a kernel of the same kind, higher orders
    hold the [Q, K] weights of each head. Under ``torch.compile`` the function is traced whole.

    On a CUDA device the context without weights is that of ``torch.nn.functional.scaled_dot_product_attention``, and so
    is its gradient; what of it is repeatable, ``torch.use_deterministic_algorithms`` decides. What differs from the
    CPU: float16 and bfloat16 are multiplied as they are and summed in float32, so the weights are rounded to them
    before they meet the values (with `return_weights` all is computed in float32). `causal` together with a mask or
    lengths holds a mask of [B, Q, K], and float64, higher orders of gradients and torch.func's transforms hold the
    weights. With `causal` a NaN or infinity in a key or value that some query sees may reach queries before it, as it
    does in torch; it never does from keys that `key_mask` or `key_lengths` leaves out, or after the last query. Lengths
    are looked at on the host, for which the call waits; not while a CUDA graph is captured. Numbers of about 1 agree
    with the CPU's to 2e-5 in float32, 1e-11 in float64, and two roundings in half precision.

    The gradient of a score is a difference that is rounded relative to |dO| |V|, not to itself: where one key has
    nearly all the weight, the gradients of `query` and `key` are that rounding times keys and queries, as plain torch's
    are. Where it has all of it they are 0.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast.attention
    >>> query = np.array([0.0, 1.0]).reshape(1, 1, 1, 2)
    >>> key = np.array([[0.0, np.log(3.0)], [1.0, 0.0], [5.0, 5.0]]).reshape(1, 1, 3, 2)
    >>> value = np.array([4.0, 8.0, np.nan]).reshape(1, 1, 3, 1)
    >>> context, weights = metafast.attention.dot_product_attention(
    ...     query, key, value, key_mask=np.array([[True, True, False]]), scale=1.0, return_weights=True
    ... )
    >>> weights[0, 0]
    array([[0.75, 0.25, 0.  ]])
    >>> context[0, 0]
    array([[5.]])
    """
    causal, return_weights = bool(causal), bool(return_weights)
    if scale is None:
        scale = _default_scale(query)
    elif type(scale) is not float:
        if getattr(scale, "requires_grad", False):
            raise TypeError(
                "scale requires grad, but has no gradient here; pass scale=1.0 and multiply the query by it instead"
            )
        scale = float(scale)
    if type(query) is np.ndarray and query.dtype.itemsize != 2:
        return _core.dot_product_attention(
            query, key, value, key_mask, key_lengths, causal, scale, return_weights, False
        )
    if _device.is_on_device(query):
        from metafast.attention import _dot_product_device

        return _dot_product_device.dot_product_attention(
            query, key, value, key_mask, key_lengths, causal, scale, return_weights
        )
    if _arrays.is_torch(query):
        from metafast.attention import _dot_product_torch as room

        if room.needs_graph(query, key, value):
            return room.dot_product_attention(query, key, value, key_mask, key_lengths, causal, scale, return_weights)
        result = room.call_on_plain_tensors(
            _core.dot_product_attention,
            query, key, value, key_mask, key_lengths, causal, scale, return_weights, False,
        )  # fmt: skip
        if result is not None:
            return result
    return _arrays.call_on_host(
        _core.dot_product_attention,
        {"query": query, "key": key, "value": value},
        {"key_mask": key_mask, "key_lengths": key_lengths},
        causal=causal,
        scale=scale,
        return_weights=return_weights,
        return_statistics=False,
    )


def _default_scale(query: Any) -> float:
    shape: tuple[int, ...] = getattr(query, "shape", ())
    return 1.0 / math.sqrt(shape[-1]) if len(shape) > 0 and shape[-1] > 0 else 1.0
