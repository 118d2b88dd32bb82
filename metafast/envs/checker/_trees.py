"""Observations, actions and infos of any space: nested dicts and tuples of arrays."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["first_difference", "leaves", "map_leaves", "rows", "snapshot"]


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply `function` to everything in `tree` that is no dict, tuple or list."""
    if isinstance(tree, dict):
        return {key: map_leaves(function, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_leaves(function, value) for value in tree) if type(tree) in (tuple, list) else tree
    return function(tree)


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in `tree` that is no dict, tuple or list, with its place."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{name}[{key!r}]")
    elif isinstance(tree, (tuple, list)):
        for index, value in enumerate(tree):
            yield from leaves(value, f"{name}[{index}]")
    else:
        yield name, tree


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        if leaf.dtype == object:
            copied = np.empty_like(leaf)
            for index in np.ndindex(leaf.shape):
                copied[index] = snapshot(leaf[index])
            return copied
        return leaf.copy()
    return leaf


def snapshot(tree: Any) -> Any:
    """Copy every array in `tree`."""
    return map_leaves(_copy, tree)


def rows(tree: Any, which: Any) -> Any:
    """Return the rows `which`, an index or a mask, of every batched array in `tree`."""
    return map_leaves(lambda leaf: np.asarray(leaf)[which], tree)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        first, second = np.asarray(first), np.asarray(second)
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        if first.dtype == object:
            pairs = zip(first.ravel(), second.ravel(), strict=True)
            return all(first_difference(one, other) is None for one, other in pairs)
        return np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")
    return bool(np.all(first == second)) or (first != first and second != second)


def first_difference(first: Any, second: Any) -> str | None:
    """Say where two trees differ, or return None where they do not, bit for bit."""
    ones, others = list(leaves(first)), list(leaves(second))
    if [name for name, _ in ones] != [name for name, _ in others]:
        return f"{[name for name, _ in ones]} against {[name for name, _ in others]}"
    for (name, one), (_, other) in zip(ones, others, strict=True):
        if not _same(one, other):
            return f"{name or 'values'}: {_brief(one)} against {_brief(other)}"
    return None


def _brief(value: Any) -> str:
    text = np.array2string(np.asarray(value), threshold=8, edgeitems=2, precision=6).replace("\n", "")
    return text if len(text) < 160 else text[:157] + "..."
