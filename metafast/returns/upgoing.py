"""Upgoing policy updates."""

from __future__ import annotations

from typing import Any

from metafast.returns._estimator import UPGO


def upgo(
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any = None,
    *,
    gamma: Any = 1.0,
    final_values: Any = None,
    time_axis: int = 0,
    out: Any = None,
) -> Any:
    """Upgoing advantages: a trajectory is followed as long as it does better than expected.

    ``G_t - values[t]``, where ``G_t = rewards[t] + gamma * G_{t+1}`` if the next step went at least as well as its
    value, ``rewards[t+1] + gamma * V(s_{t+2}) >= V(s_{t+1})``; else, and where the episode or the array ends at step t,
    ``G_t = rewards[t] + gamma * V(s_{t+1})``. V is 0 after a step that `terminated`. Inside an episode
    ``V(s_{t+1})`` on the right of the comparison, and in place of the return, is ``values[t + 1]``.

    Takes and returns arrays as :func:`metafast.gae` does, but the result is a constant: it carries no gradient, and
    tensors that require grad are taken as they are.

    Parameters
    ----------
    rewards, values : float array, shape [T, ...] (or [N, T, ...] with ``time_axis=1``)
        Rewards of the steps, and values of the states they were taken in.
    next_values : float array
        V(s_{t+1}) of the true successors in the shape of `rewards`; or, without the time axis, the values after the
        last step. In this second form the successors inside are ``values[t + 1]``, and those of truncated steps are
        in `final_values`.
    terminated, truncated : array of bool, or of 0 and 1, shape of `rewards`
        The episode ended in a terminal state at this step; it was cut there. `truncated` may be left out.
    gamma : float or float array that broadcasts to `rewards`
        Discount factor from step t + 1 to t.
    final_values : float array, shape of `rewards`, optional
        V of the state in which a truncated episode was left; read only where `truncated` (at the last step too), and
        only if `next_values` has no time axis.
    time_axis : {0, 1}
        Which axis is time.
    out : float array, shape of `rewards`, optional
        Where to write the result; must not overlap the inputs.

    Returns
    -------
    advantages : array of the shape and dtype of `rewards`
        The returns themselves are ``advantages + values``.

    Raises
    ------
    ValueError
        A shape does not fit; a truncated step before the last has no value of its successor; `out` overlaps an input.
    TypeError
        Arrays of several libraries, devices or float dtypes; rewards that are not floats; masked, byte-swapped or
        misaligned arrays.

    Notes
    -----
    Vinyals et al., "Grandmaster level in StarCraft II using multi-agent reinforcement learning", Nature 575, 2019,
    methods, "Upgoing policy update"; importance weights, if any, are the caller's to multiply with.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> rewards, values = np.array([1.0, -5.0, 3.0]), np.array([0.0, 2.0, 1.0])
    >>> metafast.upgo(rewards, values, np.array(0.0), np.array([False, False, False])) + values
    array([ 3., -2.,  3.])
    """
    return UPGO(rewards, values, next_values, terminated, truncated, gamma, final_values, time_axis, out)
