"""rlax's V-trace: errors of the values, and the advantages of the policy gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from metafast.compat.rlax._recurrence import check, shielded, stop_targets, suffix_scan, vector


class VTraceOutput(NamedTuple):
    """Value errors, policy-gradient advantages, and the estimated action values behind them; arrays [T]."""

    errors: Any
    pg_advantage: Any
    q_estimate: Any


def vtrace(
    v_tm1: Any,
    v_t: Any,
    r_t: Any,
    discount_t: Any,
    rho_tm1: Any,
    lambda_: Any = 1.0,
    clip_rho_threshold: float = 1.0,
    stop_target_gradients: bool = True,
    sample_mask: Any = None,
) -> Any:
    """V-trace targets less the values `v_tm1`.

    Parameters
    ----------
    v_tm1, v_t : float array [T]
        Values of the states and of their successors.
    r_t, discount_t : float array [T]
        Rewards and discounts.
    rho_tm1 : float array [T]
        Ratios of the action probabilities, target to behaviour.
    lambda_ : float or float array [T]
        The weight of longer returns: a factor of the traces.
    clip_rho_threshold : float
        Where the ratios are clipped that weigh the errors. The traces' are clipped at 1.
    stop_target_gradients : bool
        Whether the targets are constants to JAX's gradients.
    sample_mask : bool array [T], optional
        Where it is False the step is left out, and has the error of the next step.

    Returns
    -------
    errors : array [T]

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> values, rhos = jnp.array([0.5, 0.25, 0.125, 2.0]), jnp.array([2.0, 0.5, 1.0])
    >>> values[:-1] + vtrace(values[:-1], values[1:], jnp.array([1.0, 2.0, 3.0]), jnp.full(3, 0.5), rhos)
    Array([2.0625, 2.125 , 4.    ], dtype=float32)
    """
    return leaky_vtrace(
        v_tm1, v_t, r_t, discount_t, rho_tm1, 1.0, lambda_, clip_rho_threshold, stop_target_gradients, sample_mask
    )


def leaky_vtrace(
    v_tm1: Any,
    v_t: Any,
    r_t: Any,
    discount_t: Any,
    rho_tm1: Any,
    alpha_: Any = 1.0,
    lambda_: Any = 1.0,
    clip_rho_threshold: float = 1.0,
    stop_target_gradients: bool = True,
    sample_mask: Any = None,
) -> Any:
    """`vtrace` with a part `alpha_` of each ratio clipped, and the rest as it is."""
    v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_ = check(
        {"lambda_": -1}, v_tm1=v_tm1, v_t=v_t, r_t=r_t, discount_t=discount_t, rho_tm1=rho_tm1, lambda_=lambda_
    )
    errors = _leaky(rho_tm1, alpha_, clip_rho_threshold) * (r_t + discount_t * shielded(v_t, discount_t) - v_tm1)
    decays = discount_t * _leaky(rho_tm1, alpha_, 1.0) * lambda_
    if sample_mask is not None:
        mask = _check_mask(sample_mask, rho_tm1)
        errors, decays = jnp.where(mask, errors, 0), jnp.where(mask, decays, 1)
    return stop_targets(stop_target_gradients, suffix_scan(errors, decays), v_tm1)


def vtrace_td_error_and_advantage(
    v_tm1: Any,
    v_t: Any,
    r_t: Any,
    discount_t: Any,
    rho_tm1: Any,
    lambda_: Any = 1.0,
    clip_rho_threshold: float = 1.0,
    clip_pg_rho_threshold: float = 1.0,
    stop_target_gradients: bool = True,
    sample_mask: Any = None,
) -> VTraceOutput:
    """`vtrace`, and the policy gradient's advantages, whose bootstraps mix targets and values by `lambda_`.

    (:func:`metafast.vtrace` does not mix.) Parameters are those of `vtrace`; `clip_pg_rho_threshold` is where the
    ratios are clipped that weigh the advantages.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> values, rhos = jnp.array([0.5, 0.25, 0.125, 2.0]), jnp.array([2.0, 0.5, 1.0])
    >>> arguments = values[:-1], values[1:], jnp.array([1.0, 2.0, 3.0]), jnp.full(3, 0.5), rhos
    >>> vtrace_td_error_and_advantage(*arguments).pg_advantage
    Array([1.5625, 1.875 , 3.875 ], dtype=float32)
    """
    return leaky_vtrace_td_error_and_advantage(
        v_tm1, v_t, r_t, discount_t, rho_tm1, 1.0, lambda_, clip_rho_threshold, clip_pg_rho_threshold,
        stop_target_gradients, sample_mask,
    )  # fmt: skip


def leaky_vtrace_td_error_and_advantage(
    v_tm1: Any,
    v_t: Any,
    r_t: Any,
    discount_t: Any,
    rho_tm1: Any,
    alpha: Any = 1.0,
    lambda_: Any = 1.0,
    clip_rho_threshold: float = 1.0,
    clip_pg_rho_threshold: float = 1.0,
    stop_target_gradients: bool = True,
    sample_mask: Any = None,
) -> VTraceOutput:
    """`vtrace_td_error_and_advantage` with a part `alpha` of each ratio clipped, and the rest as it is."""
    v_tm1, v_t, r_t, discount_t, rho_tm1 = check(
        {}, v_tm1=v_tm1, v_t=v_t, r_t=r_t, discount_t=discount_t, rho_tm1=rho_tm1
    )
    errors = leaky_vtrace(
        v_tm1, v_t, r_t, discount_t, rho_tm1, alpha, lambda_, clip_rho_threshold, stop_target_gradients, sample_mask
    )
    targets = errors + v_tm1
    weights, discounts = vector(lambda_, discount_t)[:-1], discount_t[:-1]
    bootstraps = jnp.concatenate(
        [
            weights * shielded(targets[1:], discounts, weights)
            + (1 - weights) * shielded(v_tm1[1:], discounts, 1 - weights),
            shielded(v_t[-1:], discount_t[-1:]),
        ]
    )
    q_estimate = r_t + discount_t * bootstraps
    advantages = _leaky(rho_tm1, alpha, clip_pg_rho_threshold) * (q_estimate - v_tm1)
    return VTraceOutput(errors, advantages, q_estimate)


def _leaky(rhos: Any, alpha: Any, threshold: Any) -> Any:
    clipped = jnp.minimum(threshold, rhos)
    if isinstance(alpha, float) and alpha == 1.0:
        return clipped  # also where a ratio is infinite
    return (1 - alpha) * rhos + alpha * clipped


def _check_mask(mask: Any, like: Any) -> Any:
    array = jnp.asarray(mask)
    if array.dtype != jnp.bool_:
        raise TypeError(f"sample_mask has dtype {array.dtype}; expected bool")
    if array.shape != like.shape:
        raise ValueError(f"sample_mask has shape {array.shape}, expected {like.shape}")
    return array
