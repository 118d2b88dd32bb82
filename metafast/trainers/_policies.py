"""Actor-critic networks, and the distributions over actions that their outputs stand for.

A distribution is a pure function of the network's `outputs` [..., n] and of `noise` drawn beforehand: a whole
rollout's noise costs one call, and zero noise gives the mode.
"""

import itertools
import math
from typing import Literal, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from metafast.trainers import UsageError

SIGMA_FLOOR = 1e-2


class Distribution(Protocol):
    """What the trainer asks of a distribution; `num_outputs` is the width of the network's policy head."""

    num_outputs: int
    action_shape: tuple[int, ...]
    action_dtype: torch.dtype

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor: ...
    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor: ...
    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor: ...
    def entropy(self, outputs: Tensor) -> Tensor: ...
    def to_environment(self, actions: np.ndarray) -> np.ndarray: ...


class Categorical:
    """pi(a|s) = softmax(outputs)[a], over a Discrete space."""

    action_shape: tuple[int, ...] = ()
    action_dtype = torch.int64

    def __init__(self, space: gymnasium.spaces.Discrete) -> None:
        self.num_outputs = int(space.n)
        self.start = int(space.start)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        # Gumbel-max: argmax(logits + Gumbel noise) is a draw from softmax(logits).
        return torch.empty(*shape, self.num_outputs).exponential_(generator=generator).log_().neg_()

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        return (outputs + noise).argmax(-1)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        # log-softmax and selection in one operation, which matters for minibatches of 64.
        rows = outputs.reshape(-1, self.num_outputs)
        return -functional.cross_entropy(rows, actions.reshape(-1), reduction="none").view(actions.shape)

    def entropy(self, outputs: Tensor) -> Tensor:
        log_probs = outputs.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        return actions + self.start if self.start else actions


class Bernoulli:
    """pi(a=1|s) = sigmoid(outputs), independently for each component of a MultiBinary or a two-class Discrete space."""

    action_dtype = torch.float32

    def __init__(self, space: gymnasium.spaces.Discrete | gymnasium.spaces.MultiBinary) -> None:
        self.num_outputs = math.prod(space.shape or ())
        self.action_shape: tuple[int, ...] = (self.num_outputs,)
        self.space = space

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        # outputs + logit(u) > 0 with u uniform has probability sigmoid(outputs).
        return torch.empty(*shape, self.num_outputs).uniform_(1e-7, 1 - 1e-7, generator=generator).logit_()

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        return (outputs + noise > 0).to(self.action_dtype)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        return -functional.binary_cross_entropy_with_logits(outputs, actions, reduction="none").sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, outputs.sigmoid(), reduction="none").sum(-1)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return actions[..., 0].astype(np.int64) + int(self.space.start)
        return actions.astype(np.int8).reshape(*actions.shape[:-1], *self.space.shape)


