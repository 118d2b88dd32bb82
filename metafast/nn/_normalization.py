"""Rewards in units of the standard deviation of their discounted sum."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafast import _core, _device
from metafast.returns import discounted_returns

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
        self.running: Any = np.zeros(num_envs)
        self.mean = 0.0
        self.variance = 1.0
        self.count = 0.0

    def __call__(self, rewards: Any, ended: Any) -> Any:
        """Take in `rewards` and `ended`, both [T, N], and return the rewards divided by the deviation.

        They are arrays, or tensors of any device.
        """
        on_device = _device.is_on_device(rewards)
        if isinstance(rewards, Tensor) and not on_device:
            return torch.from_numpy(self(rewards.numpy(), ended.numpy()))
        if rewards.shape != ended.shape or rewards.shape[1:] != self.running.shape:
            raise ValueError(
                f"rewards and ended must both have shape (T, {len(self.running)}), "
                f"not {tuple(rewards.shape)} and {tuple(ended.shape)}"
            )
        if not (rewards.dtype.is_floating_point if on_device else rewards.dtype.kind == "f"):
            raise TypeError(f"rewards must be floats, not {rewards.dtype}")
        returns = self._accumulate_on_device(rewards, ended) if on_device else self._accumulate(rewards, ended)
        size, mean = math.prod(returns.shape), float(returns.mean())
        variance = float(returns.var(correction=0) if on_device else returns.var())
        total = self.count + size
        difference = mean - self.mean
        squares = self.variance * self.count + variance * size
        self.variance = (squares + difference**2 * self.count * size / total) / total
        self.mean += difference * size / total
        self.count = total
        deviation = np.sqrt(self.variance + 1e-8)
        return rewards / deviation if on_device else (rewards / deviation).astype(rewards.dtype)

    def _accumulate(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """The discounted sums of the rewards so far, [T, N]."""
        offsets = rewards.astype(np.float64)
        decays = np.full_like(offsets, self.gamma)
        # What goes on behind an end begins anew.
        decays[1:][ended[:-1]] = 0.0
        offsets[0] += self.gamma * self.running
        returns: np.ndarray = _core.affine_scan(offsets, decays, 0, True)
        self.running = np.where(ended[-1], 0.0, returns[-1])
        return returns

    def _accumulate_on_device(self, rewards: Tensor, ended: Tensor) -> Tensor:
        # The returns-to-go of the time that runs backwards, in which an end cuts what follows it from what it had.
        before = torch.cat([torch.zeros_like(ended[:1]), ended[:-1]])
        running = torch.as_tensor(self.running, dtype=torch.float64, device=rewards.device)
        backwards: Tensor = discounted_returns(
            rewards.double().flip(0), before.flip(0), gamma=self.gamma, bootstrap=running
        )
        returns = backwards.flip(0)
        self.running = torch.where(ended[-1], 0.0, returns[-1])
        return returns

    def get_state(self) -> dict[str, Any]:
        """All that the next call depends on."""
        running = torch.as_tensor(self.running).to("cpu", copy=True).numpy()
        return {"running": running, "moments": np.array([self.mean, self.variance, self.count])}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` gave."""
        self.running = np.array(state["running"], dtype=np.float64)
        self.mean, self.variance, self.count = map(float, state["moments"])
