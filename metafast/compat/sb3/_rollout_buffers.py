"""Rollout buffers that compute their advantages with the kernel."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3.common import buffers
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

import metafast

__all__ = ["DictRolloutBuffer", "RolloutBuffer", "use_metafast_gae"]

ModelOrBuffer = TypeVar("ModelOrBuffer", OnPolicyAlgorithm, buffers.RolloutBuffer)


class RolloutBuffer(buffers.RolloutBuffer):
    """``stable_baselines3.common.buffers.RolloutBuffer`` on the kernel, for ``rollout_buffer_class=``.

    Ahead of a buffer class of your own or of another library, ``class MyBuffer(RolloutBuffer, TheirBuffer): pass``, it
    replaces the one method there too.
    """

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Fill ``advantages`` and ``returns``.

        Parameters
        ----------
        last_values : tensor [N] or [N, 1]
            Values of the observations after the last step.
        dones : array [N] of bool
            The last step ended an episode.

        Notes
        -----
        Every end counts as terminal here: where a time limit cut an episode, Stable-Baselines3 has added the
        discounted value of its last observation to the reward.
        """
        ended = np.empty(self.rewards.shape, np.bool_)
        np.not_equal(self.episode_starts[1:], 0, out=ended[:-1])
        ended[-1] = dones
        bootstrap = last_values.detach().cpu().numpy().flatten().astype(self.values.dtype, copy=False)
        self.advantages, self.returns = metafast.gae(
            self.rewards, self.values, bootstrap, ended, gamma=self.gamma, lam=self.gae_lambda
        )


class DictRolloutBuffer(RolloutBuffer, buffers.DictRolloutBuffer):
    """``stable_baselines3.common.buffers.DictRolloutBuffer`` on the kernel, for ``rollout_buffer_class=``."""


_ON_THE_KERNEL: dict[type, type] = {
    buffers.RolloutBuffer: RolloutBuffer,
    buffers.DictRolloutBuffer: DictRolloutBuffer,
}


def use_metafast_gae(model_or_buffer: ModelOrBuffer) -> ModelOrBuffer:
    """Make an existing model, or a rollout buffer, compute its advantages with the kernel from now on.

    Parameters
    ----------
    model_or_buffer : OnPolicyAlgorithm or RolloutBuffer
        PPO, A2C, ..., also one that was loaded; or a buffer.

    Returns
    -------
    model_or_buffer
        The same object. A model that is saved is loaded with the kernel again, where metafast can be imported.

    Raises
    ------
    TypeError
        It is no model with a rollout buffer; the buffer is of a class of its own (see `RolloutBuffer`).

    Examples
    --------
    >>> from stable_baselines3 import PPO
    >>> model = use_metafast_gae(PPO("MlpPolicy", "CartPole-v1", device="cpu"))
    >>> type(model.rollout_buffer)
    <class 'metafast.compat.sb3._rollout_buffers.RolloutBuffer'>
    """
    buffer: Any = getattr(model_or_buffer, "rollout_buffer", model_or_buffer)
    if not isinstance(buffer, buffers.RolloutBuffer):
        raise TypeError(
            "expected a model that has a rollout buffer (PPO, A2C) or a RolloutBuffer, "
            f"not {type(model_or_buffer).__name__}"
        )
    if not isinstance(buffer, RolloutBuffer):
        if type(buffer) not in _ON_THE_KERNEL:
            name = type(buffer).__name__
            raise TypeError(
                f"{name} is no class of Stable-Baselines3's own; give the model "
                f"rollout_buffer_class=MyBuffer, with `class MyBuffer(metafast.compat.sb3.RolloutBuffer, {name})`"
            )
        buffer.__class__ = _ON_THE_KERNEL[type(buffer)]
    if buffer is not model_or_buffer:
        model: Any = model_or_buffer
        model.rollout_buffer_class = type(buffer)
    return model_or_buffer
