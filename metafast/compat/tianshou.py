"""The functions by which tianshou 2 computes returns: its names, its flat buffers and flags, its results.

tianshou calls them itself, so an algorithm is given these in their place::

    algorithm.compute_episodic_return = metafast.compat.tianshou.compute_episodic_return
    algorithm.compute_nstep_return = metafast.compat.tianshou.compute_nstep_return

(Reinforce asks the class ``Algorithm`` instead of itself, so there it is
``Algorithm.compute_episodic_return = staticmethod(...)``.) tianshou itself is not imported: its batches and buffers are
used as they come. Results are computed and returned in float64, as tianshou's are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import metafast

__all__ = [
    "compute_episodic_return",
    "compute_nstep_return",
    "episode_mc_return_to_go",
    "value_mask",
]

Array = npt.NDArray[Any]


def _gae(v_s: Array, v_s_: Array, rew: Array, end_flag: Array, gamma: float, gae_lambda: float) -> Array:
    """Generalised advantage estimates over episodes laid end to end.

    Parameters
    ----------
    v_s, v_s_ : float array [B]
        Values of the observations and of their successors; `v_s_` is 0 where the successor is terminal.
    rew : float array [B]
        Rewards.
    end_flag : array [B] of bool, or of 0 and 1
        The step is the last of its episode, or of what has been collected of it.
    gamma, gae_lambda : float
        Discount factor, and the weight of longer returns.

    Returns
    -------
    advantages : float64 array [B]

    Examples
    --------
    >>> import numpy as np
    >>> _gae(np.zeros(3), np.array([0.0, 0.0, 4.0]), np.ones(3), np.array([False, True, False]), 0.5, 1.0)
    array([1.5, 1. , 3. ])
    """
    rewards, values, next_values = (np.asarray(array, np.float64) for array in (rew, v_s, v_s_))
    # Which of the ends are terminal is in v_s_ already: to the kernel every end is a cut.
    nowhere = np.zeros(rewards.shape, np.bool_)
    advantages: Array
    advantages, _ = metafast.gae(rewards, values, next_values, nowhere, end_flag, gamma=gamma, lam=gae_lambda)
    return advantages


def _nstep_return(
    rew_B: Array,
    end_flag_B: Array,
    target_q_IA: Array,
    stacked_indices_NI: Array,
    gamma: float,
    n_step: int,
) -> Array:
    """n-step returns that start at some indices of a buffer.

    Parameters
    ----------
    rew_B : float array [B]
        Rewards of the whole buffer.
    end_flag_B : array [B] of bool, or of 0 and 1
        The step is the last of its episode, or of what has been collected of it.
    target_q_IA : float array [I, A]
        What follows the last step counted, 0 where that step is terminal.
    stacked_indices_NI : integer array [N, I]
        Indices of the steps counted from each start; after an episode's end the last index repeats.
    gamma : float
        Discount factor.
    n_step : int
        N, at most how many rewards are counted.

    Returns
    -------
    returns : float64 array [I, A]

    Examples
    --------
    >>> import numpy as np
    >>> rewards, ends = np.array([1.0, 2.0, 4.0]), np.array([False, True, False])
    >>> _nstep_return(rewards, ends, np.array([[8.0], [8.0]]), np.array([[0, 1], [1, 1]]), 0.5, 2)
    array([[4.],
           [6.]])
    """
    if len(stacked_indices_NI) < n_step:
        raise ValueError(f"stacked_indices_NI has {len(stacked_indices_NI)} rows, expected n_step, {n_step}")
    indices = stacked_indices_NI[:n_step]
    targets = np.asarray(target_q_IA, np.float64)
    ends = end_flag_B[indices] > 0
    rewards = np.asarray(rew_B, np.float64)[indices]
    counted = metafast.discounted_returns(rewards, ends, gamma=gamma)[0]
    steps = np.where(ends.any(axis=0), ends.argmax(axis=0) + 1, n_step)
    discounts = gamma ** np.arange(n_step + 1.0)
    returns: Array = counted[:, None] + discounts[steps][:, None] * targets
    return returns


def episode_mc_return_to_go(rewards: Array, gamma: float = 0.99) -> Array:
    """Discounted returns-to-go of one whole episode, float64 [T].

    Examples
    --------
    >>> import numpy as np
    >>> episode_mc_return_to_go(np.array([1.0, 2.0, 4.0]), gamma=0.5)
    array([3., 4., 4.])
    """
    rewards = np.asarray(rewards, np.float64)
    returns: Array = metafast.discounted_returns(rewards, np.zeros(rewards.shape, np.bool_), gamma=gamma)
    return returns


def value_mask(buffer: Any, indices: Array) -> Array:
    """Where the successors of ``buffer[indices]`` have a value: where the step did not terminate."""
    mask: Array = ~buffer.terminated[indices]
    return mask


def compute_episodic_return(
    batch: Any,
    buffer: Any,
    indices: Array,
    v_s_: Any = None,
    v_s: Any = None,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
) -> tuple[Array, Array]:
    """Returns and advantages of a batch of whole episodes, by generalised advantage estimation.

    Parameters
    ----------
    batch : Batch
        Steps in their order, with ``rew``, ``terminated`` and ``truncated``.
    buffer : ReplayBuffer
        Where the batch is from: tells which of its episodes are unfinished.
    indices : integer array [B]
        Where in the buffer.
    v_s_, v_s : array or tensor, optional
        Values of the successors (without them 0, which `gae_lambda` must then be 1 for) and of the observations
        (without them `v_s_` moved by one, as tianshou has it).
    gamma, gae_lambda : float
        Discount factor, and the weight of longer returns.

    Returns
    -------
    returns, advantages : float64 arrays [B]
        In this order, which is the other way round than elsewhere.

    Raises
    ------
    ValueError
        There is no `v_s_`, but `gae_lambda` is not 1.
    """
    rewards = batch.rew
    if v_s_ is None:
        if not np.isclose(gae_lambda, 1.0):
            raise ValueError(f"gae_lambda must be 1 where v_s_ is not given, not {gae_lambda}")
        next_values = np.zeros_like(rewards)
    else:
        next_values = np.where(value_mask(buffer, indices), _to_numpy(v_s_.flatten()), 0)
    values = np.roll(next_values, 1) if v_s is None else _to_numpy(v_s.flatten())
    ends = np.logical_or(batch.terminated, batch.truncated)
    ends[np.isin(indices, buffer.unfinished_index())] = True
    advantages = _gae(values, next_values, rewards, ends, gamma, gae_lambda)
    return advantages + values, advantages


def compute_nstep_return(
    batch: Any,
    buffer: Any,
    indices: Array,
    target_q_fn: Callable[[Any, Array], Any],
    gamma: float = 0.99,
    n_step: int = 1,
) -> Any:
    """n-step targets for Q-learning, put into ``batch.returns``.

    Parameters
    ----------
    batch : Batch
        ``buffer[indices]``.
    buffer : ReplayBuffer
        All steps.
    indices : integer array [I]
        Where the batch is in it.
    target_q_fn : callable
        Takes the buffer and indices, and returns a tensor [I, ...] of what follows those steps.
    gamma : float
        Discount factor.
    n_step : int
        How many rewards are counted before the target.

    Returns
    -------
    batch : Batch
        With ``returns`` as a tensor like `target_q_fn`'s, [I, A].

    Raises
    ------
    ValueError
        `batch` and `indices` differ in length.
    """
    import torch

    if len(indices) != len(batch):
        raise ValueError(f"batch has {len(batch)} steps, but there are {len(indices)} indices")
    stacked = [indices]
    for _ in range(n_step - 1):
        stacked.append(buffer.next(stacked[-1]))
    with torch.no_grad():
        target = target_q_fn(buffer, stacked[-1])
    masked = np.where(value_mask(buffer, stacked[-1]).reshape(-1, 1), _to_numpy(target.reshape(len(indices), -1)), 0)
    ends = buffer.done.copy()
    ends[buffer.unfinished_index()] = True
    returns = _nstep_return(buffer.rew, ends, masked, np.stack(stacked), gamma, n_step)
    batch.returns = torch.as_tensor(returns, dtype=target.dtype, device=target.device)
    if hasattr(batch, "weight"):
        batch.weight = torch.as_tensor(batch.weight, dtype=target.dtype, device=target.device)
    return batch


def _to_numpy(array: Any) -> Array:
    return array if isinstance(array, np.ndarray) else np.asarray(array.detach().cpu().numpy())
