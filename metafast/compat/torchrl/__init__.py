"""torchrl's functional value estimators: the names and signatures of ``torchrl.objectives.value.functional``.

Tensors are ``[*batch, time, features]`` with time at `time_dim`, -2 unless it is given; no copy is made of contiguous
ones, wherever time is. `done` says that a trajectory ends with this step, `terminated` that it ended in a terminal
state, which has no value; without `terminated`, `done` is both. `gamma` and `lmbda` are numbers, tensors of one
element, or tensors that broadcast to the rewards. torchrl's loops and its ``vec_`` versions are the same function here.
Gradients flow to every tensor of floats, and ``torch.compile`` traces the functions whole.

Where torchrl is wrong these functions differ from it:

- What `next_state_value` holds at a terminal step, and what lies behind the end of a trajectory, is selected away.
  torchrl multiplies it by zero, so that a NaN or an infinity there becomes NaN in the results before it.
- The ``vec_`` versions have the loops' gradients to `gamma` and `lmbda`. In torchrl they have none through the decay of
  a trajectory where these are tensors of one element; and they drop powers of it below 1e-7.
- Among float64 tensors a `gamma` that is a number stays float64. Most of torchrl's functions round it to float32.
- A step that is `terminated` is `done`, whatever `done` says.
- ``time_dim=0`` of tensors without other axes is what ``time_dim=-1`` is.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"metafast.compat.torchrl could not import torch ({error}), whose tensors it takes: `pip install torch`"
    ) from error

from metafast.compat.torchrl._advantages import generalized_advantage_estimate, vec_generalized_advantage_estimate
from metafast.compat.torchrl._returns import (
    reward2go,
    td0_advantage_estimate,
    td0_return_estimate,
    td1_advantage_estimate,
    td1_return_estimate,
    td_lambda_advantage_estimate,
    td_lambda_return_estimate,
    vec_td1_advantage_estimate,
    vec_td1_return_estimate,
    vec_td_lambda_advantage_estimate,
    vec_td_lambda_return_estimate,
)
from metafast.compat.torchrl._vtrace import vtrace_advantage_estimate

__all__ = [
    "generalized_advantage_estimate",
    "reward2go",
    "td0_advantage_estimate",
    "td0_return_estimate",
    "td1_advantage_estimate",
    "td1_return_estimate",
    "td_lambda_advantage_estimate",
    "td_lambda_return_estimate",
    "vec_generalized_advantage_estimate",
    "vec_td1_advantage_estimate",
    "vec_td1_return_estimate",
    "vec_td_lambda_advantage_estimate",
    "vec_td_lambda_return_estimate",
    "vtrace_advantage_estimate",
]
