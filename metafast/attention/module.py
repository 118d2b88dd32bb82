"""Additive attention as a torch module: projections, heads, dropout."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metafast.attention.additive import additive_attention


class AdditiveAttention(nn.Module):
    """Attend to keys of one width with queries of another by the scores w . tanh(W_q query + W_k key + b).

    Parameters
    ----------
    query_dim, key_dim : int
        Widths of the queries and the keys.
    hidden_dim : int
        Width of both after projection, all heads together.
    num_heads : int
        Heads score with their own share of `hidden_dim` and average their own share of the values; 1 leaves the values
        whole.
    dropout : float
        Probability that a weight is dropped in training, as in ``keras.layers.AdditiveAttention``. The weights then
        pass through torch, Q x K of them; scores are fused all the same.
    bias : bool
        Whether the key projection has the bias b.

    Raises
    ------
    ValueError
        Where `hidden_dim` does not divide into `num_heads`, or a number is out of its range.

    Notes
    -----
    For a decoder that queries the same keys step by step, :func:`metafast.attention.prepare` takes
    ``module.key_projection(key)``, the values and ``module.score_weight`` (of one head), and the result is called with
    ``module.query_projection(query)``.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> attention = AdditiveAttention(query_dim=8, key_dim=6, hidden_dim=16)
    >>> query, key = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    >>> context, weights = attention(query, key, key_lengths=torch.tensor([5, 2]), return_weights=True)
    >>> context.shape, weights.shape, weights[1, :, 2:].abs().max().item()
    (torch.Size([2, 3, 6]), torch.Size([2, 3, 5]), 0.0)
    """

    def __init__(
        self, query_dim: int, key_dim: int, hidden_dim: int, *, num_heads: int = 1, dropout: float = 0.0,
        bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_heads < 1 or hidden_dim < 1 or hidden_dim % num_heads:
            raise ValueError(f"hidden_dim must divide into num_heads equal parts, not {hidden_dim} into {num_heads}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_projection = nn.Linear(query_dim, hidden_dim, bias=False)
        self.key_projection = nn.Linear(key_dim, hidden_dim, bias=bias)
        head_dim = hidden_dim // num_heads
        self.score_weight = nn.Parameter(torch.empty(head_dim if num_heads == 1 else (num_heads, head_dim)))
        nn.init.uniform_(self.score_weight, -1.0 / math.sqrt(head_dim), 1.0 / math.sqrt(head_dim))

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor | None = None, *, key_mask: Tensor | None = None,
        key_lengths: Tensor | None = None, return_weights: bool = False,
    ) -> Any:  # fmt: skip
        """Return the context of every query, and with `return_weights` the weights (before dropout).

        Parameters
        ----------
        query : Tensor [B, Q, query_dim]
        key : Tensor [B, K, key_dim]
        value : Tensor [B, K, V], optional
            What is averaged; the keys themselves where not given. V divides into `num_heads`.
        key_mask, key_lengths, return_weights
            As for :func:`metafast.attention.additive_attention`.

        Returns
        -------
        context : Tensor [B, Q, V]
        weights : Tensor [B, Q, K], or [B, num_heads, Q, K] of several heads
        """
        value = key if value is None else value
        query, key = self.query_projection(query), self.key_projection(key)
        score_weight: Tensor = self.score_weight
        if torch.is_autocast_enabled(query.device.type):
            # The projections have come out in autocast's dtype, and the rest of the call shares it.
            value, score_weight = value.to(query.dtype), score_weight.to(query.dtype)
        if self.num_heads > 1:
            if value.shape[-1] % self.num_heads:
                raise ValueError(
                    f"value has shape {tuple(value.shape)}, whose last axis does not divide into {self.num_heads} heads"
                )
            query, key, value = (
                tensor.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for tensor in (query, key, value)
            )
        dropping = self.training and self.dropout > 0.0
        result = additive_attention(
            query, key, value, score_weight, key_mask=key_mask, key_lengths=key_lengths,
            return_weights=return_weights or dropping,
        )  # fmt: skip
        if not (return_weights or dropping):
            return self._join_heads(result)
        context, weights = result
        if dropping:
            # What no key-mask lets in has weight 0, but 0 x NaN would still be NaN.
            seen = _select_values(value, key_mask, key_lengths)
            context = functional.dropout(weights, self.dropout) @ seen
        context = self._join_heads(context)
        return (context, weights) if return_weights else context

    def _join_heads(self, context: Tensor) -> Tensor:
        return context if self.num_heads == 1 else context.transpose(1, 2).flatten(-2)

    def extra_repr(self) -> str:
        """The options that the submodules do not show."""
        return f"num_heads={self.num_heads}, dropout={self.dropout}"


def _select_values(value: Tensor, key_mask: Tensor | None, key_lengths: Tensor | None) -> Tensor:
    """Values with zeros where the key takes no part."""
    keys = torch.arange(value.shape[-2], device=value.device)
    for takes_part in (
        None if key_mask is None else key_mask != 0,
        None if key_lengths is None else keys < key_lengths[:, None],
    ):
        if takes_part is not None:
            takes_part = takes_part.view(takes_part.shape[0], *(1,) * (value.ndim - 3), -1, 1)
            value = torch.where(takes_part, value, torch.zeros((), dtype=value.dtype, device=value.device))
    return value
