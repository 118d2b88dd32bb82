"""rlax's multistep returns and temporal-difference errors: its names, signatures and results, in JAX.

Arrays are unbatched, [T], with ``discount_t = gamma * (1 - terminal)``; batches come by ``jax.vmap``. Everything works
under ``jax.jit``, ``jax.vmap`` and ``jax.grad``, and gradients are rlax's own, those of `stop_target_gradients`
included. What is sequential is one recurrence, ``x[t] = offsets[t] + decays[t] * x[t + 1]``. Arrays outside of ``jit``
go to metafast's kernel; compiled programs call back to it where the steps in all, those of ``vmap`` included, are many
enough to pay for the call (2**16), and are otherwise, or on another device than the CPU, loops of XLA's.

A discount of 0 cuts: a NaN in the value behind it, or in the rewards of the next episode, stays there. In rlax it is
multiplied by 0, which makes it NaN in all the steps before. rlax itself is not imported.
"""

try:
    import jax  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"metafast.compat.rlax could not import JAX ({error}), whose arrays it takes: `pip install jax`"
    ) from error

from metafast.compat.rlax._multistep import (
    discounted_returns,
    general_off_policy_returns_from_action_values,
    general_off_policy_returns_from_q_and_v,
    importance_corrected_td_errors,
    lambda_returns,
    n_step_bootstrapped_returns,
    truncated_generalized_advantage_estimation,
)
from metafast.compat.rlax._value_learning import q_lambda, retrace, retrace_continuous, sarsa_lambda, td_lambda
from metafast.compat.rlax._vtrace import (
    VTraceOutput,
    leaky_vtrace,
    leaky_vtrace_td_error_and_advantage,
    vtrace,
    vtrace_td_error_and_advantage,
)

__all__ = [
    "VTraceOutput",
    "discounted_returns",
    "general_off_policy_returns_from_action_values",
    "general_off_policy_returns_from_q_and_v",
    "importance_corrected_td_errors",
    "lambda_returns",
    "leaky_vtrace",
    "leaky_vtrace_td_error_and_advantage",
    "n_step_bootstrapped_returns",
    "q_lambda",
    "retrace",
    "retrace_continuous",
    "sarsa_lambda",
    "td_lambda",
    "truncated_generalized_advantage_estimation",
    "vtrace",
    "vtrace_td_error_and_advantage",
]
