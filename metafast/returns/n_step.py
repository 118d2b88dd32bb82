"""N-step returns."""

from __future__ import annotations

from typing import Any

from metafast.returns._estimator import N_STEP_RETURNS


def n_step_returns(
    rewards: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any = None,
    *,
    gamma: Any,
    n: int,
    time_axis: int = 0,
    out: Any = None,
) -> Any:
    """N-step targets, ``G_t = rewards[t] + gamma * rewards[t+1] + ... + gamma**m * V(s_{t+m})``.

    m is `n`, or fewer where the episode or the array ends sooner: at step ``t + m - 1``. If it `terminated` there, V is
    0. Takes and returns arrays as :func:`metafast.gae` does.

    Parameters
    ----------
    rewards : float array, shape [T, ...] (or [N, T, ...] with ``time_axis=1``)
        Rewards of the steps; ``rewards[t]`` follows the action of step t.
    next_values : float array, shape of `rewards`
        V(s_{t+1}) of the true successors: at a truncated step, of the state in which the episode was left.
    terminated, truncated : array of bool, or of 0 and 1, shape of `rewards`
        The episode ended in a terminal state at this step; it was cut there. `truncated` may be left out.
    gamma : float or float array that broadcasts to `rewards`
        Discount factor from step t + 1 to t; where it is an array, powers are products along time.
    n : int
        Number of rewards in a target, 1 or more.
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
        A shape does not fit; `n` is less than 1; `out` overlaps an input.
    TypeError
        Arrays of several libraries, devices or float dtypes; rewards that are not floats; an `n` that is no integer;
        masked, byte-swapped or misaligned arrays.

    Notes
    -----
    Sutton and Barto, "Reinforcement learning", 2nd edition, equation 7.1. Gradients are those of :func:`metafast.gae`,
    of any order; there the windows of n steps are put together from windows of 1, 2, 4, ... steps, at most 2 log2(n)
    times, where a sum of n shifted arrays would take n.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> rewards, next_values = np.array([1.0, 2.0, 3.0]), np.array([4.0, 8.0, 2.0])
    >>> terminated = np.array([False, False, False])
    >>> metafast.n_step_returns(rewards, next_values, terminated, gamma=0.5, n=2)
    array([4., 4., 4.])
    """
    return N_STEP_RETURNS(rewards, next_values, terminated, truncated, gamma, n, time_axis, out)
