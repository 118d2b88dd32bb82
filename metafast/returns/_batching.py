"""Batch axes in front of an estimator's arrays, put there by torch.func.vmap or jax.vmap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from metafast import _arrays
from metafast.returns._estimator import INTEGERS, OPTIONS, Estimator


def has_room_for_a_batch(estimator: Estimator) -> bool:
    """Tell whether the estimator's arrays can have one more axis: not those that are packed in one."""
    return not INTEGERS & set(estimator.arguments)


def fold(xp: Any, estimator: Estimator, arguments: Sequence[Any], batch_size: int) -> list[Any]:
    """Make one problem of a batch of them.

    Parameters
    ----------
    xp
        NumPy or torch.
    estimator
        Which one; its arguments are in `arguments`.
    arguments
        Every array with one more axis in front, of size 1 or `batch_size`. None and options as they are.
    batch_size
        Size of the batch.

    Returns
    -------
    arguments
        Of one call, whose results have the batch, and all that the estimator's own results have, one after the other.
    """
    named = dict(zip(estimator.arguments, arguments, strict=True))
    leading = named[estimator.leading]
    columns = None if named["time_axis"] == 0 else leading.shape[1]
    folded = {
        name: value
        if value is None or name in OPTIONS
        else _folded(xp, value, name in _arrays.COEFFICIENTS, batch_size, leading.ndim - 1, columns)
        for name, value in named.items()
    }
    return list({**folded, "time_axis": 1}.values())


def entries(arguments: Sequence[Any], batch_size: int) -> Iterator[list[Any]]:
    """Go through a batch; the arguments are as for :func:`fold`."""
    for index in range(batch_size):
        yield [value[index if value.shape[0] > 1 else 0] if _arrays.is_array(value) else value for value in arguments]


def _folded(xp: Any, array: Any, is_coefficient: bool, batch_size: int, ndim: int, columns: int | None) -> Any:
    """Make the batch axis the first of the array's own; with time second, merge it with the axis of the columns."""
    own = tuple(array.shape[1:])
    if is_coefficient:
        if not own and array.shape[0] == 1:
            return array[0]
        own = (1,) * (ndim - len(own)) + own
        array = array.reshape((array.shape[0], *own))
    if columns is not None:
        own = (columns, *own[1:])
    array = xp.broadcast_to(array, (batch_size, *own))
    return array if columns is None else array.reshape((batch_size * columns, *own[1:]))
