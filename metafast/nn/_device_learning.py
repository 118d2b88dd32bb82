"""The updates on a CUDA device: what _learning.py is on the CPU, with torch in the place of the native kernels.

A minibatch is gathered into fixed tensors, and one graph computes its loss, the gradient and the optimiser's step.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from metafast import _device
from metafast._graph_capture import check_not_capturing
from metafast.nn._actor_critic import ActorCritic
from metafast.nn._learning import Figures, check_optimizer, learning_rates, make_figures
from metafast.nn._minibatch_step import COLUMNS, MEANS, MinibatchStep
from metafast.nn._optimizer import Adam
from metafast.nn.objectives import Surrogate

__all__ = [
    "as_actions",
    "as_array",
    "as_column",
    "as_flags",
    "as_observations",
    "check_policy",
    "explained_variance",
    "learn",
    "list_rows",
    "read_observations",
    "zeros",
]


def check_policy(policy: ActorCritic, optimizer: Adam) -> None:
    """Refuse an optimiser of another policy, and parameters that no vector can hold."""
    check_optimizer(policy, optimizer)
    policy.flat_parameters()


def as_array(name: str, values: Any, policy: ActorCritic) -> Tensor:
    """A tensor on the device where the policy is."""
    device = policy.device
    if not _device.is_on_device(values) or values.device != device:
        where = values.device if isinstance(values, Tensor) else f"a {type(values).__module__}.{type(values).__name__}"
        raise TypeError(f"{name} must be a tensor on {device}, where the policy is, not {where}")
    return values.detach()  # type: ignore[no-any-return]


def as_column(name: str, values: Any, shape: tuple[int, ...], policy: ActorCritic, whole: bool = False) -> Tensor:
    """Numbers of that shape, as a contiguous tensor of the policy's type, or `whole` ones as int64."""
    tensor = as_array(name, values, policy)
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {tuple(tensor.shape)}")
    if tensor.dtype == torch.bool or (whole and tensor.is_floating_point()):
        raise TypeError(f"{name} must hold {'integers' if whole else 'numbers'}, not {tensor.dtype}")
    return tensor.to(torch.int64 if whole else policy.dtype).contiguous()


def as_flags(name: str, flags: Any, shape: tuple[int, ...], policy: ActorCritic) -> Tensor:
    """Flags of that shape, as a contiguous tensor."""
    tensor = as_array(name, flags, policy)
    if tensor.dtype != torch.bool:
        raise TypeError(f"{name} must hold bools, not {tensor.dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {tuple(tensor.shape)}")
    return tensor.contiguous()


def as_observations(policy: ActorCritic, observations: Any, leading: tuple[int, ...]) -> Tensor:
    """Observations [*leading, *the policy's observation shape], or flattened ones, as a contiguous tensor."""
    tensor = as_array("observations", observations, policy)
    expected = (*leading, *policy.observation_shape)
    if tensor.shape not in (expected, (*leading, policy.observation_size)):
        raise ValueError(f"observations must have shape {expected}, not {tuple(tensor.shape)}")
    return tensor.contiguous()


def as_actions(policy: ActorCritic, actions: Any, leading: tuple[int, ...]) -> Tensor:
    """Actions of a policy, within its choices: a card could only stop at others, for good."""
    distribution = policy.distribution
    whole = distribution.action_dtype == torch.int64
    column = as_column("actions", actions, (*leading, *distribution.action_shape), policy, whole)
    if whole:
        limits = torch.tensor(distribution.choices or 2, device=policy.device)
        limits = limits.reshape(distribution.action_shape if distribution.choices else ())
        if bool(((column < 0) | (column >= limits)).any()):
            raise ValueError(f"actions must be choices counted from 0, below {limits.tolist()}")
    return column


def read_observations(observations: Tensor) -> dict[str, Any]:
    """Observations [T, N, ...]."""
    return {"observations": observations}


def zeros(shape: tuple[int, ...], policy: ActorCritic) -> Tensor:
    """Zeros where the policy is, and of its type."""
    return torch.zeros(shape, dtype=policy.dtype, device=policy.device)


def list_rows(policy: ActorCritic, shape: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """What minibatches are made of: the steps that count or, of a recurrent policy, environments."""
    if policy.recurrent:
        return torch.arange(shape[1], device=policy.device)
    if mask is None:
        return torch.arange(shape[0] * shape[1], device=policy.device)
    return mask.flatten().nonzero()[:, 0]


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor | None) -> float:
    """The part of the returns' variance that the values explain, of the steps that count."""
    if mask is not None:
        values, returns = values[mask], returns[mask]
    variances = torch.stack([part.double().var(correction=0) for part in (returns, returns - values)])
    variance, unexplained = variances.tolist()
    return math.nan if variance == 0 else 1 - unexplained / variance


