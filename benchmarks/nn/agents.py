"""The actor-critics that the benchmarks of networks run: plain torch modules, and ours over the same parameters."""

import math

import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

import metafast

__all__ = ["Agent", "own_policy"]

OBSERVATIONS, ACTIONS = 4, 2


class Agent(nn.Module):
    """4-64-64-(2, 1), or 4-GRU-(2, 1), as one writes it in torch."""

    def __init__(self, gru_size=None, activation=nn.Tanh):
        super().__init__()
        width = gru_size or 64
        layers = (nn.Linear(OBSERVATIONS, 64), activation(), nn.Linear(64, 64), activation())
        self.trunk = nn.Identity() if gru_size else nn.Sequential(*layers)
        self.gru = nn.GRU(OBSERVATIONS, gru_size) if gru_size else None
        self.policy, self.value = nn.Linear(width, ACTIONS), nn.Linear(width, 1)

    def heads(self, features):
        return self.policy(features), self.value(features).squeeze(-1)

    def forward(self, observations):
        """Of rows [..., 4] or, with a GRU, of sequences [T, N, 4] that begin with zeros and know no resets."""
        return self.heads(self.trunk(observations) if self.gru is None else self.gru(observations)[0])

    def make_cell(self):
        """The GRU as a cell that shares its parameters."""
        cell = nn.GRUCell(OBSERVATIONS, self.gru.hidden_size)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(cell, name, getattr(self.gru, f"{name}_l0"))
        return cell


def own_policy(agent):
    """metafast's actor-critic over the modules, so the parameters, of an agent."""
    high = torch.full((OBSERVATIONS,), math.inf).numpy()
    return metafast.nn.ActorCritic.from_modules(
        Box(-high, high), Discrete(ACTIONS), trunk=agent.trunk, gru=agent.gru, policy=agent.policy, value=agent.value
    )
