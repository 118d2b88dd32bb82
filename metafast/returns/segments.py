"""Returns of episodes packed end to end."""

from __future__ import annotations

from typing import Any

from metafast.returns._estimator import SEGMENT_RETURNS


def segment_returns(
    rewards: Any, lengths: Any, *, gamma: Any, values: Any = None, last_values: Any = None, lam: Any = None
) -> Any:
    """Returns, or advantages, of episodes of any lengths that lie end to end in one axis.

    Without `values`: ``G_t = rewards[t] + gamma * G_{t+1}`` inside a segment, and after its last step the segment's
    last value. With `values` and `lam`: :func:`metafast.gae` of every segment, with the same bootstrap. Segments do not
    touch each other.

    Takes and returns arrays as :func:`metafast.gae` does. On CUDA tensors a call waits for the card, whose
    memory alone tells whether `lengths` are right.

    Parameters
    ----------
    rewards : float array, shape [T]
        Rewards of the steps of all segments, one after the other.
    lengths : integer array, shape [S]
        Numbers of steps of the segments: 0 or more each, T together.
    gamma : float or float array that broadcasts to `rewards`
        Discount factor from step t + 1 to t.
    values : float array, shape of `rewards`, optional
        Values of the states the steps were taken in.
    last_values : float array, shape of `lengths`, optional
        V of the state that follows a segment's last step. Default 0: every segment ends in a terminal state.
    lam : float or float array that broadcasts to `rewards`, optional
        Weight of longer returns. Goes with `values`.

    Returns
    -------
    returns : array of the shape and dtype of `rewards`
        Without `values`.
    advantages, returns : arrays of the shape and dtype of `rewards`
        With `values` and `lam`; ``returns`` is ``advantages + values``.

    Raises
    ------
    ValueError
        A shape does not fit; lengths that are negative or do not sum to T; `values` without `lam`, or `lam` without
        `values`.
    TypeError
        Arrays of several libraries, devices or float dtypes; rewards that are not floats, or lengths that are not
        integers; masked, byte-swapped or misaligned arrays.

    Notes
    -----
    The equations are those of :func:`metafast.discounted_returns` and :func:`metafast.gae`, and so are the gradients:
    of any order, to `last_values`, `gamma` and `lam` too.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> rewards, lengths = np.array([1.0, 1.0, 1.0, 4.0]), np.array([3, 1])
    >>> metafast.segment_returns(rewards, lengths, gamma=0.5)
    array([1.75, 1.5 , 1.  , 4.  ])
    >>> metafast.segment_returns(rewards, lengths, gamma=0.5, last_values=np.array([8.0, 0.0]))
    array([2.75, 3.5 , 5.  , 4.  ])
    """
    return SEGMENT_RETURNS(rewards, lengths, gamma, values, last_values, lam)
