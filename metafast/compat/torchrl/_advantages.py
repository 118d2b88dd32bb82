"""torchrl's generalised advantage estimates."""

from __future__ import annotations

from torch import Tensor

import metafast
from metafast.compat.torchrl._time import Time, check_shapes


def generalized_advantage_estimate(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    *,
    time_dim: int = -2,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates, and advantages plus values.

    Examples
    --------
    >>> import torch
    >>> reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.5], [0.25], [0.125]])
    >>> next_value = torch.tensor([[0.25], [0.125], [2.0]])
    >>> done = torch.tensor([[False], [True], [False]])
    >>> advantage, value_target = generalized_advantage_estimate(0.5, 0.5, value, next_value, reward, done)
    >>> advantage.flatten()
    tensor([1.0625, 1.7500, 3.8750])
    """
    check_shapes(reward, state_value=state_value, next_state_value=next_state_value, done=done, terminated=terminated)
    time = Time.of(reward, time_dim)
    rewards, values, next_values = time.floats(reward, state_value, next_state_value)
    advantages, targets = metafast.gae(
        rewards,
        values,
        next_values,
        *time.ends(done, terminated),
        gamma=time.coefficient(gamma, rewards),
        lam=time.coefficient(lmbda, rewards),
        time_axis=time.axis,
    )
    return time.back(advantages, next_state_value), time.back(targets, next_state_value, state_value)


def vec_generalized_advantage_estimate(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    *,
    time_dim: int = -2,
) -> tuple[Tensor, Tensor]:
    """The same as `generalized_advantage_estimate`."""
    return generalized_advantage_estimate(
        gamma, lmbda, state_value, next_state_value, reward, done, terminated, time_dim=time_dim
    )
