"""Discounted returns-to-go."""

from __future__ import annotations

from typing import Any

from metafast.returns._estimator import DISCOUNTED_RETURNS


def discounted_returns(
    rewards: Any,
    terminated: Any,
    truncated: Any = None,
    *,
    gamma: Any = 0.99,
    bootstrap: Any = None,
    final_values: Any = None,
    time_axis: int = 0,
    out: Any = None,
) -> Any:
    """Discounted returns-to-go, ``G_t = rewards[t] + gamma * G_{t+1}``, cut at the ends of episodes.

    Takes and returns arrays as :func:`metafast.gae` does.

    Parameters
    ----------
    rewards : float array, shape [T, ...] (or [N, T, ...] with ``time_axis=1``)
        Rewards of the steps.
    terminated, truncated : array of bool, or of 0 and 1, shape of `rewards`
        The episode ended in a terminal state at this step; it was cut there. `truncated` may be left out.
    gamma : float or float array that broadcasts to `rewards`
        Discount factor.
    bootstrap : float array, shape of `rewards` without the time axis, optional
        The return after the last step, where that step neither terminated nor was truncated. Default 0.
    final_values : float array, shape of `rewards`, optional
        The return after a truncated step. Default 0, plain Monte Carlo.
    time_axis : {0, 1}
        Which axis is time.
    out : float array, shape of `rewards`, optional
        Where to write the result; must not overlap the inputs.

    Returns
    -------
    returns : array of the shape and dtype of `rewards`

    Raises
    ------
    ValueError
        A shape does not fit; `out` overlaps an input.
    TypeError
        Arrays of several libraries, devices or float dtypes; rewards that are not floats; masked, byte-swapped or
        misaligned arrays.

    Notes
    -----
    Sutton and Barto, "Reinforcement learning", 2nd edition, equation 3.9. Torch tensors that require grad get
    gradients of any order; under ``torch.compile`` the function is traced whole.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> rewards, terminated = np.array([1.0, 1.0, 1.0]), np.array([False, True, False])
    >>> metafast.discounted_returns(rewards, terminated, gamma=0.5, bootstrap=np.array(8.0))
    array([1.5, 1. , 5. ])
    """
    return DISCOUNTED_RETURNS(rewards, terminated, truncated, gamma, bootstrap, final_values, time_axis, out)
