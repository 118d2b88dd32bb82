"""What all updates share: checks of what they are given, the call of the native kernel, the figures it returns.

What is done on a CUDA device instead is in _device_learning.py, under the same names.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from metafast import _core, _device
from metafast.nn._actor_critic import ActorCritic
from metafast.nn._native import NativePolicy
from metafast.nn._optimizer import Adam

__all__ = [
    "as_actions",
    "as_array",
    "as_column",
    "as_flags",
    "as_observations",
    "check_numbers",
    "check_optimizer",
    "check_policy",
    "explained_variance",
    "learn",
    "learning_rates",
    "list_rows",
    "make_figures",
    "read_observations",
    "zeros",
]

Array = npt.NDArray[Any]
Figures = dict[str, float]

# The columns of the kernels' diagnostics (csrc/nn/learning.hpp), each a sum over the rows of a minibatch.
_OBJECTIVE, _VALUE_ERROR, _ENTROPY, _DIVERGENCE, _CLIPPED, _ROWS, _GRAD_NORM = range(7)


def check_optimizer(policy: ActorCritic, optimizer: Adam) -> None:
    """Refuse what is no policy, or an optimiser of another."""
    if not isinstance(policy, ActorCritic):
        raise TypeError(f"policy must be a metafast.nn.ActorCritic, not {type(policy).__name__}")
    if not isinstance(optimizer, Adam):
        other = type(optimizer)
        raise TypeError(f"optimizer must be a metafast.nn.Adam, not {other.__module__}.{other.__name__}")
    if optimizer.policy is not policy:
        raise ValueError("optimizer was made for another policy")


def check_policy(policy: ActorCritic, optimizer: Adam) -> NativePolicy:
    """The kernels' view of the policy, which `optimizer` is of."""
    check_optimizer(policy, optimizer)
    return policy.native()


def check_numbers(
    *,
    counts: dict[str, Any] | None = None,
    positive: dict[str, Any] | None = None,
    not_negative: dict[str, Any] | None = None,
    fractions: dict[str, Any] | None = None,
) -> None:
    """Refuse numbers out of range; `positive` ones may be None."""
    for name, value in (counts or {}).items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    for name, value in (positive or {}).items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, or None, not {value!r}")
    for name, value in (not_negative or {}).items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be finite and not negative, not {value!r}")
    for name, value in (fractions or {}).items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, not {value!r}")