def _orders(
    policy: ActorCritic, rows: Tensor, epochs: int, order: Any, generator: torch.Generator | None, shuffled: bool
) -> Iterator[Tensor]:
    """The rows in the order of each epoch."""
    if order is not None:
        given = as_column("order", order, (epochs, len(rows)), policy, whole=True)
        if not bool((given.sort(1).values == rows.sort().values).all()):
            raise ValueError(f"order must hold {epochs} permutations of the {len(rows)} rows that count")
        yield from given
    elif shuffled:
        # Numbers of the host's generators would have to be carried over; what it gives is the key.
        own = torch.Generator(rows.device).manual_seed(policy.draw_key(generator))
        for _ in range(epochs):
            yield rows[torch.randperm(len(rows), generator=own, device=rows.device)]
    else:
        yield from (rows for _ in range(epochs))


def learn(
    policy: ActorCritic,
    optimizer: Adam,
    experience: dict[str, Any],
    *,
    surrogate: Surrogate,
    rows: Tensor,
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
    """Run the update in graphs, and average its diagnostics, which are read back once, or once an epoch."""
    check_not_capturing("an update")
    if len(rows) == 0:
        raise ValueError("there is nothing to learn from: no row counts")
    num_steps, num_envs = experience["observations"].shape[:2]
    size = -(-len(rows) // minibatches)
    num_minibatches = -(-len(rows) // size)
    rates = learning_rates(optimizer.lr if lr is None else lr, epochs * num_minibatches)
    orders = _orders(policy, rows, epochs, order, generator, shuffled=minibatches > 1)
    # Of one size whatever the mask is: what is missing is filled up with rows that do not count.
    capacity = -(-(num_envs if policy.recurrent else num_steps * num_envs) // minibatches)
    padded = capacity * num_minibatches != len(rows)
    weights = {
        "clip": clip, "value_clip": value_clip, "value_coef": value_coef, "entropy_coef": entropy_coef,
        "units": num_units, "max_grad_norm": max_grad_norm,
    }  # fmt: skip
    present = frozenset(name for name, weight in weights.items() if weight)
    columns = {
        name: column if policy.recurrent else column.flatten(0, 1)
        for name, column in experience.items()
        if column is not None and (name != "values" or "value_clip" in present)
    }
    shapes = tuple(
        (name, len(column) if policy.recurrent else 0, column.shape[1:], column.dtype)
        for name, column in columns.items()
    )
    if not optimizer.in_use.acquire(blocking=False):
        raise RuntimeError("another thread is updating this policy; give each thread a policy and optimizer of its own")
    try:
        optimizer.fit()
        flat = policy.flat_parameters()
        key = (
            policy.recording_key(), optimizer.recording_key(), capacity, padded, shapes, surrogate, present,
            normalize_advantages,
        )  # fmt: skip
        step = optimizer.recordings.find(
            key,
            lambda: MinibatchStep(
                policy, optimizer, columns, capacity, padded=padded, surrogate=surrogate, weights=present,
                normalize_advantages=normalize_advantages,
            ),
        )  # fmt: skip
        step.begin(weights)
        history = _run(step, columns, orders, size, torch.tensor(rates, device=policy.device), target_kl)
        finite = int(history["finite"].sum())
        optimizer.step_count += finite
    finally:
        optimizer.in_use.release()
    # Autograd then refuses a backward pass through what was computed with the parameters before.
    for parameter in flat.parameters:
        torch.autograd.graph.increment_version(parameter)
    num_steps_taken = len(history["rows"])
    if finite < num_steps_taken:
        raise ValueError(
            f"the gradient of minibatch {finite} is not finite (NaN or infinity in the rollout or in the "
            "parameters); the policy is as it was after the minibatch before"
        )
    shares = history["rows"] / history["rows"].sum()
    means = {name: float((history[name] * shares).sum()) for name in MEANS}
    return make_figures(means, surrogate, value_coef, float(history["grad_norm"].sum()), num_steps_taken)


def _run(
    step: MinibatchStep,
    columns: dict[str, Tensor],
    orders: Iterator[Tensor],
    size: int,
    rates: Tensor,
    target_kl: float | None,
) -> dict[str, Tensor]:
    """Take the steps of each epoch; the diagnostics of each, on the CPU."""
    history = torch.zeros(len(rates), len(COLUMNS), dtype=torch.float64, device=rates.device)
    taken = 0
    for order in orders:
        first = taken
        for rows in order.split(size):
            step.take(columns, rows)
            step.learning_rate.copy_(rates[taken])
            step.run()
            history[taken].copy_(step.diagnostics)
            taken += 1
        if target_kl is not None:
            told = _by_name(history[first:taken])
            if float((told["divergence"] * told["rows"]).sum()) > target_kl * float(told["rows"].sum()):
                break
    return _by_name(history[:taken])


def _by_name(history: Tensor) -> dict[str, Tensor]:
    return dict(zip(COLUMNS, history.cpu().unbind(1), strict=True))
