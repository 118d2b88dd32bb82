"""Attention scoring without the arrays it is usually made of: additive (Bahdanau) and dot-product attention."""

from metafast.attention.additive import PreparedKeys, additive_attention, prepare

__all__ = ["PreparedKeys", "additive_attention", "prepare"]
