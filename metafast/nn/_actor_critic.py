"""The actor-critic network: a torch module that the kernels can run."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from metafast import _device
from metafast.nn._distributions import SIGMA_FLOOR, DiagonalGaussian, Distribution, make_distribution
from metafast.nn._native import FlatParameters, NativePolicy, list_parts

__all__ = ["ActorCritic"]

View = TypeVar("View", bound=FlatParameters)

_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}
# Normalised observations are kept within this many standard deviations, as is usual.
_LIMIT = 10.0
_EPSILON = 1e-8


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _body(sizes: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [_linear(inputs, outputs, math.sqrt(2)), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class ActorCritic(nn.Module):
    """A policy and a state value over flat observations, as a torch module whose parameters the kernels share.

    `metafast.envs.rollout` and the updates of this package read and write the parameters where they are; between those
    calls the module can be looked at, saved, changed or trained by torch. At their first use the parameters are moved
    into one vector, of which they are views from then on. On a CUDA device (``policy.to("cuda")``) the same functions
    act and learn there, in torch under CUDA graphs.

    Parameters
    ----------
    observation_space : gymnasium.spaces.Box
        Of one environment; observations are flattened.
    action_space : gymnasium.spaces.Space
        Of one environment: Discrete, MultiDiscrete, MultiBinary, or a Box of floats.
    hidden_sizes : sequence of int
        Widths of the layers below the policy; none gives a linear policy.
    value_hidden_sizes : sequence of int, optional
        Widths of a value network of its own; the value shares the policy's layers where it is None.
    activation : {"tanh", "relu", "silu"}
        Behind each hidden layer.
    gru_size : int, optional
        Width of a GRU between the shared layers and the heads: the policy then remembers.
    policy : {"auto", "categorical", "bernoulli", "gaussian"}
        Distribution over actions; ``"auto"`` chooses by the action space.
    squash : bool
        Of a Gaussian policy: its mean goes through tanh, and its sigma depends on the state through softplus; else
        sigma is one learnt vector.
    normalize_observations : bool
        Standardise observations by running statistics, which `update_statistics` extends and ``state_dict`` holds.

    Attributes
    ----------
    distribution : Distribution
        What the policy's outputs stand for.

    Raises
    ------
    ValueError
        If the spaces, sizes or names do not fit.

    Notes
    -----
    Weights are orthogonal with gain sqrt(2), 0.01 in the policy's head and 1 in the value's; biases are 0 (Andrychowicz
    et al. 2021, "What Matters for On-Policy Deep Actor-Critic Methods?").

    Examples
    --------
    >>> import metafast
    >>> env = metafast.envs.make_vec("CartPole-v1", 8, autoreset_mode="same_step")
    >>> policy = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space)
    >>> optimizer = metafast.nn.Adam(policy, lr=3e-3)
    >>> _ = env.reset(seed=0)
    >>> rollout = metafast.envs.rollout(env, policy, 32)
    >>> figures = metafast.nn.ppo_update(policy, optimizer, rollout)
    >>> sorted(figures)[:3]
    ['approx_kl', 'clip_fraction', 'entropy']
    """

    observation_mean: Tensor
    observation_variance: Tensor
    observation_count: Tensor

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        value_hidden_sizes: Sequence[int] | None = None,
        activation: str = "tanh",
        gru_size: int | None = None,
        policy: str = "auto",
        squash: bool = False,
        normalize_observations: bool = False,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(map(repr, _ACTIVATIONS))}, not {activation!r}")
        sizes = [*hidden_sizes, *(value_hidden_sizes or ()), *(() if gru_size is None else (gru_size,))]
        if any(isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1 for size in sizes):
            raise ValueError(f"the sizes of layers must be whole numbers of at least 1, not {sizes}")
        if gru_size is not None and value_hidden_sizes is not None:
            raise ValueError("value_hidden_sizes must be None with a GRU, whose features policy and value share")
        self._set_spaces(observation_space, make_distribution(action_space, policy, squash=squash))
        gaussian = isinstance(self.distribution, DiagonalGaussian)
        width = self.distribution.num_outputs
        head_width = width // 2 if gaussian and not squash else width
        inputs = self.observation_size
        shared = value_hidden_sizes is None
        body = _body((inputs, *hidden_sizes), activation)
        features = hidden_sizes[-1] if hidden_sizes else inputs
        self.trunk: nn.Module = body if shared else nn.Identity()
        self.gru: nn.GRU | None = None
        if gru_size is not None:
            self.gru = nn.GRU(features, gru_size)
            features = gru_size
        policy_head = _linear(features, head_width, 0.01)
        if shared:
            self.policy: nn.Module = policy_head
            self.value: nn.Module = _linear(features, 1, 1.0)
        else:
            assert value_hidden_sizes is not None
            self.policy = nn.Sequential(*body, policy_head)
            value_body = _body((inputs, *value_hidden_sizes), activation)
            value_features = value_hidden_sizes[-1] if value_hidden_sizes else inputs
            self.value = nn.Sequential(*value_body, _linear(value_features, 1, 1.0))
        self.log_sigma = nn.Parameter(torch.zeros(width // 2)) if gaussian and not squash else None
        self._set_normalization(normalize_observations)

    @classmethod
    def from_modules(
        cls,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        policy: nn.Module,
        value: nn.Module,
        trunk: nn.Module | None = None,
        gru: nn.GRU | None = None,
        log_sigma: nn.Parameter | None = None,
        squash: bool = False,
        normalize_observations: bool = False,
    ) -> "ActorCritic":
        """Make an actor-critic of modules that exist, whose parameters it shares.

        Parameters
        ----------
        observation_space, action_space, squash, normalize_observations
            As of the class.
        policy, value : torch.nn.Module
            From the features (the observations where there are no shared layers) to the logits or means, and to one
            value. The kernels know Linear, Tanh, ReLU, SiLU, Flatten and Identity, in Sequential; all parameters of
            float32 or all of float64, none frozen. Means are in units of a Box's bounds: 1 is its high.
        trunk : torch.nn.Module, optional
            The shared layers.
        gru : torch.nn.GRU, optional
            Between the trunk and the two.
        log_sigma : torch.nn.Parameter, optional
            Of a Gaussian policy that is not squashed: [components], or [1, components] as in CleanRL.

        Raises
        ------
        ValueError
            If the modules do not fit the spaces.

        Examples
        --------
        CleanRL's agent for CartPole:

        >>> from gymnasium.spaces import Box, Discrete
        >>> from torch import nn
        >>> import metafast
        >>> actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
        >>> critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        >>> policy = metafast.nn.ActorCritic.from_modules(
        ...     Box(-1.0, 1.0, (4,)), Discrete(2), policy=actor, value=critic
        ... )
        >>> policy.policy is actor
        True
        """
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._set_spaces(observation_space, make_distribution(action_space, squash=squash))
        needs_sigma = isinstance(self.distribution, DiagonalGaussian) and not squash
        components = self.distribution.num_outputs // 2
        if needs_sigma != (log_sigma is not None) or (log_sigma is not None and log_sigma.numel() != components):
            expected = f"a parameter of {components} elements" if needs_sigma else "None"
            raise ValueError(f"log_sigma must be {expected} for this action space, not {log_sigma}")
        self.trunk = nn.Identity() if trunk is None else trunk
        self.gru, self.policy, self.value, self.log_sigma = gru, policy, value, log_sigma
        parameter = next(policy.parameters(), torch.zeros(0))
        self._set_normalization(normalize_observations, parameter.device)
        rows = torch.zeros(2, self.observation_size, dtype=parameter.dtype, device=parameter.device)
        if gru is not None and gru.batch_first:
            raise ValueError("gru must be made with batch_first=False: sequences are [T, N, ...]")
        try:
            with torch.no_grad():
                features = self.trunk(rows) if gru is None else gru(self.trunk(rows)[None])[0][0]
                raw, values = self.policy(features), self.value(features)
        except RuntimeError as error:
            raise ValueError(
                f"the modules do not fit each other, or observations of {self.observation_size} numbers: {error}"
            ) from error
        width = components if needs_sigma else self.distribution.num_outputs
        if raw.shape != (2, width) or values.shape != (2, 1):
            raise ValueError(
                f"policy must give {width} outputs and value 1 for this action space, "
                f"but for 2 rows they give {tuple(raw.shape)} and {tuple(values.shape)}"
            )
        return self

    def _set_spaces(self, observation_space: gymnasium.Space[Any], distribution: Distribution) -> None:
        if not isinstance(observation_space, gymnasium.spaces.Box):
            raise ValueError(f"observation_space must be a Box, not {observation_space}")
        self.observation_shape = observation_space.shape
        self.observation_size = math.prod(observation_space.shape)
        if self.observation_size < 1:
            raise ValueError(f"observation_space must hold at least one number, not {observation_space}")
        self.distribution = distribution
        self._cached_view: FlatParameters | None = None

    def _set_normalization(self, wanted: bool, device: torch.device | None = None) -> None:
        self.normalizes = wanted
        if wanted:
            kind: dict[str, Any] = {"dtype": torch.float64, "device": device}
            self.register_buffer("observation_mean", torch.zeros(self.observation_size, **kind))
            self.register_buffer("observation_variance", torch.ones(self.observation_size, **kind))
            self.register_buffer("observation_count", torch.zeros((), **kind))

    @property
    def recurrent(self) -> bool:
        """Whether there is a GRU."""
        return self.gru is not None

    @property
    def hidden_size(self) -> int:
        """The width of the GRU, 0 without."""
        return 0 if self.gru is None else self.gru.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """That of the parameters."""
        return next(self.parameters()).device

    @property
    def on_device(self) -> bool:
        """Whether that is a CUDA device, where rollouts and updates then run."""
        return _device.is_on_device(next(self.parameters()))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        mean, variance = self.observation_mean, self.observation_variance
        return mean.to(self.dtype), torch.rsqrt(variance + _EPSILON).to(self.dtype)

    def _flat(self, observations: Tensor) -> Tensor:
        own = self.observation_shape
        # Flattened ones have one axis, whatever the space has.
        axes = len(own) if observations.shape[observations.ndim - len(own) :] == own else 1
        if axes == 1 and observations.shape[-1:] != (self.observation_size,):
            raise ValueError(f"observations must have shape (..., {own}), not {tuple(observations.shape)}")
        rows = observations.flatten(observations.ndim - axes).to(self.dtype)
        if self.normalizes:
            mean, scale = self._statistics()
            rows = ((rows - mean) * scale).clamp(-_LIMIT, _LIMIT)
        return rows

    def _outputs(self, features: Tensor) -> Tensor:
        raw: Tensor = self.policy(features)
        if self.log_sigma is not None:
            return torch.cat([raw, self.log_sigma.exp().flatten().expand_as(raw)], -1)
        if isinstance(self.distribution, DiagonalGaussian):
            mean, sigma = raw.chunk(2, -1)
            return torch.cat([mean.tanh(), functional.softplus(sigma) + SIGMA_FLOOR], -1)
        return raw

    def act(self, observations: Tensor) -> Tensor:
        """Only the policy's outputs [..., n] for observations [..., *their shape], for acting without a GRU."""
        if self.gru is not None:
            raise ValueError("this policy remembers: call it with observations [T, N, ...], hidden and starts")
        return self._outputs(self.trunk(self._flat(observations)))

    def forward(self, observations: Tensor, hidden: Tensor | None = None, starts: Tensor | None = None) -> Any:
        """The distribution's outputs and the values.

        Parameters
        ----------
        observations : torch.Tensor
            [..., *their shape]; of a recurrent network sequences [T, N, *their shape]. Or flattened.
        hidden : torch.Tensor, optional
            Of a recurrent network: the state [N, hidden_size] before the first step, zeros where it is None.
        starts : torch.Tensor, optional
            Of a recurrent network: bool [T, N], True where an observation is the first of its episode, before which
            the state is zeroed.

        Returns
        -------
        outputs : torch.Tensor
            [..., n]: logits, or means and then sigmas.
        values : torch.Tensor
            [...].
        hidden : torch.Tensor
            Of a recurrent network: the state [N, hidden_size] after the last step.
        """
        if self.gru is None:
            features = self.trunk(self._flat(observations))
            return self._outputs(features), self.value(features).squeeze(-1)
        inputs = self.trunk(self._flat(observations))
        if inputs.ndim != 3:
            raise ValueError(f"a recurrent policy takes observations [T, N, ...], not of shape {observations.shape}")
        if hidden is None:
            hidden = inputs.new_zeros(inputs.shape[1], self.hidden_size)
        steps = []
        for step in range(len(inputs)):
            if starts is not None:
                hidden = torch.where(starts[step][:, None], torch.zeros_like(hidden), hidden)
            hidden = self._remember(inputs[step], hidden)
            steps.append(hidden)
        features = torch.stack(steps)
        return self._outputs(features), self.value(features).squeeze(-1), hidden

    def _remember(self, inputs: Tensor, hidden: Tensor) -> Tensor:
        """The GRU's state [N, hidden_size] after inputs [N, size]."""
        gru = self.gru
        assert gru is not None
        if type(gru) is not nn.GRU or gru.num_layers != 1 or gru.bidirectional or gru._forward_hooks:
            state: Tensor = gru(inputs[None], hidden[None])[1][0]
            return state
        # Step by step the module would have cuDNN gather its weights each time, because they are parts of our vector.
        names = "weight_ih_l0", "weight_hh_l0", *(("bias_ih_l0", "bias_hh_l0") if gru.bias else ())
        weights: list[Any] = [getattr(gru, name) for name in names]
        return torch.gru_cell(inputs, hidden, *weights)

    def update_statistics(self, observations: Any) -> None:
        """Extend the running mean and variance by observations [..., *observation shape] (Chan et al. 1979)."""
        if not self.normalizes:
            raise ValueError("this policy was made with normalize_observations=False")
        count = math.prod(np.shape(observations)) // self.observation_size
        if count == 0:
            return
        if _device.is_on_device(observations):
            rows = observations.detach().reshape(-1, self.observation_size).double()
            moments = rows.mean(0), rows.var(0, correction=0)
        else:
            array = np.asarray(observations, dtype=np.float64).reshape(-1, self.observation_size)
            moments = torch.from_numpy(array.mean(0)), torch.from_numpy(array.var(0))
        mean, variance = (moment.to(self.observation_mean.device) for moment in moments)
        before = self.observation_count
        total = before + count
        difference = mean - self.observation_mean
        squares = self.observation_variance * before + variance * count
        squares += difference**2 * (before * count / total)
        self.observation_mean += difference * (count / total)
        self.observation_variance.copy_(squares / total)
        self.observation_count.copy_(total)

    def native(self) -> NativePolicy:
        """The kernels' view of this network.

        Raises
        ------
        TypeError
            If the kernels cannot express it: what is missing is named.
        """
        return self._view(NativePolicy)

    def flat_parameters(self) -> FlatParameters:
        """The parameters as one vector, on any device.

        Raises
        ------
        TypeError
            If they have several types or devices, or some are frozen.
        """
        return self._view(FlatParameters)

    def parts(self) -> list[Any]:
        """All modules within, and their parameters."""
        parts: list[Any] = []
        list_parts(self, parts)
        return parts

    def recording_key(self) -> tuple[Any, ...]:
        """What changes where a recording of this network's work, which keeps its `parts`, is none of it any more."""
        tensors = [*self.parameters(), *self.buffers()]
        return (
            tuple(map(id, self.parts())),
            tuple((tensor.data_ptr(), tensor.dtype, tensor.shape) for tensor in tensors),
            self.training,
        )

    def _view(self, kind: type[View]) -> View:
        view = self._cached_view
        if type(view) is not kind or not view.is_current(self):
            view = self._cached_view = kind(self)
        return view

    @staticmethod
    def draw_key(generator: torch.Generator | None = None) -> int:
        """A key of actions' randomness, from torch's global generator where `generator` is None."""
        device = None if generator is None else generator.device
        return int(torch.randint(2**63 - 1, (), generator=generator, device=device))

    def native_statistics(self) -> tuple[np.ndarray, np.ndarray, float] | None:
        """What the kernels normalise observations with; None without."""
        if not self.normalizes:
            return None
        mean, scale = self._statistics()
        return mean.numpy(), scale.numpy(), _LIMIT

    def __getstate__(self) -> dict[str, Any]:
        # A copy's parameters are elsewhere; the kernels' view of them is made anew.
        return {**self.__dict__, "_cached_view": None}
