"""Distributions over actions, as pure functions of a network's outputs and of noise drawn beforehand.

The noise is counter-based: a key, the step, the environment's number and the action's component decide it, so that the
native rollout and a loop in torch act alike. The native formulas are in csrc/nn/heads.hpp.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from metafast import _core, _device

__all__ = ["SIGMA_FLOOR", "Bernoulli", "Categorical", "DiagonalGaussian", "Distribution", "make_distribution"]

SIGMA_FLOOR = 1e-2


# An array, or a tensor of any device.
Actions = TypeVar("Actions", np.ndarray, Tensor)


class Distribution(Protocol):
    """What acting and learning ask of a distribution; `num_outputs` is the width of the network's policy head.

    `native_head` is its name in the kernels; `choices` the number of each component's, where they are categorical.
    """

    native_head: str
    choices: tuple[int, ...]
    num_outputs: int
    action_shape: tuple[int, ...]
    action_dtype: torch.dtype

    def noise(self, key: int, num_steps: int, num_envs: int, device: torch.device | None = None) -> Tensor: ...
    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor: ...
    def mode(self, outputs: Tensor) -> Tensor: ...
    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor: ...
    def entropy(self, outputs: Tensor) -> Tensor: ...
    def to_environment(self, actions: Actions) -> Actions: ...
    def from_environment(self, actions: np.ndarray) -> np.ndarray: ...
    def native_translation(self, dtype: np.dtype[Any]) -> tuple[Any, ...]: ...


def _noise(key: int, num_steps: int, num_envs: int, size: int, *, normal: bool, device: torch.device | None) -> Tensor:
    if device is None:
        return torch.from_numpy(_core.policy_noise(key, num_steps, num_envs, size, normal))
    noise = torch.empty(num_steps, num_envs, size, dtype=torch.float32, device=device)
    if not _device.is_on_device(noise):
        return noise.copy_(_noise(key, num_steps, num_envs, size, normal=normal, device=None))
    with _device.current(noise):
        stream = _device.stream_of(noise)
        _device.kernels().policy_noise(stream, key, num_steps, num_envs, size, normal, noise.data_ptr())
    return noise


class _Constants:
    """Arrays of a space, also as tensors of the devices that were asked for: none can be copied to one that records."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self._arrays = arrays
        self._on: dict[torch.device, dict[str, Tensor]] = {}

    def like(self, actions: Any) -> dict[str, Any]:
        if not isinstance(actions, Tensor):
            return self._arrays
        if actions.device not in self._on:
            self._on[actions.device] = {
                name: torch.as_tensor(array, device=actions.device) for name, array in self._arrays.items()
            }
        return self._on[actions.device]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_on": {}}


