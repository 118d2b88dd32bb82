"""Attention scoring without the arrays it is usually made of: additive (Bahdanau) and dot-product attention."""

from typing import TYPE_CHECKING, Any

from metafast.attention.additive import PreparedKeys, additive_attention, prepare

if TYPE_CHECKING:
    from metafast.attention.module import AdditiveAttention

__all__ = ["AdditiveAttention", "PreparedKeys", "additive_attention", "prepare"]


def __getattr__(name: str) -> Any:
    # The module alone needs torch.
    if name == "AdditiveAttention":
        from metafast.attention.module import AdditiveAttention

        return AdditiveAttention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
