"""The trainer's networks: an actor-critic for an environment, by the name of a preset."""

from typing import Literal

import torch
from gymnasium.vector import VectorEnv
from torch import nn

from metafast.nn import ActorCritic
from metafast.trainers import UsageError

Preset = Literal["default", "keras", "torch"]
PolicyName = Literal["auto", "categorical", "bernoulli", "gaussian"]


def make_policy(
    env: VectorEnv,
    preset: Preset = "default",
    *,
    policy: PolicyName = "auto",
    hidden_sizes: tuple[int, ...] = (64, 64),
    gru_size: int = 0,
    normalize_observations: bool = False,
) -> ActorCritic:
    """Make a network for an environment's spaces.

    Presets: "default" is a shared tanh trunk of `hidden_sizes`, and behind it a GRU where `gru_size` is not 0; "keras"
    a 64-unit relu policy and a separate 32-unit relu value network; "torch" a shared 128-128 relu trunk, where a
    Gaussian's mean goes through tanh and its sigma through softplus.
    """
    spaces = env.single_observation_space, env.single_action_space
    common = {"policy": policy, "normalize_observations": normalize_observations}
    try:
        if preset == "keras":
            network = ActorCritic(*spaces, hidden_sizes=(64,), value_hidden_sizes=(32,), activation="relu", **common)  # type: ignore[arg-type]
        elif preset == "torch":
            network = ActorCritic(*spaces, hidden_sizes=(128, 128), activation="relu", squash=True, **common)  # type: ignore[arg-type]
        else:
            return ActorCritic(*spaces, hidden_sizes=hidden_sizes, gru_size=gru_size or None, **common)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(str(error)) from error
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            _initialise(layer, preset)
    return network


def _initialise(layer: nn.Linear, preset: Preset) -> None:
    """As the library that the preset is named after does."""
    if preset == "torch":
        layer.reset_parameters()
        return
    nn.init.xavier_uniform_(layer.weight)
    with torch.no_grad():
        layer.bias.zero_()
