"""Peng's Q(lambda)."""

from __future__ import annotations

from typing import Any

from metafast.returns._estimator import Q_LAMBDA


def q_lambda(
    next_q_max: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any = None,
    *,
    gamma: Any,
    lam: Any,
    time_axis: int = 0,
    out: Any = None,
) -> Any:
    """Targets of Peng's Q(lambda), ``G_t = rewards[t] + gamma * ((1 - lam) * max_a Q(s_{t+1}, a) + lam * G_{t+1})``.

    The traces are not cut where an action was not greedy. Where the episode, or the array, ends at step t,
    ``G_t = rewards[t] + gamma * max_a Q(s_{t+1}, a)``, whose maximum is 0 if the episode `terminated`.

    Takes and returns arrays as :func:`metafast.gae` does, but the result is a constant: it carries no gradient, and
    tensors that require grad are taken as they are.

    Parameters
    ----------
    next_q_max : float array, shape of `rewards`
        The largest Q(s_{t+1}, a) of the true successors: at a truncated step, of the state in which the episode was
        left.
    rewards : float array, shape [T, ...] (or [N, T, ...] with ``time_axis=1``)
        Rewards of the steps; ``rewards[t]`` follows the action of step t.
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
    targets : array of the shape and dtype of `rewards`

    Raises
    ------
    ValueError
        A shape does not fit; `out` overlaps an input.
    TypeError
        Arrays of several libraries, devices or float dtypes; rewards that are not floats; masked, byte-swapped or
        misaligned arrays.

    Notes
    -----
    Peng and Williams, "Incremental multi-step Q-learning", Machine Learning 22, 1996, in the recursive form of their
    TD(lambda) returns with the largest action value for V.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> next_q_max, rewards = np.array([4.0, 8.0, 2.0]), np.array([1.0, 2.0, 3.0])
    >>> metafast.q_lambda(next_q_max, rewards, np.array([False, True, False]), gamma=0.5, lam=0.5)
    array([2.5, 2. , 4. ])
    """
    return Q_LAMBDA(next_q_max, rewards, terminated, truncated, gamma, lam, time_axis, out)
