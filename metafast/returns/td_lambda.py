"""Lambda returns."""

from __future__ import annotations

from typing import Any

from metafast.returns._estimator import LAMBDA_RETURNS


def lambda_returns(
    rewards: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any = None,
    *,
    gamma: Any,
    lam: Any,
    time_axis: int = 0,
    out: Any = None,
) -> Any:
    """TD(lambda) targets, ``G_t = rewards[t] + gamma * ((1 - lam) * V(s_{t+1}) + lam * G_{t+1})``.

    Where the episode, or the array, ends at step t, ``G_t = rewards[t] + gamma * V(s_{t+1})``, in which V is 0 if the
    episode `terminated`. Takes and returns arrays as :func:`metafast.gae` does.

    Parameters
    ----------
    rewards : float array, shape [T, ...] (or [N, T, ...] with ``time_axis=1``)
        Rewards of the steps; ``rewards[t]`` follows the action of step t.
    next_values : float array, shape of `rewards`
        V(s_{t+1}) of the true successors: at a truncated step, of the state in which the episode was left.
    terminated, truncated : array of bool, or of 0 and 1, shape of `rewards`
        The episode ended in a terminal state at this step; it was cut there. `truncated` may be left out.
    gamma, lam : float or float array that broadcasts to `rewards`
        Discount factor from step t + 1 to t, and the weight of longer returns in the target of step t.
    time_axis : {0, 1}
        Which axis is time.
    out : float array, shape of `rewards`, optional
        Where to write the result; must not overlap the inputs.

    Returns
    -------
    returns : array of the shape and dtype of `rewards`
        With ``lam=0`` one-step targets, with ``lam=1`` discounted returns that bootstrap at truncations and at the end.

    Raises
    ------
    ValueError
        A shape does not fit; `out` overlaps an input.
    TypeError
        Arrays of several libraries, devices or float dtypes; rewards that are not floats; masked, byte-swapped or
        misaligned arrays.

    Notes
    -----
    Sutton and Barto, "Reinforcement learning", 2nd edition, equations 12.2 and 12.18 (there V(s_{t+1}) is indexed as
    here). Gradients are those of :func:`metafast.gae`: of any order, to `gamma` and `lam` too.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> rewards, next_values = np.array([1.0, 2.0, 3.0]), np.array([4.0, 8.0, 2.0])
    >>> terminated = np.array([False, False, False])
    >>> metafast.lambda_returns(rewards, next_values, terminated, gamma=0.5, lam=0.5)
    array([3.25, 5.  , 4.  ])
    """
    return LAMBDA_RETURNS(rewards, next_values, terminated, truncated, gamma, lam, time_axis, out)
