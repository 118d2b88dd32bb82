"""Additive attention as it is written down, in float64 NumPy and in eager torch."""

import numpy as np
import torch


def takes_part(batch, keys, key_mask=None, key_lengths=None):
    """Which keys take part, bool [batch, keys]."""
    part = np.ones((batch, keys), bool)
    if key_mask is not None:
        part &= np.asarray(key_mask) != 0
    if key_lengths is not None:
        part &= np.arange(keys) < np.asarray(key_lengths)[:, None]
    return part


def scores(query, key, score_weight):
    """w . tanh(q + k), [batch, heads, queries, keys], of arrays with heads."""
    query, key, score_weight = (np.asarray(array, np.float64) for array in (query, key, score_weight))
    return np.einsum("bnqkh,nh->bnqk", np.tanh(query[..., :, None, :] + key[..., None, :, :]), score_weight)


def additive_attention(query, key, value, score_weight, part):
    """(context, weights), one query at a time, of the keys that take part only; arrays with heads."""
    batch, heads, queries, _ = query.shape
    context = np.zeros((batch, heads, queries, value.shape[-1]))
    weights = np.zeros((batch, heads, queries, key.shape[-2]))
    for b in range(batch):
        chosen = np.flatnonzero(part[b])
        if len(chosen) == 0:
            continue
        for n in range(heads):
            for q in range(queries):
                row = np.tanh(query[b, n, q].astype(np.float64) + key[b, n, chosen].astype(np.float64))
                score = row @ score_weight[n].astype(np.float64)
                exponential = np.exp(score - score.max())
                weights[b, n, q, chosen] = exponential / exponential.sum()
                context[b, n, q] = weights[b, n, q, chosen] @ value[b, n, chosen].astype(np.float64)
    return context, weights


def eager(query, key, value, score_weight, part=None):
    """(context, weights) in torch, through the array [batch, (heads,) queries, keys, width]; `part`: bool [batch, keys]."""
    weight = score_weight[..., None, None, :] if score_weight.ndim == 2 else score_weight
    score = (torch.tanh(query[..., :, None, :] + key[..., None, :, :]) * weight).sum(-1)
    if part is not None:
        part = part.view(part.shape[0], *(1,) * (score.ndim - 2), part.shape[1])
        score = score.masked_fill(~part, -torch.inf)
        # A row without keys: zeros, and no NaN in its gradient.
        score = torch.where(part.any(-1, keepdim=True), score, torch.zeros((), dtype=score.dtype))
    weights = torch.softmax(score, -1)
    if part is not None:
        weights = torch.where(part, weights, torch.zeros((), dtype=score.dtype))
    return weights @ value, weights