class DiagonalGaussian:
    """a ~ N(mean, sigma^2) in units of the action bounds: [-1, 1] is mapped to [low, high] and clipped there.

    `outputs` holds the means, then the sigmas.
    """

    action_dtype = torch.float32

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        size = int(np.prod(space.shape))
        self.num_outputs = 2 * size
        self.action_shape: tuple[int, ...] = (size,)
        self.space = space
        bounded = bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())
        self.centre = (space.low + space.high) / 2 if bounded else np.zeros(space.shape, space.dtype)
        self.half_range = (space.high - space.low) / 2 if bounded else np.ones(space.shape, space.dtype)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(*shape, *self.action_shape, generator=generator)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        mean, sigma = outputs.chunk(2, -1)
        return mean + sigma * noise

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        mean, sigma = outputs.chunk(2, -1)
        return (-0.5 * ((actions - mean) / sigma).square() - sigma.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        return (outputs.chunk(2, -1)[1].log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        scaled = self.centre + self.half_range * actions.reshape(*actions.shape[:-1], *self.space.shape)
        clipped: np.ndarray = np.clip(scaled, self.space.low, self.space.high).astype(self.space.dtype)
        return clipped


def make_distribution(space: gymnasium.Space, policy: str) -> Distribution:  # type: ignore[type-arg]
    """Choose the distribution for an action space; `policy` is "auto" or names one."""
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Discrete) and policy in ("auto", "categorical"):
        return Categorical(space)
    if isinstance(space, spaces.MultiBinary) and policy in ("auto", "bernoulli"):
        return Bernoulli(space)
    if isinstance(space, spaces.Discrete) and policy == "bernoulli" and space.n == 2:
        return Bernoulli(space)
    if isinstance(space, spaces.Box) and policy in ("auto", "gaussian"):
        return DiagonalGaussian(space)
    raise UsageError(f"there is no {policy} policy for the action space {space}")


def _orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _glorot(layer: nn.Linear) -> nn.Linear:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ActorCritic(nn.Module):
    """A policy and a state value over flat observations.

    Parameters
    ----------
    observation_size
        Length of an observation.
    distribution
        What the policy's outputs stand for.
    preset
        "default": a shared tanh trunk of `hidden_sizes`, orthogonal initialisation. "keras": a 64-unit relu policy and
        a separate 32-unit relu value network. "torch": a shared 128-128 relu trunk; a Gaussian's mean goes through
        tanh and its sigma through softplus.
    hidden_sizes
        Widths of the default trunk; empty gives a linear policy and a linear value.
    """

    def __init__(
        self,
        observation_size: int,
        distribution: Distribution,
        preset: Literal["default", "keras", "torch"] = "default",
        hidden_sizes: tuple[int, ...] = (64, 64),
    ) -> None:
        super().__init__()
        self.gaussian = isinstance(distribution, DiagonalGaussian)
        self.squash = preset == "torch"
        width = distribution.num_outputs
        # Sigma depends on the state only in the torch preset; elsewhere it is one learnt vector.
        self.log_sigma = nn.Parameter(torch.zeros(width // 2)) if self.gaussian and not self.squash else None
        policy_width = width if self.log_sigma is None else width // 2
        self.trunk: nn.Module = nn.Identity()
        if preset == "keras":
            self.policy: nn.Module = nn.Sequential(
                _glorot(nn.Linear(observation_size, 64)), nn.ReLU(), _glorot(nn.Linear(64, policy_width))
            )
            self.value: nn.Module = nn.Sequential(
                _glorot(nn.Linear(observation_size, 32)), nn.ReLU(), _glorot(nn.Linear(32, 1))
            )
        elif preset == "torch":
            self.trunk = nn.Sequential(nn.Linear(observation_size, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
            self.policy, self.value = nn.Linear(128, policy_width), nn.Linear(128, 1)
        else:
            sizes = (observation_size, *hidden_sizes)
            layers: list[nn.Module] = []
            for inputs, outputs in itertools.pairwise(sizes):
                layers += [_orthogonal(nn.Linear(inputs, outputs), math.sqrt(2)), nn.Tanh()]
            self.trunk = nn.Sequential(*layers)
            # A small gain starts close to the uniform policy.
            self.policy = _orthogonal(nn.Linear(sizes[-1], policy_width), 0.01)
            self.value = _orthogonal(nn.Linear(sizes[-1], 1), 1.0)

    def _outputs(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.policy(features)
        if self.log_sigma is not None:
            return torch.cat([outputs, self.log_sigma.exp().expand_as(outputs)], -1)
        if self.gaussian and self.squash:
            mean, sigma = outputs.chunk(2, -1)
            return torch.cat([mean.tanh(), functional.softplus(sigma) + SIGMA_FLOOR], -1)
        return outputs

    def act(self, observations: Tensor) -> Tensor:
        """Only the policy's outputs, for acting."""
        return self._outputs(self.trunk(observations))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's outputs [..., n] and the values [...]."""
        features = self.trunk(observations)
        return self._outputs(features), self.value(features).squeeze(-1)
