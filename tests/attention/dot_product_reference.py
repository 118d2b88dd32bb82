"""Dot-product attention one query at a time, in float64, from the definition alone."""

import numpy as np


def dot_product_attention(query, key, value, key_mask=None, key_lengths=None, causal=False, scale=None):
    """Return (context, weights) of arrays [B, heads, rows, columns]."""
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    if scale is None:
        scale = width**-0.5 if width else 1.0
    context = np.zeros((batch, heads, queries, value.shape[3]))
    weights = np.zeros((batch, heads, queries, keys))
    for b, h, i in np.ndindex(batch, heads, queries):
        seen = [
            j
            for j in range(keys)
            if (key_mask is None or key_mask[b][j] != 0)
            and (key_lengths is None or j < key_lengths[b])
            and (not causal or j <= i)
        ]
        if not seen:
            continue
        scores = scale * np.array([query[b, h, i] @ key[b, h, j] for j in seen])
        powers = np.exp(scores - scores.max())
        weights[b, h, i, seen] = powers / powers.sum()
        context[b, h, i] = weights[b, h, i, seen] @ value[b, h, seen]
    return context, weights


def gradients(query, key, value, context_gradient, weights_gradient=None, scale=None, **selection):
    """Return the gradients of query, key and value, by Dao et al. (2022), appendix B.2, with full matrices."""
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    scale = query.shape[3] ** -0.5 if scale is None else scale
    _, weights = dot_product_attention(query, key, value, scale=scale, **selection)
    of_weights = context_gradient @ np.swapaxes(value, 2, 3)
    if weights_gradient is not None:
        of_weights = of_weights + weights_gradient
    of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdims=True))
    return (
        scale * of_scores @ key,
        scale * np.swapaxes(of_scores, 2, 3) @ query,
        np.swapaxes(weights, 2, 3) @ context_gradient,
    )
