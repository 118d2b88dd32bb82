"""A network with what trains it: its parameters as one vector, Adam, and a generator; saved and restored exactly."""

import os
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metafast.nn import ActorCritic, Adam
from metafast.trainers import UsageError, _distributed

EPSILON = 1e-5


class ModuleLearner:
    """A module, its parameters as one vector, Adam's moments, and the generator behind every random choice."""

    def __init__(self, module: nn.Module, generator: torch.Generator, device: torch.device) -> None:
        self.generator = generator
        self.device = device
        self.parameters, self.gradient = flatten(module)
        self.moments = {name: torch.zeros_like(self.parameters) for name in ("first", "second")}
        self.moments["count"] = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def step(self, learning_rate: float, max_grad_norm: float = 0.0, optimizer: str = "adam") -> None:
        """Average the gradient over the processes, limit its length, descend along it and clear it.

        Adam (Kingma and Ba 2015, algorithm 1) is written out because torch.optim would import torch._dynamo at its
        first use, for two seconds, and spend more on each call than this whole update takes.
        """
        gradient = self.gradient
        _distributed.average_(gradient)
        if max_grad_norm > 0:
            gradient *= (max_grad_norm / (gradient.norm() + 1e-6)).clamp_(max=1.0)
        if optimizer == "sgd":
            self.parameters.sub_(gradient, alpha=learning_rate)
        else:
            first, second, count = self.moments["first"], self.moments["second"], self.moments["count"]
            beta_1, beta_2 = 0.9, 0.999
            count += 1
            first.lerp_(gradient, 1 - beta_1)
            second.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
            deviation = (second / (1 - beta_2 ** int(count))).sqrt_().add_(EPSILON)
            self.parameters.addcdiv_(first, deviation, value=-learning_rate / (1 - beta_1 ** int(count)))
        gradient.zero_()

    def get_state(self) -> dict[str, np.ndarray]:
        """All that decides what the learner does next."""
        state = {f"adam.{name}": moment.cpu().numpy() for name, moment in self.moments.items()}
        state["parameters"] = self.parameters.cpu().numpy()
        state["generator"] = self.generator.get_state().numpy()
        return state

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `get_state` gave."""
        if state["parameters"].shape != tuple(self.parameters.shape):
            raise UsageError("the training state was saved with another network")
        self.parameters.copy_(torch.from_numpy(state["parameters"]))
        self.generator.set_state(torch.from_numpy(state["generator"]))
        for name, moment in self.moments.items():
            moment.copy_(torch.from_numpy(state[f"adam.{name}"]))


class Learner(ModuleLearner):
    """The learner of a policy, and what the policy remembers of the episodes that it is in."""

    def __init__(self, policy: ActorCritic, generator: torch.Generator, device: torch.device) -> None:
        super().__init__(policy, generator, device)
        self.policy = policy
        self.distribution = policy.distribution
        self._native_optimizer: Adam | None = None
        self.forget()

    def forget(self) -> None:
        """Every environment begins a new episode."""
        self.hidden: Any = None
        self.starts: Tensor | None = None

    def native_optimizer(self, optimizer: str = "adam") -> Adam:
        """Adam for the native updates, over this learner's own moments."""
        if self._native_optimizer is None:
            self._native_optimizer = Adam(self.policy, eps=EPSILON, plain=optimizer == "sgd")
            self._native_optimizer.first, self._native_optimizer.second = self.moments["first"], self.moments["second"]
        self._native_optimizer.step_count = int(self.moments["count"])
        return self._native_optimizer

    def get_state(self) -> dict[str, np.ndarray]:
        """All that decides what the learner does next."""
        state = super().get_state()
        state |= {f"buffer.{name}": buffer.cpu().numpy() for name, buffer in self.policy.named_buffers()}
        if self.hidden is not None:
            state["hidden"] = torch.as_tensor(self.hidden).cpu().numpy()
        if self.starts is not None:
            state["starts"] = self.starts.cpu().numpy()
        return state

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `get_state` gave."""
        super().set_state(state)
        for name, buffer in self.policy.named_buffers():
            buffer.copy_(torch.from_numpy(np.array(state[f"buffer.{name}"])))
        self.hidden = state.get("hidden")
        self.starts = torch.from_numpy(state["starts"]) if "starts" in state else None


def find_device(name: str) -> torch.device:
    """The torch device of that name, after a try; of several cards under torchrun, each process's own."""
    try:
        device = torch.device(name)
        if device.type == "cuda":
            if device.index is None and torch.cuda.device_count() > 0:
                rank = os.environ.get("LOCAL_RANK")
                own = torch.cuda.current_device() if rank is None else int(rank) % torch.cuda.device_count()
                device = torch.device("cuda", own)
            # A seed repeats a run: convolutions by one algorithm, not by whichever adds up in any order.
            torch.backends.cudnn.deterministic = True
        # Read back, which a device without memory ("meta") cannot do.
        torch.ones((), device=device).item()
    except (RuntimeError, AssertionError) as error:
        # torch's reasons can be followed by pages about its own build.
        reason = str(error).partition("\n")[0]
        raise UsageError(f"device {name!r} cannot be used: {reason}") from error
    return device


def flatten(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Lay a module's parameters, and their gradients, end to end in two vectors that they become views of.

    One gradient norm, one optimiser step and one all-reduce then serve all of them: with small networks the calls cost
    more than the arithmetic.
    """
    flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    if flat.is_cuda:
        # cuDNN copies a recurrent layer's weights together at every call, since they are not alone in their memory.
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
    gradient = torch.zeros_like(flat)
    offset = 0
    for parameter in module.parameters():
        end = offset + parameter.numel()
        parameter.grad = gradient[offset:end].view_as(parameter)
        parameter.data = flat[offset:end].view_as(parameter)
        offset = end
    return flat, gradient
