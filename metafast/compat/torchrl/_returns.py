"""torchrl's returns: one-step, to the end, and between; each also less the values."""

from __future__ import annotations

import torch
from torch import Tensor

import metafast
from metafast.compat.torchrl._time import Time, check_shapes, is_each


def td0_return_estimate(
    gamma: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    terminated: Tensor | None = None,
    *,
    done: Tensor | None = None,
) -> Tensor:
    """One-step returns: the reward, and the discounted value of the successor where the step did not terminate.

    Examples
    --------
    >>> import torch
    >>> terminated = torch.tensor([[False], [True]])
    >>> td0_return_estimate(0.5, torch.tensor([[4.0], [float("nan")]]), torch.ones(2, 1), terminated).flatten()
    tensor([3., 1.])
    """
    terminated = done if terminated is None else terminated
    if terminated is None:
        raise TypeError("terminated is missing")
    check_shapes(reward, next_state_value=next_state_value, terminated=terminated)
    return reward + gamma * next_state_value.masked_fill(terminated.bool(), 0)


def td0_advantage_estimate(
    gamma: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
) -> Tensor:
    """`td0_return_estimate` less the values; where `terminated` is None it is `done`."""
    terminated = done if terminated is None else terminated
    check_shapes(reward, state_value=state_value, next_state_value=next_state_value, done=done, terminated=terminated)
    return td0_return_estimate(gamma, next_state_value, reward, terminated) - state_value


def td_lambda_return_estimate(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    *,
    time_dim: int = -2,
) -> Tensor:
    """TD(lambda) returns.

    With ``rolling_gamma=False`` a step's own `gamma` and `lmbda` hold for all of the trajectory that follows it, which
    takes one call of the kernel for each step; by default, or with True, each step has its own.

    Raises
    ------
    RuntimeError
        Shapes do not fit; ``rolling_gamma=False`` although neither `gamma` nor `lmbda` has the shape of `done`.

    Examples
    --------
    >>> import torch
    >>> next_value, reward = torch.tensor([[8.0], [8.0]]), torch.ones(2, 1)
    >>> td_lambda_return_estimate(0.5, 0.5, next_value, reward, torch.zeros(2, 1, dtype=torch.bool)).flatten()
    tensor([4.2500, 5.0000])
    """
    if rolling_gamma is not None and not rolling_gamma and not (is_each(gamma, done) or is_each(lmbda, done)):
        raise RuntimeError("rolling_gamma=False needs a gamma or a lmbda of the shape of done")
    return _lambda_returns(gamma, lmbda, next_state_value, reward, done, terminated, rolling_gamma, time_dim)


def td_lambda_advantage_estimate(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    time_dim: int = -2,
) -> Tensor:
    """`td_lambda_return_estimate` less the values."""
    check_shapes(reward, state_value=state_value, next_state_value=next_state_value)
    returns = td_lambda_return_estimate(
        gamma, lmbda, next_state_value, reward, done, terminated, rolling_gamma, time_dim=time_dim
    )
    return returns - state_value


def vec_td_lambda_return_estimate(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    *,
    time_dim: int = -2,
) -> Tensor:
    """The same as `td_lambda_return_estimate`, but as in torchrl `rolling_gamma` is not looked at without need of it.

    (torchrl's has no ``rolling_gamma=False`` with a `gamma` or `lmbda` of many elements.)
    """
    if not (is_each(gamma, done) or is_each(lmbda, done)):
        rolling_gamma = True
    return _lambda_returns(gamma, lmbda, next_state_value, reward, done, terminated, rolling_gamma, time_dim)


def vec_td_lambda_advantage_estimate(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    time_dim: int = -2,
) -> Tensor:
    """`vec_td_lambda_return_estimate` less the values."""
    check_shapes(reward, state_value=state_value, next_state_value=next_state_value)
    returns = vec_td_lambda_return_estimate(
        gamma, lmbda, next_state_value, reward, done, terminated, rolling_gamma, time_dim=time_dim
    )
    return returns - state_value


