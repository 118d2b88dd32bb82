"""rlax's multistep temporal-difference errors of values and action values: a target less the prediction."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from metafast.compat.rlax._multistep import (
    general_off_policy_returns_from_action_values,
    general_off_policy_returns_from_q_and_v,
    lambda_returns,
)
from metafast.compat.rlax._recurrence import action_values, check, check_actions


def td_lambda(v_tm1: Any, r_t: Any, discount_t: Any, v_t: Any, lambda_: Any, stop_target_gradients: bool = True) -> Any:
    """TD(lambda) errors: `lambda_returns` of the successors' values `v_t`, less the values `v_tm1`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> td_lambda(jnp.ones(2), jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5]), jnp.array([4.0, 8.0]), 0.5)
    Array([2.5, 5. ], dtype=float32)
    """
    v_tm1, r_t = check({}, v_tm1=v_tm1, r_t=r_t)
    return lambda_returns(r_t, discount_t, v_t, lambda_, stop_target_gradients) - v_tm1


def sarsa_lambda(
    q_tm1: Any,
    a_tm1: Any,
    r_t: Any,
    discount_t: Any,
    q_t: Any,
    a_t: Any,
    lambda_: Any,
    stop_target_gradients: bool = True,
) -> Any:
    """SARSA(lambda) errors: `lambda_returns` of the values of the next actions, less those of the actions taken.

    Action values `q_tm1` and `q_t` are [T, A], actions `a_tm1` and `a_t` int [T], the rest as in `lambda_returns`.
    """
    q_tm1, q_t, r_t = check({"q_tm1": 2, "q_t": 2}, q_tm1=q_tm1, q_t=q_t, r_t=r_t)
    predicted = action_values(q_tm1, check_actions("a_tm1", a_tm1, len(q_tm1)))
    following = action_values(q_t, check_actions("a_t", a_t, len(q_t)))
    return lambda_returns(r_t, discount_t, following, lambda_, stop_target_gradients) - predicted


def q_lambda(
    q_tm1: Any, a_tm1: Any, r_t: Any, discount_t: Any, q_t: Any, lambda_: Any, stop_target_gradients: bool = True
) -> Any:
    """Q(lambda) errors: `lambda_returns` of the successors' greatest action values, less those of the actions taken.

    Peng's where `lambda_` is a number, Watkins's where it is an array that is 0 at actions that were not greedy.
    Action values `q_tm1` and `q_t` are [T, A], actions `a_tm1` int [T], the rest as in `lambda_returns`.
    """
    q_tm1, q_t, r_t = check({"q_tm1": 2, "q_t": 2}, q_tm1=q_tm1, q_t=q_t, r_t=r_t)
    predicted = action_values(q_tm1, check_actions("a_tm1", a_tm1, len(q_tm1)))
    return lambda_returns(r_t, discount_t, q_t.max(axis=-1), lambda_, stop_target_gradients) - predicted


def retrace(
    q_tm1: Any,
    q_t: Any,
    a_tm1: Any,
    a_t: Any,
    r_t: Any,
    discount_t: Any,
    pi_t: Any,
    mu_t: Any,
    lambda_: Any,
    eps: float = 1e-8,
    stop_target_gradients: bool = True,
) -> Any:
    """Retrace errors, from the probabilities that the two policies give to the actions.

    Parameters
    ----------
    q_tm1, q_t : float array [T, A]
        Action values of the states and of their successors.
    a_tm1, a_t : int array [T]
        The actions taken in them.
    r_t, discount_t : float array [T]
        Rewards and discounts.
    pi_t : float array [T, A]
        The target policy's probabilities in the successors.
    mu_t : float array [T]
        The behaviour policy's probabilities of the actions taken there.
    lambda_ : float
        The weight of longer returns.
    eps : float
        Added to `mu_t` in the quotient.
    stop_target_gradients : bool
        Whether the targets are constants to JAX's gradients.
    """
    q_tm1, pi_t, mu_t = check({"q_tm1": 2, "pi_t": 2}, q_tm1=q_tm1, pi_t=pi_t, mu_t=mu_t)
    predicted = action_values(q_tm1, check_actions("a_tm1", a_tm1, len(q_tm1)))
    traces = jnp.minimum(1.0, action_values(pi_t, check_actions("a_t", a_t, len(pi_t))) / (mu_t + eps)) * lambda_
    targets = general_off_policy_returns_from_action_values(
        q_t, a_t, r_t, discount_t, traces, pi_t, stop_target_gradients
    )
    return targets - predicted


def retrace_continuous(
    q_tm1: Any,
    q_t: Any,
    v_t: Any,
    r_t: Any,
    discount_t: Any,
    log_rhos: Any,
    lambda_: Any,
    stop_target_gradients: bool = True,
) -> Any:
    """Retrace errors, from the logarithms of the probability ratios.

    Parameters
    ----------
    q_tm1 : float array [K]
        Values of the actions taken.
    q_t, log_rhos : float array [K - 1]
        Values of the next actions, and their log ratios; the last successor's are not needed.
    v_t, r_t, discount_t : float array [K]
        Expected values of the successors, rewards and discounts.
    lambda_ : float or float array [K - 1]
        The weight of longer returns.
    stop_target_gradients : bool
        Whether the targets are constants to JAX's gradients.
    """
    q_tm1, v_t = check({}, q_tm1=q_tm1, v_t=v_t)
    log_rhos, lambda_ = check({"lambda_": -1}, log_rhos=log_rhos, lambda_=lambda_)
    traces = jnp.minimum(1.0, jnp.exp(log_rhos)) * lambda_
    return general_off_policy_returns_from_q_and_v(q_t, v_t, r_t, discount_t, traces, stop_target_gradients) - q_tm1
