"""torchrl's V-trace."""

from __future__ import annotations

import torch
from torch import Tensor

import metafast
from metafast._torch_calls import needs_graph
from metafast.compat.torchrl._time import Time, check_shapes


def vtrace_advantage_estimate(
    gamma: float | Tensor,
    log_pi: Tensor,
    log_mu: Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rho_thresh: float | Tensor = 1.0,
    c_thresh: float | Tensor = 1.0,
    time_dim: int = -2,
) -> tuple[Tensor, Tensor]:
    """V-trace: ``(advantages, targets)``, in this order.

    The advantages are clipped by `rho_thresh` too, and inside a trajectory they follow the target of the next step
    in time, not of `next_state_value` as :func:`metafast.vtrace` does; the two are one where
    ``next_state_value[t] == state_value[t + 1]``. As in torchrl, and unlike :func:`metafast.vtrace`, gradients flow.

    Examples
    --------
    >>> import torch
    >>> reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.5], [0.25], [0.125]])
    >>> next_value, done = torch.tensor([[0.25], [0.125], [2.0]]), torch.zeros(3, 1, dtype=torch.bool)
    >>> log_mu = -torch.tensor([[2.0], [0.5], [1.0]]).log()
    >>> advantage, target = vtrace_advantage_estimate(0.5, torch.zeros(3, 1), log_mu, value, next_value, reward, done)
    >>> target.flatten(), advantage.flatten()
    (tensor([2.0625, 2.1250, 4.0000]), tensor([1.5625, 1.8750, 3.8750]))
    """
    check_shapes(reward, state_value=state_value, next_state_value=next_state_value, done=done, terminated=terminated)
    time = Time.of(reward, time_dim)
    log_rhos = (log_pi - log_mu).expand(reward.shape)
    log_rhos, rewards, values, next_values = time.floats(log_rhos, reward, state_value, next_state_value)
    ends, cuts = time.ends(done, terminated)
    gammas, rho_limit, c_limit = (time.coefficient(value, rewards) for value in (gamma, rho_thresh, c_thresh))
    rhos = log_rhos.exp()
    clipped = rhos.clamp_max(rho_limit)
    bootstraps = next_values.masked_fill(ends.bool(), 0)
    done_steps = ends.bool() if cuts is None else ends.bool() | cuts.bool()
    limits_are_numbers = all(getattr(limit, "ndim", 0) == 0 for limit in (rho_limit, c_limit))
    if limits_are_numbers and not needs_graph(log_rhos, rewards, values, next_values, gammas, rho_limit, c_limit):
        targets, _ = metafast.vtrace(
            log_rhos,
            rewards,
            values,
            next_values,
            ends,
            cuts,
            gamma=gammas,
            clip_rho=float(rho_limit),
            clip_c=float(c_limit),
            time_axis=time.axis,
        )
    else:
        # The differences to the values are returns of the clipped errors, discounted by gamma times c.
        errors = clipped * (rewards + gammas * bootstraps - values)
        decays = (gammas * rhos.clamp_max(c_limit)).expand_as(errors)
        targets = values + metafast.discounted_returns(errors, done_steps, gamma=decays, time_axis=time.axis)
    ahead = (slice(None),) * time.axis
    following = torch.cat([targets[(*ahead, slice(1, None))], next_values[(*ahead, slice(-1, None))]], time.axis)
    following = torch.where(done_steps, bootstraps, following)
    advantages = clipped * (rewards + gammas * following - values)
    return time.back(advantages, advantages), time.back(targets, targets)