def td1_return_estimate(
    gamma: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    *,
    time_dim: int = -2,
) -> Tensor:
    """Discounted returns, with the value of the successor where a trajectory is cut or the time is over.

    With ``rolling_gamma=False`` a step's own `gamma` holds for all of the trajectory that follows it, and as in
    torchrl the value after the last step then counts only where that step is `done` and not `terminated`.

    Raises
    ------
    RuntimeError
        Shapes do not fit; ``rolling_gamma=False`` although `gamma` has not the shape of `done`.

    Examples
    --------
    >>> import torch
    >>> next_value, reward = torch.tensor([[8.0], [8.0]]), torch.ones(2, 1)
    >>> td1_return_estimate(0.5, next_value, reward, torch.zeros(2, 1, dtype=torch.bool)).flatten()
    tensor([3.5000, 5.0000])
    """
    if rolling_gamma is not None and not rolling_gamma:
        if not is_each(gamma, done):
            raise RuntimeError("rolling_gamma=False needs a gamma of the shape of done")
        check_shapes(reward, next_state_value=next_state_value, done=done, terminated=terminated)
        last = torch.arange(reward.shape[time_dim], device=reward.device) == reward.shape[time_dim] - 1
        axis = Time.of(reward, time_dim).position
        last = last.reshape(-1, *[1] * (reward.ndim - 1 - axis))
        next_state_value = next_state_value.masked_fill(last & ~done.bool(), 0)
    return _lambda_returns(gamma, 1.0, next_state_value, reward, done, terminated, rolling_gamma, time_dim)


def td1_advantage_estimate(
    gamma: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    time_dim: int = -2,
) -> Tensor:
    """`td1_return_estimate` less the values."""
    check_shapes(reward, state_value=state_value, next_state_value=next_state_value)
    returns = td1_return_estimate(gamma, next_state_value, reward, done, terminated, rolling_gamma, time_dim=time_dim)
    return returns - state_value


def vec_td1_return_estimate(
    gamma: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    time_dim: int = -2,
) -> Tensor:
    """`vec_td_lambda_return_estimate` with a `lmbda` of 1."""
    return vec_td_lambda_return_estimate(
        gamma, 1.0, next_state_value, reward, done, terminated, rolling_gamma, time_dim=time_dim
    )


def vec_td1_advantage_estimate(
    gamma: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    time_dim: int = -2,
) -> Tensor:
    """`vec_td1_return_estimate` less the values."""
    check_shapes(reward, state_value=state_value, next_state_value=next_state_value)
    returns = vec_td1_return_estimate(gamma, next_state_value, reward, done, terminated, rolling_gamma, time_dim)
    return returns - state_value


def reward2go(reward: Tensor, done: Tensor, gamma: float | Tensor, *, time_dim: int = -2) -> Tensor:
    """Discounted sums of the rewards to the end of each trajectory.

    Raises
    ------
    ValueError
        `reward` and `done` differ in shape.

    Examples
    --------
    >>> import torch
    >>> reward2go(torch.ones(1, 4), torch.tensor([[False, True, False, False]]), 0.5, time_dim=-1)
    tensor([[1.5000, 1.0000, 1.5000, 1.0000]])
    """
    if reward.shape != done.shape:
        raise ValueError(f"done has shape {tuple(done.shape)}, expected {tuple(reward.shape)}, the shape of reward")
    time = Time.of(reward, time_dim)
    (rewards,) = time.floats(reward)
    returns = metafast.discounted_returns(
        rewards, time.fold(done), gamma=time.coefficient(gamma, rewards), time_axis=time.axis
    )
    return time.back(returns, returns)


def _lambda_returns(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None,
    rolling_gamma: bool | None,
    time_dim: int,
) -> Tensor:
    check_shapes(reward, next_state_value=next_state_value, done=done, terminated=terminated)
    time = Time.of(reward, time_dim)
    rewards, next_values = time.floats(reward, next_state_value)
    ends, cuts = time.ends(done, terminated)
    gammas, lambdas = time.coefficient(gamma, rewards), time.coefficient(lmbda, rewards)
    if rolling_gamma is None or rolling_gamma:
        returns = metafast.lambda_returns(
            rewards, next_values, ends, cuts, gamma=gammas, lam=lambdas, time_axis=time.axis
        )
        return time.back(returns, next_state_value)
    firsts = []
    for step in range(rewards.shape[time.axis]):
        ahead = (slice(None),) * time.axis
        own, rest = (*ahead, slice(step, step + 1)), (*ahead, slice(step, None))
        returns = metafast.lambda_returns(
            rewards[rest],
            next_values[rest],
            ends[rest],
            None if cuts is None else cuts[rest],
            gamma=gammas[own] if is_each(gamma, done) else gammas,
            lam=lambdas[own] if is_each(lmbda, done) else lambdas,
            time_axis=time.axis,
        )
        firsts.append(returns[(*ahead, slice(0, 1))])
    return time.back(torch.cat(firsts, time.axis), next_state_value)
