"""rlax's multistep returns."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from metafast.compat.rlax._recurrence import (
    action_values,
    check,
    check_actions,
    shielded,
    stop,
    stop_targets,
    suffix_scan,
    vector,
)


def lambda_returns(r_t: Any, discount_t: Any, v_t: Any, lambda_: Any = 1.0, stop_target_gradients: bool = False) -> Any:
    """TD(lambda) targets ``G[t] = r[t] + discount[t] * ((1 - lambda) * v[t] + lambda * G[t + 1])``, all of time t + 1.

    Parameters
    ----------
    r_t, discount_t, v_t : float array [T]
        Rewards, discounts and values of the successors.
    lambda_ : float or float array [T]
        The weight of longer returns.
    stop_target_gradients : bool
        Whether the result is a constant to JAX's gradients.

    Returns
    -------
    returns : array [T]
        The last one bootstraps from the last value whatever `lambda_` is.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> lambda_returns(jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5]), jnp.array([4.0, 8.0]), 0.5)
    Array([3.5, 6. ], dtype=float32)
    """
    r_t, discount_t, v_t, lambda_ = check({"lambda_": -1}, r_t=r_t, discount_t=discount_t, v_t=v_t, lambda_=lambda_)
    lambda_ = vector(lambda_, discount_t)
    weights = jnp.concatenate([1 - lambda_[:-1], jnp.ones_like(lambda_[-1:])])
    returns = suffix_scan(r_t + discount_t * (weights * shielded(v_t, discount_t, weights)), discount_t * lambda_)
    return stop(stop_target_gradients, returns)


def discounted_returns(r_t: Any, discount_t: Any, v_t: Any, stop_target_gradients: bool = False) -> Any:
    """Discounted returns that bootstrap from the last of the values, or from the one value given.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> discounted_returns(jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5]), jnp.float32(8.0))
    Array([4., 6.], dtype=float32)
    """
    r_t, discount_t, v_t = check({"v_t": -1}, r_t=r_t, discount_t=discount_t, v_t=v_t)
    return lambda_returns(r_t, discount_t, vector(v_t, discount_t), 1.0, stop_target_gradients)


def n_step_bootstrapped_returns(
    r_t: Any, discount_t: Any, v_t: Any, n: int, lambda_t: Any = 1.0, stop_target_gradients: bool = False
) -> Any:
    """n-step targets, `lambda_returns` of the next n steps each; fewer at the end.

    A step is the map ``x -> r + discount * ((1 - lambda) * v + lambda * x)``. n steps are that many maps one after the
    other; they are put together in pairs, pairs of pairs, ..., so this takes about 2 log2(n) of XLA's operations
    over all steps, which are few enough not to leave the compiled program for a kernel.

    Parameters
    ----------
    r_t, discount_t, v_t : float array [T]
        Rewards, discounts and values of the successors.
    n : int
        How many rewards are counted, at least 1.
    lambda_t : float or float array [T]
        The weight of longer returns among those of up to n steps.
    stop_target_gradients : bool
        Whether the result is a constant to JAX's gradients.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> n_step_bootstrapped_returns(jnp.ones(3), jnp.full(3, 0.5), jnp.array([4.0, 8.0, 16.0]), n=2)
    Array([3.5, 5.5, 9. ], dtype=float32)
    """
    r_t, discount_t, v_t, lambda_t = check({"lambda_t": -1}, r_t=r_t, discount_t=discount_t, v_t=v_t, lambda_t=lambda_t)
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    lambda_t = vector(lambda_t, discount_t)
    weights = 1 - lambda_t
    doubled = (r_t + discount_t * (weights * shielded(v_t, discount_t, weights)), discount_t * lambda_t)
    window, covered, length = None, 0, 1
    remaining = min(n, len(r_t))
    while remaining:
        if remaining & length:
            window = doubled if window is None else _then(window, doubled, covered)
            covered += length
            remaining -= length
        if remaining:
            doubled = _then(doubled, doubled, length)
            length *= 2
    if window is None:
        return r_t
    offsets, decays = window
    bootstraps = jnp.concatenate([v_t[covered - 1 :], jnp.repeat(v_t[-1:], covered - 1)])
    return stop(stop_target_gradients, offsets + decays * shielded(bootstraps, decays))


def _then(maps: tuple[Any, Any], others: tuple[Any, Any], steps: int) -> tuple[Any, Any]:
    """Put behind each map the other one so many steps later; behind the last step nothing changes."""
    offsets, decays = maps
    later_offsets = jnp.concatenate([others[0][steps:], jnp.zeros_like(offsets[:steps])])
    later_decays = jnp.concatenate([others[1][steps:], jnp.ones_like(decays[:steps])])
    return offsets + decays * shielded(later_offsets, decays), decays * later_decays


def importance_corrected_td_errors(
    r_t: Any, discount_t: Any, rho_tm1: Any, lambda_: Any, values: Any, stop_target_gradients: bool = False
) -> Any:
    """Multistep temporal-difference errors with importance sampling of each decision.

    ``rho[t] * D[t]`` with ``D[t] = delta[t] + discount[t] * lambda[t] * rho[t + 1] * D[t + 1]``.

    Parameters
    ----------
    r_t, discount_t : float array [T]
        Rewards and discounts.
    rho_tm1 : float array [T]
        Ratios of the action probabilities, target to behaviour.
    lambda_ : float or float array [T]
        The weight of longer returns.
    values : float array [T + 1]
        Values of all states, the last included.
    stop_target_gradients : bool
        Whether what is added to the values is a constant to JAX's gradients.
    """
    (values,) = check({}, values=values)
    r_t, discount_t, rho_tm1, v_tm1, lambda_ = check(
        {"lambda_": -1},
        r_t=r_t,
        discount_t=discount_t,
        rho_tm1=rho_tm1,
        **{"values[:-1]": values[:-1]},
        lambda_=lambda_,
    )
    rho_t = jnp.concatenate([rho_tm1[1:], jnp.ones_like(rho_tm1[:1])])
    deltas = r_t + discount_t * shielded(values[1:], discount_t) - v_tm1
    errors = rho_tm1 * suffix_scan(deltas, discount_t * rho_t * vector(lambda_, discount_t))
    return stop_targets(stop_target_gradients, errors, v_tm1)


def truncated_generalized_advantage_estimation(
    r_t: Any, discount_t: Any, lambda_: Any, values: Any, stop_target_gradients: bool = False
) -> Any:
    """Generalised advantage estimates.

    Parameters
    ----------
    r_t, discount_t : float array [T]
        Rewards and discounts.
    lambda_ : float or float array [T]
        The weight of longer returns.
    values : float array [T + 1]
        Values of all states, the last included.
    stop_target_gradients : bool
        Whether the result is a constant to JAX's gradients.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> values = jnp.array([0.5, 0.25, 0.125, 2.0])
    >>> truncated_generalized_advantage_estimation(jnp.array([1.0, 2.0, 3.0]), jnp.full(3, 0.5), 0.5, values)
    Array([1.3203125, 2.78125  , 3.875    ], dtype=float32)
    """
    (values,) = check({}, values=values)
    r_t, discount_t, v_tm1, lambda_ = check(
        {"lambda_": -1}, r_t=r_t, discount_t=discount_t, **{"values[:-1]": values[:-1]}, lambda_=lambda_
    )
    deltas = r_t + discount_t * shielded(values[1:], discount_t) - v_tm1
    return stop(stop_target_gradients, suffix_scan(deltas, discount_t * vector(lambda_, discount_t)))


def general_off_policy_returns_from_action_values(
    q_t: Any, a_t: Any, r_t: Any, discount_t: Any, c_t: Any, pi_t: Any, stop_target_gradients: bool = False
) -> Any:
    """Off-policy targets from the values of all actions; see `general_off_policy_returns_from_q_and_v`.

    Parameters
    ----------
    q_t, pi_t : float array [K, A]
        Action values of the successors, and the target policy's probabilities there.
    a_t : int array [K]
        The actions taken there.
    r_t, discount_t, c_t : float array [K]
        Rewards, discounts, and traces of those actions; the last trace is not used.
    stop_target_gradients : bool
        Whether the result is a constant to JAX's gradients.
    """
    q_t, pi_t, r_t, discount_t, c_t = check(
        {"q_t": 2, "pi_t": 2}, q_t=q_t, pi_t=pi_t, r_t=r_t, discount_t=discount_t, c_t=c_t
    )
    if pi_t.shape != q_t.shape:
        raise ValueError(f"pi_t has shape {pi_t.shape}, expected {q_t.shape}, the shape of q_t")
    taken = action_values(q_t, check_actions("a_t", a_t, len(q_t)))
    return general_off_policy_returns_from_q_and_v(
        taken[:-1], (pi_t * q_t).sum(axis=-1), r_t, discount_t, c_t[:-1], stop_target_gradients
    )


def general_off_policy_returns_from_q_and_v(
    q_t: Any, v_t: Any, r_t: Any, discount_t: Any, c_t: Any, stop_target_gradients: bool = False
) -> Any:
    """Off-policy targets ``G[t] = r[t] + discount[t] * (v[t] + c[t] * (G[t + 1] - q[t]))``, all of time t + 1.

    Parameters
    ----------
    q_t, c_t : float array [K - 1]
        Values of the actions taken in the successors, and their traces; the last successor's are not needed.
    v_t : float array [K]
        Expected values of the successors under the target policy.
    r_t, discount_t : float array [K]
        Rewards and discounts.
    stop_target_gradients : bool
        Whether the result is a constant to JAX's gradients.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> q_t, v_t, c_t = jnp.array([2.0]), jnp.array([3.0, 4.0]), jnp.array([0.5])
    >>> general_off_policy_returns_from_q_and_v(q_t, v_t, jnp.array([1.0, 2.0]), jnp.full(2, 0.5), c_t)
    Array([3., 4.], dtype=float32)
    """
    v_t, r_t, discount_t = check({}, v_t=v_t, r_t=r_t, discount_t=discount_t)
    _, q_t, c_t = check({}, **{"v_t[:-1]": v_t[:-1]}, q_t=q_t, c_t=c_t)
    nothing = jnp.zeros_like(v_t[-1:])
    q_t, c_t = jnp.concatenate([q_t, nothing]), jnp.concatenate([c_t, nothing])
    offsets = r_t + discount_t * (shielded(v_t, discount_t) - c_t * shielded(q_t, discount_t, c_t))
    return stop(stop_target_gradients, suffix_scan(offsets, discount_t * c_t))
