"""Rewards in units of the standard deviation of their discounted sum."""

from typing import Any

import numpy as np

from metafast import _core

__all__ = ["ReturnNormalizer"]


class ReturnNormalizer:
    """Divides rewards by the running standard deviation of the discounted return, as VecNormalize does.

    Parameters
    ----------
    num_envs : int
        N.
    gamma : float
        Discount of the running returns, R_t = r_t + gamma R_{t-1} within an episode.

    Notes
    -----
    Engstrom et al. 2020, "Implementation Matters in Deep Policy Gradients", section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> normalizer = metafast.nn.ReturnNormalizer(2, gamma=0.9)
    >>> rewards = normalizer(np.ones((4, 2), np.float32), ended=np.zeros((4, 2), bool))
    >>> rewards.shape, rewards.dtype
    ((4, 2), dtype('float32'))
    """

    def __init__(self, num_envs: int, gamma: float = 0.99) -> None:
        self.gamma = gamma
        self.running = np.zeros(num_envs)
        self.mean = 0.0
        self.variance = 1.0
        self.count = 0.0

    def __call__(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Take in `rewards` and `ended`, both [T, N], and return the rewards divided by the deviation."""
        if rewards.shape != ended.shape or rewards.shape[1:] != self.running.shape:
            raise ValueError(
                f"rewards and ended must both have shape (T, {len(self.running)}), "
                f"not {rewards.shape} and {ended.shape}"
            )
        if rewards.dtype.kind != "f":
            raise TypeError(f"rewards must be floats, not {rewards.dtype}")
        offsets = rewards.astype(np.float64)
        decays = np.full_like(offsets, self.gamma)
        # What goes on behind an end begins anew.
        decays[1:][ended[:-1]] = 0.0
        offsets[0] += self.gamma * self.running
        returns = _core.affine_scan(offsets, decays, 0, True)
        self.running = np.where(ended[-1], 0.0, returns[-1])
        total = self.count + returns.size
        difference = returns.mean() - self.mean
        squares = self.variance * self.count + returns.var() * returns.size
        self.variance = (squares + difference**2 * self.count * returns.size / total) / total
        self.mean += difference * returns.size / total
        self.count = total
        scaled: np.ndarray = (rewards / np.sqrt(self.variance + 1e-8)).astype(rewards.dtype)
        return scaled

    def get_state(self) -> dict[str, Any]:
        """All that the next call depends on."""
        return {"running": self.running.copy(), "moments": np.array([self.mean, self.variance, self.count])}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` gave."""
        self.running = np.array(state["running"], dtype=np.float64)
        self.mean, self.variance, self.count = map(float, state["moments"])
