"""What a multi-task network's inputs and answers mean, kept in its run directory, and its answers for new rows."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from metafast.data.tasks import Task, TaskTable
from metafast.trainers import UsageError
from metafast.trainers._likelihoods import Likelihood
from metafast.trainers._task_network import MultiTaskModel

UNITS = "units.json"


def describe_units(table: TaskTable) -> dict[str, Any]:
    """What a network's inputs and answers mean: the tasks, and how the features were standardised."""
    width = table.features.shape[1]
    return {
        "tasks": [dataclasses.asdict(task) | {"class_names": list(task.class_names)} for task in table.tasks],
        "feature_offset": np.broadcast_to(table.feature_offset, width).tolist(),
        "feature_scale": np.broadcast_to(table.feature_scale, width).tolist(),
    }


def read_units(run_dir: str | Path) -> dict[str, Any]:
    """What `describe_units` gave when the run began."""
    path = Path(run_dir) / UNITS
    try:
        units: dict[str, Any] = json.loads(path.read_text())
        [Task(**task) for task in units["tasks"]]
        return units
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error!r}") from error


def check_units(run_dir: str | Path, table: TaskTable) -> None:
    """Refuse data that is no longer what the run began with: other rows would be trained on and judged by."""
    if read_units(run_dir) != describe_units(table):
        raise UsageError(f"the data is no longer what {run_dir} was trained on")


class Predictor(NamedTuple):
    """A trained network for new rows, in the units of the data it was trained on."""

    tasks: list[Task]
    model: MultiTaskModel
    likelihoods: list[Likelihood]
    feature_offset: np.ndarray
    feature_scale: np.ndarray

    @torch.no_grad()
    def predict(self, features: Any) -> dict[str, np.ndarray]:
        """What each task's label is expected to be, for features [rows, columns] in the order of the training data.

        By task: the probability of 1 (binary) [rows], those of all classes [rows, num_classes], in the order of the
        task's `class_names`, or a number [rows].
        """
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.feature_scale):
            raise ValueError(f"features must be [rows, {len(self.feature_scale)}], not of shape {features.shape}")
        standardised = ((features - self.feature_offset) / self.feature_scale).astype(np.float32)
        outputs, _ = self.model(torch.from_numpy(standardised))
        return {
            task.name: likelihood.predict(of_task).numpy() * task.scale + task.offset
            for task, likelihood, of_task in zip(self.tasks, self.likelihoods, outputs, strict=True)
        }
