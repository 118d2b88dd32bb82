"""CleanRL's advantage loop as a function: the names and conventions of its PPO scripts.

CleanRL keeps the loop in every script instead of in a function, between ``next_value = ...`` and ``returns = ...``.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import metafast
from metafast import _arrays

__all__ = ["compute_gae"]


def compute_gae(
    rewards: Any,
    values: Any,
    dones: Any,
    next_value: Any,
    next_done: Any,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
) -> tuple[Any, Any]:
    """Advantages and returns from the storage of a CleanRL script.

    Takes what the script has at that point: torch tensors, or NumPy or JAX arrays, all of one library.

    Parameters
    ----------
    rewards, values : float array [T, N]
        Rewards of the steps, and values of the observations they were taken from.
    dones : array [T, N] of 0 and 1
        An episode ended **before** step t, so that its observation is the first of another: CleanRL writes
        ``dones[step] = next_done`` ahead of the environment's step.
    next_value : float array [N] or [1, N]
        Value of the observation after the last step.
    next_done : array [N] of 0 and 1
        The last step ended an episode.
    gamma, gae_lambda : float
        ``args.gamma`` and ``args.gae_lambda``.

    Returns
    -------
    advantages, returns : arrays [T, N]
        ``returns`` is ``advantages + values``.

    Raises
    ------
    ValueError
        A shape does not fit.
    TypeError
        Arrays of several libraries, devices or float dtypes.

    Notes
    -----
    As in CleanRL, an end counts as terminal, also where a time limit cut the episode. :func:`metafast.gae` keeps the
    two apart.

    Examples
    --------
    >>> import numpy as np
    >>> rewards, values, dones = np.ones((3, 1)), np.zeros((3, 1)), np.array([[0.0], [1.0], [0.0]])
    >>> advantages, returns = compute_gae(rewards, values, dones, np.array([[4.0]]), np.array([0.0]), 0.5, 1.0)
    >>> returns.ravel()
    array([1. , 2.5, 3. ])
    """
    row = rewards.shape[1:]
    for name, array in (("next_value", next_value), ("next_done", next_done)):
        if tuple(array.shape) not in (tuple(row), (1, *row)):
            raise ValueError(f"{name} has shape {tuple(array.shape)}, expected {tuple(row)} or {(1, *row)}")
    if tuple(dones.shape) != tuple(rewards.shape):
        raise ValueError(f"dones has shape {tuple(dones.shape)}, expected {tuple(rewards.shape)}, that of rewards")
    ended = _concatenate(rewards, [dones[1:] != 0, next_done.reshape((1, *row)) != 0])[: len(rewards)]
    advantages, returns = metafast.gae(rewards, values, next_value.reshape(row), ended, gamma=gamma, lam=gae_lambda)
    return advantages, returns


def _concatenate(like: Any, parts: list[Any]) -> Any:
    if _arrays.is_torch(like):
        return sys.modules["torch"].cat(parts)
    namespace = np if isinstance(like, np.ndarray) else like.__array_namespace__()
    return namespace.concatenate(parts)
