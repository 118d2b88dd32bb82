"""The last few rollouts, kept to be learnt from again."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from metafast.envs import Rollout


def _select(rollout: Rollout, envs: Tensor | slice) -> Rollout:
    """The experience of some environments."""
    return rollout.map(lambda column: column[:, envs])


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
            self._ring = rollout.map(
                lambda column: column.new_zeros((len(column), self.capacity * num_envs, *column.shape[2:]))
            )
        start = self.added % self.capacity * num_envs

        def keep(kept: Tensor, column: Tensor) -> None:
            kept[:, start : start + num_envs] = column

        self._ring.map(keep, rollout)
        self.added += 1

    def mix(self, fresh: Rollout, ratio: float, generator: torch.Generator) -> Rollout:
        """The fresh rollout, and beside it `ratio` times as many environments' segments, drawn from the kept ones."""
        if self._ring is None:
            return fresh
        num_envs = fresh.rewards.shape[1]
        filled = min(self.added, self.capacity) * num_envs
        drawn = torch.randperm(filled, generator=generator)[: round(ratio * num_envs)]
        return fresh.map(lambda *pair: torch.cat(pair, 1), _select(self._ring, drawn))

    def get_state(self) -> dict[str, np.ndarray]:
        """The kept rollouts, and how many there have been."""
        state = {"added": np.array(self.added)}
        if self._ring is not None:
            filled = self._ring.rewards.shape[1] // self.capacity * min(self.added, self.capacity)
            kept = _select(self._ring, slice(filled)).numpy()
            columns = {field.name: getattr(kept, field.name) for field in dataclasses.fields(kept)}
            state |= {name: column for name, column in columns.items() if column is not None}
        return state

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `get_state` gave."""
        added = int(state["added"])
        if added:
            kept = Rollout(**{name: column for name, column in state.items() if name != "added"}).torch()
            num_envs = kept.rewards.shape[1] // min(added, self.capacity)
            self.added, self._ring = 0, None
            for start in range(0, kept.rewards.shape[1], num_envs):
                self.add(_select(kept, slice(start, start + num_envs)))
        self.added = added