class Categorical:
    """pi(a|s) = softmax(outputs)[a] over a Discrete space; over a MultiDiscrete one a softmax for each component."""

    native_head = "categorical"
    action_dtype = torch.int64

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        counts = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
        self.choices = tuple(int(n) for n in np.ravel(counts))
        self.start = np.ravel(space.start).astype(np.int64)
        self.num_outputs = sum(self.choices)
        self.action_shape: tuple[int, ...] = space.shape or ()
        self._constants = _Constants(start=self.start.reshape(self.action_shape))

    def noise(self, key: int, num_steps: int, num_envs: int, device: torch.device | None = None) -> Tensor:
        """Uniform numbers [num_steps, num_envs, components]."""
        return _noise(key, num_steps, num_envs, len(self.choices), normal=False, device=device)

    def _components(self, outputs: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = outputs.split(self.choices, -1)
        return parts

    def _shaped(self, components: list[Tensor]) -> Tensor:
        if not self.action_shape:
            return components[0]
        stacked = torch.stack(components, -1)
        return stacked.view(*stacked.shape[:-1], *self.action_shape)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """The first choice at which the cumulative probability exceeds the noise."""
        drawn = []
        for logits, uniform in zip(self._components(outputs), noise.unbind(-1), strict=True):
            weights = (logits - logits.amax(-1, keepdim=True)).exp().cumsum(-1)
            shares = uniform.to(outputs.dtype)[..., None] * weights[..., -1:]
            drawn.append((shares >= weights[..., :-1]).sum(-1))
        return self._shaped(drawn)

    def mode(self, outputs: Tensor) -> Tensor:
        """The most probable action."""
        return self._shaped([logits.argmax(-1) for logits in self._components(outputs)])

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-probabilities [...] of actions [..., components]."""
        if not self.action_shape:
            # log-softmax and selection in one operation, which matters for minibatches of 64.
            rows = outputs.reshape(-1, self.num_outputs)
            return -functional.cross_entropy(rows, actions.reshape(-1), reduction="none").view(actions.shape)
        components = actions.reshape(*outputs.shape[:-1], len(self.choices)).unbind(-1)
        parts = [
            logits.log_softmax(-1).gather(-1, component[..., None])[..., 0]
            for logits, component in zip(self._components(outputs), components, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropies [...]."""
        log_probs = [logits.log_softmax(-1) for logits in self._components(outputs)]
        return torch.stack([-(each.exp() * each).sum(-1) for each in log_probs]).sum(0)

    def to_environment(self, actions: Actions) -> Actions:
        """What the environment takes: choices are counted from the space's start."""
        return actions + self._constants.like(actions)["start"] if self.start.any() else actions

    def from_environment(self, actions: np.ndarray) -> np.ndarray:
        """The choices that `to_environment` makes these of."""
        choices: np.ndarray = np.asarray(actions, dtype=np.int64) - self.start.reshape(self.action_shape)
        return choices

    def native_translation(self, dtype: np.dtype[Any]) -> tuple[Any, ...]:
        """The kernels' form of `to_environment`."""
        return dtype, self.start


class Bernoulli:
    """pi(a=1|s) = sigmoid(outputs), independently for each component of a MultiBinary or a two-class Discrete space."""

    native_head = "bernoulli"
    action_dtype = torch.int64
    choices: tuple[int, ...] = ()

    def __init__(self, space: spaces.Discrete | spaces.MultiBinary) -> None:
        self.num_outputs = math.prod(space.shape or ())
        self.action_shape: tuple[int, ...] = (self.num_outputs,)
        self.space = space

    def noise(self, key: int, num_steps: int, num_envs: int, device: torch.device | None = None) -> Tensor:
        """Uniform numbers [num_steps, num_envs, components]."""
        return _noise(key, num_steps, num_envs, self.num_outputs, normal=False, device=device)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """1 where the noise lies below the probability."""
        return (noise.to(outputs.dtype) < outputs.sigmoid()).to(self.action_dtype)

    def mode(self, outputs: Tensor) -> Tensor:
        """The most probable action."""
        return (outputs > 0).to(self.action_dtype)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-probabilities [...] of actions [..., components]."""
        targets = actions.to(outputs.dtype)
        return -functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropies [...]."""
        return functional.binary_cross_entropy_with_logits(outputs, outputs.sigmoid(), reduction="none").sum(-1)

    def to_environment(self, actions: Actions) -> Actions:
        """What the environment takes."""
        if isinstance(self.space, spaces.Discrete):
            return actions[..., 0] + int(self.space.start)
        bits = actions if isinstance(actions, Tensor) else actions.astype(np.int8)
        return bits.reshape(*actions.shape[:-1], *self.space.shape)

    def from_environment(self, actions: np.ndarray) -> np.ndarray:
        """The bits that `to_environment` makes these of."""
        bits = np.asarray(actions, dtype=np.int64)
        if isinstance(self.space, spaces.Discrete):
            shifted: np.ndarray = bits[..., None] - int(self.space.start)
            return shifted
        return bits.reshape(*bits.shape[: bits.ndim - len(self.space.shape)], self.num_outputs)

    def native_translation(self, dtype: np.dtype[Any]) -> tuple[Any, ...]:
        """The kernels' form of `to_environment`."""
        start = self.space.start if isinstance(self.space, spaces.Discrete) else 0
        return dtype, np.full(self.num_outputs, start, dtype=np.int64)


class DiagonalGaussian:
    """a ~ N(mean, sigma^2) in units of the action bounds: [-1, 1] is mapped to [low, high] and clipped there.

    `outputs` holds the means, then the sigmas. `squash`: the network's mean goes through tanh and its sigma, which then
    depends on the state, through softplus.
    """

    action_dtype = torch.float32
    choices: tuple[int, ...] = ()

    def __init__(self, space: spaces.Box, squash: bool = False) -> None:
        size = int(np.prod(space.shape))
        self.native_head = "squashed_gaussian" if squash else "gaussian"
        self.num_outputs = 2 * size
        self.action_shape: tuple[int, ...] = (size,)
        self.space = space
        bounded = bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.centre = (low + high) / 2 if bounded else np.zeros(space.shape)
        self.half_range = (high - low) / 2 if bounded else np.ones(space.shape)
        self._constants = _Constants(centre=self.centre, half_range=self.half_range, low=low, high=high)

    def noise(self, key: int, num_steps: int, num_envs: int, device: torch.device | None = None) -> Tensor:
        """Standard normal numbers [num_steps, num_envs, components]."""
        return _noise(key, num_steps, num_envs, self.action_shape[0], normal=True, device=device)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Mean plus sigma times the noise."""
        mean, sigma = outputs.chunk(2, -1)
        return mean + sigma * noise.to(outputs.dtype)

    def mode(self, outputs: Tensor) -> Tensor:
        """The mean."""
        return outputs.chunk(2, -1)[0]

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-densities [...] of actions [..., components]."""
        mean, sigma = outputs.chunk(2, -1)
        return (-0.5 * ((actions - mean) / sigma).square() - sigma.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropies [...]."""
        return (outputs.chunk(2, -1)[1].log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def to_environment(self, actions: Actions) -> Actions:
        """What the environment takes, within its bounds."""
        # In float64 whatever the types are, as the kernels do (csrc/envs/rollout_kernels.cpp).
        of = self._constants.like(actions)
        units: Any = actions.double() if isinstance(actions, Tensor) else actions
        scaled = of["centre"] + of["half_range"] * units.reshape(*units.shape[:-1], *self.space.shape)
        clipped = scaled.clip(of["low"], of["high"])
        name = self.space.dtype.name
        taken: Any = clipped.to(getattr(torch, name)) if isinstance(clipped, Tensor) else clipped.astype(name)
        return taken  # type: ignore[no-any-return]

    def from_environment(self, actions: np.ndarray) -> np.ndarray:
        """The policy's actions, in units of the bounds, that `to_environment` makes these of."""
        units: np.ndarray = (np.asarray(actions, dtype=np.float64) - self.centre) / self.half_range
        return units.reshape(*units.shape[: units.ndim - len(self.space.shape)], *self.action_shape)

    def native_translation(self, dtype: np.dtype[Any]) -> tuple[Any, ...]:
        """The kernels' form of `to_environment`."""
        bounds = self.centre, self.half_range, self.space.low, self.space.high
        return dtype, *(np.ascontiguousarray(bound, dtype=np.float64).ravel() for bound in bounds)


def make_distribution(space: gymnasium.Space[Any], policy: str = "auto", *, squash: bool = False) -> Distribution:
    """Choose the distribution for an action space.

    Parameters
    ----------
    space
        The action space of one environment.
    policy : {"auto", "categorical", "bernoulli", "gaussian"}
        ``"auto"`` chooses by the space.
    squash : bool
        Of a Gaussian: whether its mean goes through tanh and its sigma, through softplus, depends on the state.

    Raises
    ------
    ValueError
        If there is no such distribution for the space.
    """
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and policy in ("auto", "categorical"):
        return Categorical(space)
    if isinstance(space, spaces.MultiBinary) and policy in ("auto", "bernoulli"):
        return Bernoulli(space)
    if isinstance(space, spaces.Discrete) and policy == "bernoulli" and space.n == 2:
        return Bernoulli(space)
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and policy in ("auto", "gaussian"):
        return DiagonalGaussian(space, squash)
    raise ValueError(f"there is no {policy} policy for the action space {space}")
