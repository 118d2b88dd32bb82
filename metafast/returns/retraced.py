"""Retrace."""

from __future__ import annotations

from typing import Any

from metafast.returns._estimator import RETRACE


def retrace(
    q: Any,
    next_q_expected: Any,
    next_q: Any,
    log_rhos: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any = None,
    *,
    gamma: Any,
    lam: Any,
    time_axis: int = 0,
    out: Any = None,
) -> Any:
    """Retrace(lambda) targets for action values, from data that another policy gathered.

    ``G_t = rewards[t] + gamma * (E_pi Q(s_{t+1}, .) + c_{t+1} * (G_{t+1} - Q(s_{t+1}, a_{t+1})))`` with the trace
    coefficient ``c_t = lam * min(1, exp(log_rhos[t]))``. Where the episode or the array ends at step t,
    ``G_t = rewards[t] + gamma * E_pi Q(s_{t+1}, .)``, whose expectation is 0 if the episode `terminated`.

    Takes and returns arrays as :func:`metafast.gae` does, but the result is a constant: it carries no gradient, and
    tensors that require grad are taken as they are.

    Parameters
    ----------
    q : float array, shape of `rewards`
        Q(s_t, a_t), the predictions that the targets are for. Only its shape and dtype are looked at.
    next_q_expected : float array, shape of `rewards`
        The expectation of Q(s_{t+1}, a) over the actions of the policy that is learnt, in the true successors.
    next_q : float array, shape of `rewards`
        Q(s_{t+1}, a_{t+1}) of the action that was taken next; not read where an episode or the array ends. It may come
        from another network than `q`.
    log_rhos : float array, shape of `rewards`
        log(pi(a_t | s_t) / mu(a_t | s_t)) of step t's own action, with mu the policy that chose it. Those of the first
        step are not used.
    rewards : float array, shape [T, ...] (or [N, T, ...] with ``time_axis=1``)
        Rewards of the steps; ``rewards[t]`` follows the action of step t.
    terminated, truncated : array of bool, or of 0 and 1, shape of `rewards`
        The episode ended in a terminal state at this step; it was cut there. `truncated` may be left out.
    gamma, lam : float or float array that broadcasts to `rewards`
        Discount factor from step t + 1 to t, and a factor of the trace coefficient of step t.
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
    Munos et al., "Safe and efficient off-policy reinforcement learning", NeurIPS 2016, equation 3 with
    the coefficients of Retrace(lambda): one sample of its right side, in recursive form.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> q, next_q_expected, next_q = np.zeros(3), np.array([2.0, 4.0, 6.0]), np.array([1.0, 3.0, np.nan])
    >>> log_rhos, rewards = np.log([1.0, 0.5, 2.0]), np.array([1.0, 2.0, 3.0])
    >>> terminated = np.array([False, False, False])
    >>> metafast.retrace(q, next_q_expected, next_q, log_rhos, rewards, terminated, gamma=0.5, lam=1.0)
    array([3.125, 5.5  , 6.   ])
    """
    return RETRACE(q, next_q_expected, next_q, log_rhos, rewards, terminated, truncated, gamma, lam, time_axis, out)