def as_array(name: str, values: Any, _: ActorCritic) -> Array:
    """An array of NumPy or of a tensor on the CPU, where the policy is."""
    if _device.is_on_device(values):
        raise TypeError(f"{name} is on {values.device}, but the policy is on the CPU: move one to the other")
    return values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def as_column(name: str, values: Any, shape: tuple[int, ...], policy: ActorCritic, whole: bool = False) -> Array:
    """Numbers of that shape, as a contiguous array of the policy's type, or `whole` ones, not rounded, as int64."""
    array = as_array(name, values, policy)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}")
    if array.dtype.kind not in ("iu" if whole else "fiu"):
        raise TypeError(f"{name} must hold {'integers' if whole else 'numbers'}, not {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64 if whole else policy.native().dtype)


def as_flags(name: str, flags: Any, shape: tuple[int, ...], policy: ActorCritic) -> Array:
    """Flags of that shape, as a contiguous array."""
    array = as_array(name, flags, policy)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must hold bools, not {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}")
    return np.ascontiguousarray(array)


def as_actions(policy: ActorCritic, actions: Any, leading: tuple[int, ...]) -> Array:
    """Actions of a policy, within its choices."""
    distribution = policy.distribution
    whole = distribution.action_dtype == torch.int64
    column = as_column("actions", actions, (*leading, *distribution.action_shape), policy, whole)
    if whole:
        limits = np.array(distribution.choices or 2).reshape(distribution.action_shape if distribution.choices else ())
        steps = tuple(range(column.ndim - limits.ndim))
        if column.min() < 0 or (column.max(steps) >= limits).any():
            raise ValueError(f"actions must be choices counted from 0, below {limits.tolist()}")
    return column


def as_observations(policy: ActorCritic, observations: Any, leading: tuple[int, ...]) -> Array:
    """Observations [*leading, *the policy's observation shape], or flattened ones, as a contiguous array."""
    array = as_array("observations", observations, policy)
    if array.dtype.kind not in "fiub" or not array.dtype.isnative or isinstance(observations, np.ma.MaskedArray):
        raise TypeError(f"observations must hold numbers in this machine's byte order, none masked, not {array.dtype}")
    expected = (*leading, *policy.observation_shape)
    if array.shape not in (expected, (*leading, policy.observation_size)):
        raise ValueError(f"observations must have shape {expected}, not {array.shape}")
    return np.ascontiguousarray(array)


def _order(
    policy: ActorCritic, rows: Array, epochs: int, order: Any, generator: torch.Generator | None, shuffled: bool
) -> Array:
    """The rows in the order of each epoch, int64 [epochs, number of rows]."""
    if order is not None:
        given = as_column("order", order, (epochs, len(rows)), policy, whole=True)
        if not (np.sort(given, 1) == np.sort(rows)).all():
            raise ValueError(f"order must hold {epochs} permutations of the {len(rows)} rows that count")
        return given
    if not shuffled:
        return np.ascontiguousarray(np.broadcast_to(rows, (epochs, len(rows))))
    drawn = [torch.randperm(len(rows), generator=generator).numpy() for _ in range(epochs)]
    permuted: Array = rows[np.stack(drawn)]
    return permuted


def learning_rates(lr: Any, num_steps: int) -> Array:
    """One for each step of the optimiser."""
    rates = np.asarray(lr, dtype=np.float64).ravel()
    if rates.size not in (1, num_steps) or not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError(f"lr must be one number, or {num_steps} of them, finite and not negative, not {lr!r}")
    return np.ascontiguousarray(np.broadcast_to(rates, num_steps))


def learn(
    policy: ActorCritic,
    optimizer: Adam,
    experience: dict[str, Any],
    *,
    surrogate: str,
    rows: Array,
    epochs: int = 1,
    minibatches: int = 1,
    order: Any = None,
    generator: torch.Generator | None = None,
    lr: float | Sequence[float] | None = None,
    clip: float = 0.0,
    value_clip: float | None = None,
    value_coef: float = 0.0,
    entropy_coef: float = 0.0,
    num_units: float = 1.0,
    normalize_advantages: bool = False,
    max_grad_norm: float | None = None,
    target_kl: float | None = None,
) -> Figures:
    """Run the native update and average its diagnostics."""
    native = check_policy(policy, optimizer)
    if len(rows) == 0:
        raise ValueError("there is nothing to learn from: no row counts")
    num_minibatches = -(-len(rows) // -(-len(rows) // minibatches))
    rates = learning_rates(optimizer.lr if lr is None else lr, epochs * num_minibatches)
    chosen = _order(policy, rows, epochs, order, generator, shuffled=minibatches > 1)
    columns = {"actions": None, "log_probs": None, "advantages": None, "returns": None, "values": None, "teacher": None}
    if not optimizer.in_use.acquire(blocking=False):
        raise RuntimeError("another thread is updating this policy; give each thread a policy and optimizer of its own")
    try:
        step, diagnostics, finite = _core.update_policy(
            native.network,
            native.array,
            optimizer.native(),
            {**columns, "statistics": policy.native_statistics(), "mask": None, **experience},
            {
                "surrogate": surrogate,
                "clip": clip,
                "value_clip": value_clip or 0.0,
                "value_coef": value_coef,
                "entropy_coef": entropy_coef,
            },
            {
                "order": chosen,
                "minibatches": minibatches,
                "learning_rates": rates,
                "num_units": num_units,
                "max_grad_norm": max_grad_norm or 0.0,
                "target_kl": target_kl or 0.0,
                "normalize_advantages": normalize_advantages,
            },
        )
        optimizer.step_count = step
    finally:
        optimizer.in_use.release()
    # Autograd then refuses a backward pass through what was computed with the parameters before.
    for parameter in policy.parameters():
        torch.autograd.graph.increment_version(parameter)
    if not finite:
        raise ValueError(
            f"the gradient of minibatch {len(diagnostics)} is not finite (NaN or infinity in the rollout or in the "
            "parameters); the policy is as it was after the minibatch before"
        )
    sums = diagnostics.sum(0)
    total = sums[_ROWS]
    means = {
        "policy_loss": -sums[_OBJECTIVE] / (total * num_units),
        "entropy": sums[_ENTROPY] / total,
        "value_loss": sums[_VALUE_ERROR] / total,
        "clip_fraction": sums[_CLIPPED] / total,
        "divergence": sums[_DIVERGENCE] / total,
    }
    return make_figures(means, surrogate, value_coef, sums[_GRAD_NORM], len(diagnostics))


def make_figures(
    means: dict[str, Any], surrogate: str, value_coef: float, grad_norms: float, num_minibatches: int
) -> Figures:
    """What an update returns of the means over all rows and the sum of the gradients' lengths."""
    names = ["policy_loss", "entropy", *(["value_loss"] if value_coef else [])]
    figures = {name: means[name] for name in names}
    figures |= {"grad_norm": grad_norms / num_minibatches, "optimizer_steps": num_minibatches}
    if surrogate == "clipped":
        figures |= {"clip_fraction": means["clip_fraction"], "approx_kl": means["divergence"]}
    elif surrogate == "divergence":
        figures["divergence"] = means["divergence"]
    return {name: float(value) for name, value in figures.items()}


def read_observations(observations: Array) -> dict[str, Any]:
    """Observations [T, N, ...], as the kernel takes them."""
    return {"observations": observations, "num_steps": observations.shape[0], "num_envs": observations.shape[1]}


def zeros(shape: tuple[int, ...], policy: ActorCritic) -> Array:
    """Zeros where the policy is, and of its type."""
    return np.zeros(shape, policy.native().dtype)


def list_rows(policy: ActorCritic, shape: tuple[int, ...], mask: Array | None) -> Array:
    """What minibatches are made of: the steps that count or, of a recurrent policy, environments."""
    if policy.recurrent:
        return np.arange(shape[1])
    return np.arange(shape[0] * shape[1]) if mask is None else np.flatnonzero(mask)


def explained_variance(values: Array, returns: Array, mask: Array | None) -> float:
    targets = returns if mask is None else returns[mask]
    errors = targets - (values if mask is None else values[mask])
    variance = _variance(targets)
    return math.nan if variance == 0 else 1 - _variance(errors) / variance


def _variance(numbers: Array) -> float:
    centred = numbers.astype(np.float64).ravel()
    centred -= centred.mean()
    return float(centred @ centred) / centred.size
