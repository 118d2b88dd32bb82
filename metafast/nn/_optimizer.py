"""Adam, for the native updates."""

import threading
from typing import Any

import numpy as np
import torch

from metafast._graph_capture import Recordings
from metafast.nn._actor_critic import ActorCritic

__all__ = ["Adam"]


class Adam:
    """Adam or AdamW over an `ActorCritic`, stepped by the updates of this package.

    Parameters
    ----------
    policy : ActorCritic
        Whose parameters are updated.
    lr : float
        Step size; the attribute may be changed between updates.
    betas : tuple of float
        Decay of the first and second moments.
    eps : float
        Added to the root of the second moment: 1e-5, as is usual in PPO, where torch has 1e-8.
    weight_decay : float
        Weight of the parameters' squares in the loss or, if decoupled, their own shrinking.
    decoupled_weight_decay : bool
        AdamW (Loshchilov and Hutter 2019).
    plain : bool
        Stochastic gradient descent instead: no moments.

    Notes
    -----
    Kingma and Ba 2015, algorithm 1, as in torch.optim.Adam, whose ``state_dict`` this one's equals: training continues
    in torch with ``torch.optim.Adam(policy.parameters()).load_state_dict(optimizer.state_dict())``. It goes by the
    order of ``policy.parameters()``, which is not that of a module whose parts `ActorCritic.from_modules` took.

    Examples
    --------
    >>> from gymnasium.spaces import Box, Discrete
    >>> import metafast
    >>> policy = metafast.nn.ActorCritic(Box(-1.0, 1.0, (4,)), Discrete(2))
    >>> optimizer = metafast.nn.Adam(policy, lr=3e-4)
    >>> optimizer.step_count
    0
    """

    def __init__(
        self,
        policy: ActorCritic,
        lr: float = 3e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        plain: bool = False,
    ) -> None:
        if not isinstance(policy, ActorCritic):
            raise TypeError(f"policy must be a metafast.nn.ActorCritic, not {type(policy).__name__}")
        if not isinstance(betas, (tuple, list)) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, not {betas}")
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not (value >= 0 and np.isfinite(value)):
                raise ValueError(f"{name} must be finite and not negative, not {value}")
        self.policy = policy
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.decoupled_weight_decay = decoupled_weight_decay
        self.plain = plain
        self.step_count = 0
        self.in_use = threading.Lock()
        size = sum(parameter.numel() for parameter in policy.parameters())
        self.first = torch.zeros(size, dtype=policy.dtype, device=policy.device)
        self.second = torch.zeros_like(self.first)
        # Of updates on a CUDA device.
        self.recordings: Recordings[Any] = Recordings()

    def fit(self) -> None:
        """Follow the policy to another type or device."""
        kind = self.policy.device, self.policy.dtype
        if (self.first.device, self.first.dtype) != kind:
            self.first, self.second = self.first.to(*kind), self.second.to(*kind)

    def recording_key(self) -> tuple[Any, ...]:
        """What changes where a recording of this optimiser's step is none of it any more."""
        numbers = self.betas, self.eps, self.weight_decay, self.decoupled_weight_decay, self.plain
        return (*numbers, self.first.data_ptr(), self.second.data_ptr())

    def native(self) -> dict[str, Any]:
        """What the kernels take."""
        self.fit()
        return {
            "first": self.first.numpy(),
            "second": self.second.numpy(),
            "beta_1": self.betas[0],
            "beta_2": self.betas[1],
            "epsilon": self.eps,
            "weight_decay": self.weight_decay,
            "decoupled": self.decoupled_weight_decay,
            "plain": self.plain,
            "step": self.step_count,
        }

    def state_dict(self) -> dict[str, Any]:
        """As torch.optim.Adam's: the moments of each parameter, in the order of ``policy.parameters()``."""
        state, offset = {}, 0
        parameters = list(self.policy.parameters())
        for index, parameter in enumerate(parameters):
            end = offset + parameter.numel()
            state[index] = {
                "step": torch.tensor(float(self.step_count)),
                "exp_avg": self.first[offset:end].view_as(parameter).clone(),
                "exp_avg_sq": self.second[offset:end].view_as(parameter).clone(),
            }
            offset = end
        group = {
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "amsgrad": False,
            "maximize": False,
            "foreach": None,
            "capturable": False,
            "differentiable": False,
            "fused": None,
            "decoupled_weight_decay": self.decoupled_weight_decay,
            "params": list(range(len(parameters))),
        }
        return {"state": state if self.step_count else {}, "param_groups": [group]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, also one of torch.optim.Adam or AdamW over the same parameters.

        Raises
        ------
        ValueError
            If it is of other parameters, or of an option that this optimiser lacks.
        """
        (group,), state = state_dict["param_groups"], state_dict["state"]
        if group.get("amsgrad") or group.get("maximize"):
            raise ValueError("amsgrad and maximize are not available here")
        parameters = list(self.policy.parameters())
        if len(group["params"]) != len(parameters) or any(
            index in state and state[index]["exp_avg"].shape != parameter.shape
            for index, parameter in enumerate(parameters)
        ):
            raise ValueError("the state is of other parameters than the policy's")
        for name in ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay"):
            setattr(self, name, group.get(name, getattr(self, name)))
        self.betas = tuple(self.betas)  # type: ignore[assignment]
        # Torch has no moments of a parameter that never had a gradient.
        self.step_count = max((int(each["step"]) for each in state.values()), default=0)
        for moments, name in ((self.first, "exp_avg"), (self.second, "exp_avg_sq")):
            parts = [
                state[index][name].flatten() if index in state else moments.new_zeros(parameter.numel())
                for index, parameter in enumerate(parameters)
            ]
            moments.copy_(torch.cat([part.to(moments.device) for part in parts]))
