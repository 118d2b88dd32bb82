"""V-trace."""

from __future__ import annotations

from typing import Any

from metafast.returns._estimator import VTRACE


def vtrace(
    log_rhos: Any,
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any = None,
    *,
    gamma: Any,
    lam: Any = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
    final_values: Any = None,
    time_axis: int = 0,
    out: Any = None,
) -> Any:
    """V-trace targets and policy-gradient advantages, for data that another policy gathered.

    With ``rho_t = exp(log_rhos[t])`` and ``delta_t = min(clip_rho, rho_t) * (rewards[t] + gamma * V(s_{t+1}) -
    values[t])``, the targets are ``values[t] + A_t``, where ``A_t = delta_t + gamma * lam * min(clip_c, rho_t) *
    A_{t+1}``. The advantages are ``min(clip_pg_rho, rho_t) * (rewards[t] + gamma * target_{t+1} - values[t])``, where
    ``target_{t+1}`` is V(s_{t+1}) if the episode or the array ends at step t, and 0 if it `terminated`.

    Takes and returns arrays as :func:`metafast.gae` does, but the results are constants: they carry no gradient, and
    tensors that require grad are taken as they are.

    Parameters
    ----------
    log_rhos : float array, shape of `rewards`
        log(pi(a_t | s_t) / mu(a_t | s_t)) of step t's own action, with mu the policy that chose it.
    rewards, values : float array, shape [T, ...] (or [N, T, ...] with ``time_axis=1``)
        Rewards of the steps, and values of the states they were taken in.
    next_values : float array
        V(s_{t+1}) of the true successors in the shape of `rewards`; or, without the time axis, the values after the
        last step. In this second form the successors inside are ``values[t + 1]``, and those of truncated steps are
        in `final_values`.
    terminated, truncated : array of bool, or of 0 and 1, shape of `rewards`
        The episode ended in a terminal state at this step; it was cut there. `truncated` may be left out.
    gamma, lam : float or float array that broadcasts to `rewards`
        Discount factor from step t + 1 to t, and a factor of the trace coefficient of step t.
    clip_rho, clip_c, clip_pg_rho : float
        Upper bounds of rho in the temporal difference, in the trace coefficient and in the advantages: positive,
        infinity for none. `clip_rho` decides whose values are learnt, `clip_c` how fast.
    final_values : float array, shape of `rewards`, optional
        V of the state in which a truncated episode was left; read only where `truncated` (at the last step too), and
        only if `next_values` has no time axis.
    time_axis : {0, 1}
        Which axis is time.
    out : pair of float arrays, optional
        Where to write ``(targets, pg_advantages)``; must not overlap the inputs.

    Returns
    -------
    targets, pg_advantages : arrays of the shape and dtype of `rewards`
        What the value function is fitted to, and what weights the policy's gradient. `lam` is not mixed into the
        second beyond what is in the targets.

    Raises
    ------
    ValueError
        A shape does not fit; a truncated step before the last has no value of its successor; a bound is not positive;
        `out` overlaps an input.
    TypeError
        Arrays of several libraries, devices or float dtypes; rewards that are not floats; masked, byte-swapped or
        misaligned arrays.

    Notes
    -----
    Espeholt et al., "IMPALA: scalable distributed deep-RL with importance weighted actor-learner architectures", ICML
    2018, equation 1 (with the lambda of its remark 2) and section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> rewards, values = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.25, 0.125])
    >>> log_rhos, terminated = np.log([2.0, 0.5, 1.0]), np.array([False, False, False])
    >>> targets, advantages = metafast.vtrace(log_rhos, rewards, values, np.array(2.0), terminated, gamma=0.5)
    >>> targets
    array([2.0625, 2.125 , 4.    ])
    >>> advantages
    array([1.5625, 1.875 , 3.875 ])
    """
    return VTRACE(
        log_rhos, rewards, values, next_values, terminated, truncated, gamma, lam, clip_rho, clip_c, clip_pg_rho,
        final_values, time_axis, out,
    )  # fmt: skip
