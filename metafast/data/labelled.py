"""Labelled data as a one-step environment: observe a row, name its label, receive 1 for the right one, done."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class LabelledDataVectorEnv(VectorEnv):
    """Classification as reinforcement learning; every step ends an episode and, in the same step, draws the next rows.

    Parameters
    ----------
    features
        Rows [rows, columns].
    labels
        Their classes, integers from 0.
    num_envs
        Rows shown at a time.
    shuffle
        Draw in a new random order each epoch; otherwise always in the order given.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - gymnasium's attribute

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_envs: int, *, shuffle: bool = True) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, not {num_envs}")
        if len(features) != len(labels) or len(labels) == 0:
            raise ValueError(f"features and labels need equal lengths above 0, not {len(features)} and {len(labels)}")
        self.features = np.ascontiguousarray(features, dtype=np.float32)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.num_envs = num_envs
        self.shuffle = shuffle
        columns = self.features.shape[1:]
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, columns, np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(int(self.labels.max()) + 1)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seed, self._drawn = 0, 0
        self._rows = np.zeros(num_envs, dtype=np.int64)

    def _draw(self) -> np.ndarray:
        # The order is a function of (seed, epoch), so two integers are the whole random state.
        total = len(self.labels)
        positions = np.arange(self._drawn, self._drawn + self.num_envs)
        self._drawn += self.num_envs
        rows = positions % total
        if self.shuffle:
            for epoch in range(int(positions[0]) // total, int(positions[-1]) // total + 1):
                here = positions // total == epoch
                rows[here] = np.random.default_rng([self._seed, epoch]).permutation(total)[rows[here]]
        self._rows = rows
        return self.features[rows]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw rows; an integer `seed` starts the first epoch again."""
        if isinstance(seed, list):
            raise ValueError("seed must be an integer: the environments draw from one shuffled order")
        if seed is not None:
            self._seed, self._drawn = int(seed), 0
        return self._draw(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Reward 1 where the action is the row's label; all episodes terminate and the next rows are shown."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions must have shape {(self.num_envs,)}, not {actions.shape}")
        rewards = (actions == self.labels[self._rows]).astype(np.float32)
        final = self.features[self._rows]
        terminated, truncated = np.ones(self.num_envs, dtype=bool), np.zeros(self.num_envs, dtype=bool)
        return self._draw(), rewards, terminated, truncated, {"final_obs": final, "_final_obs": terminated.copy()}

    def get_state(self) -> dict[str, np.ndarray]:
        """All that decides what comes next."""
        return {"seed": np.array(self._seed), "drawn": np.array(self._drawn), "rows": self._rows.copy()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `get_state` gave."""
        self._seed, self._drawn = int(state["seed"]), int(state["drawn"])
        self._rows = np.array(state["rows"], dtype=np.int64)
