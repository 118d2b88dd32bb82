"""Experience of a policy: one rollout, and the last few of them, kept to be learnt from again."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Rollout(NamedTuple):
    """Experience of N environments, time-major [T, N, ...].

    `observations` has T + 1 rows: the last is what was observed after the last step. `log_probs` are those of the
    policy that acted. `final_observations` are what cut episodes ended in, read only where `truncated`. `kept` marks
    the steps to learn from.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observations: Tensor
    kept: Tensor

    def select(self, envs: Tensor | slice) -> "Rollout":
        """The experience of some environments."""
        return Rollout(*(column[:, envs] for column in self))

    def beside(self, other: "Rollout") -> "Rollout":
        """The experience of both: their environments side by side."""
        return Rollout(*(torch.cat(pair, 1) for pair in zip(self, other, strict=True)))


class Replay:
    """The last `capacity` rollouts of equal size, in a ring: one tensor per column, the rollouts side by side."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.added = 0
        self._ring: Rollout | None = None

    def add(self, rollout: Rollout) -> None:
        """Keep a rollout, in place of the oldest where there is no more room."""
        num_envs = rollout.rewards.shape[1]
        if self._ring is None:
            widths = [(len(column), self.capacity * num_envs, *column.shape[2:]) for column in rollout]
            self._ring = Rollout(*(column.new_zeros(width) for column, width in zip(rollout, widths, strict=True)))
        start = self.added % self.capacity * num_envs
        for kept, column in zip(self._ring, rollout, strict=True):
            kept[:, start : start + num_envs] = column
        self.added += 1

    def mix(self, fresh: Rollout, ratio: float, generator: torch.Generator) -> Rollout:
        """The fresh rollout, and beside it `ratio` times as many environments' segments, drawn from the kept ones."""
        if self._ring is None:
            return fresh
        num_envs = fresh.rewards.shape[1]
        filled = min(self.added, self.capacity) * num_envs
        drawn = torch.randperm(filled, generator=generator)[: round(ratio * num_envs)]
        return fresh.beside(self._ring.select(drawn))

    def get_state(self) -> dict[str, np.ndarray]:
        """The kept rollouts, and how many there have been."""
        state = {"added": np.array(self.added)}
        if self._ring is not None:
            filled = self._ring.rewards.shape[1] // self.capacity * min(self.added, self.capacity)
            state |= {name: column[:, :filled].numpy() for name, column in self._ring._asdict().items()}
        return state

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `get_state` gave."""
        added = int(state["added"])
        if added:
            kept = Rollout(*(torch.from_numpy(state[name]) for name in Rollout._fields))
            num_envs = kept.rewards.shape[1] // min(added, self.capacity)
            self.added, self._ring = 0, None
            for start in range(0, kept.rewards.shape[1], num_envs):
                self.add(kept.select(slice(start, start + num_envs)))
        self.added = added
