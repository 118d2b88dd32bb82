"""Several tasks on the same rows: a short list of tasks, one table of features and labels, splits that are held apart.

A label may be missing: it is NaN. Nothing is standardised by rows that it is judged on.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Kind = Literal["binary", "bounded", "classes", "real"]
KINDS = get_args(Kind)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Task:
    """One task: its name, and what its labels are.

    Attributes
    ----------
    name
        As in tables, curves and results.
    kind
        "binary" (0 or 1), "bounded" (a number from 0 to 1), "classes" (integers from 0) or "real".
    num_classes
        Of a task of classes; 0 for the others.
    offset, scale
        What a label of 0 is in the data, and the labels' unit: real labels are standardised by the training rows.
    class_names
        What each class is called in the data, by its number; empty where nothing is known of that.
    """

    name: str
    kind: Kind
    num_classes: int = 0
    offset: float = 0.0
    scale: float = 1.0
    class_names: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """What the task is judged by, on rows it was not trained on."""
        return "accuracy" if self.kind in ("binary", "classes") else "rmse"


@dataclass(frozen=True)
class TaskTable:
    """Rows with features and with labels for every task.

    Attributes
    ----------
    features
        [rows, columns], float32.
    labels
        [rows, tasks], float32, NaN where there is no label.
    tasks
        In the order of the labels' columns.
    feature_offset, feature_scale
        [columns]; what was taken from the features and what they were then divided by.
    """

    features: np.ndarray
    labels: np.ndarray
    tasks: tuple[Task, ...]
    feature_offset: np.ndarray | float = 0.0
    feature_scale: np.ndarray | float = 1.0

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if self.features.ndim != 2 or self.labels.shape != (len(self.features), len(names)):
            raise ValueError(
                f"features [rows, columns] and labels [rows, {len(names)} tasks] are needed; they have shapes "
                f"{self.features.shape} and {self.labels.shape}"
            )
        if 0 in self.features.shape or not names:
            raise ValueError(
                f"there must be rows, features and tasks; shapes are {self.features.shape} and {self.labels.shape}"
            )
        if len(set(names)) != len(names) or "" in names:
            raise ValueError(f"tasks need names of their own; they are {names}")
        if not np.isfinite(self.features).all():
            raise ValueError(f"features must be finite; column {_first_bad_column(self.features)} is not")
        for task, column in zip(self.tasks, self.labels.T, strict=True):
            _check_labels(task, column[~np.isnan(column)])

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> "TaskTable":
        """Some of the rows."""
        return dataclasses.replace(self, features=self.features[rows], labels=self.labels[rows])

    def select(self, names: Sequence[str]) -> "TaskTable":
        """Some of the tasks, in the order named."""
        by_name = {task.name: number for number, task in enumerate(self.tasks)}
        if unknown := [name for name in names if name not in by_name]:
            raise ValueError(f"there is no task {unknown[0]!r}; there is {', '.join(by_name)}")
        columns = [by_name[name] for name in names]
        return dataclasses.replace(
            self, labels=self.labels[:, columns], tasks=tuple(self.tasks[column] for column in columns)
        )


def _first_bad_column(features: np.ndarray) -> int:
    return int((~np.isfinite(features)).any(0).argmax())


def _check_labels(task: Task, labels: np.ndarray) -> None:
    if task.kind not in KINDS:
        raise ValueError(f"task {task.name!r}: kind must be one of {', '.join(KINDS)}, not {task.kind!r}")
    if len(labels) == 0:
        raise ValueError(f"task {task.name!r} has no labels")
    low, high = float(labels.min()), float(labels.max())
    whole = bool((labels == np.floor(labels)).all())
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"task {task.name!r}: labels must be finite, or NaN where missing")
    if task.kind == "binary" and not (whole and low >= 0 and high <= 1):
        raise ValueError(f"task {task.name!r} is binary, but its labels are not all 0 or 1 (from {low:g} to {high:g})")
    if task.kind == "bounded" and not 0 <= low <= high <= 1:
        raise ValueError(f"task {task.name!r} is bounded, but its labels go from {low:g} to {high:g}, not from 0 to 1")
    if task.kind == "classes":
        if task.num_classes < 2:
            raise ValueError(f"task {task.name!r} needs num_classes of at least 2, not {task.num_classes}")
        if not (whole and low >= 0 and high < task.num_classes):
            raise ValueError(
                f"task {task.name!r} has {task.num_classes} classes, but its labels are not integers from 0 to "
                f"{task.num_classes - 1} (they go from {low:g} to {high:g})"
            )


def split(
    table: TaskTable, *, test_fraction: float = 0.25, validation_fraction: float = 0.15, split_seed: int = 0
) -> dict[str, TaskTable]:
    """Deal the rows out to "train", "validation" and "test", and standardise all three by the training rows.

    Parameters
    ----------
    table
        At least three rows.
    test_fraction, validation_fraction
        Shares of all rows.
    split_seed
        Decides which rows; nothing else does, so that every run of a data set is judged on the same rows.

    Returns
    -------
    dict of TaskTable
        Features with mean 0 and deviation 1 over the training rows (a constant one is 0), real labels likewise.
        Rows are stratified by the first task of classes, or else the first binary one, where its labels allow it.

    Examples
    --------
    >>> from metafast.data import digit_tasks
    >>> splits = split(digit_tasks.load())
    >>> {name: len(part) for name, part in splits.items()}
    {'train': 1077, 'validation': 270, 'test': 450}
    """
    from sklearn.model_selection import train_test_split

    if not (min(test_fraction, validation_fraction) > 0 and test_fraction + validation_fraction < 1):
        raise ValueError(
            f"test_fraction and validation_fraction must be above 0 and together below 1, not {test_fraction} and "
            f"{validation_fraction}"
        )
    counts = {"test": math.ceil(test_fraction * len(table)), "validation": math.ceil(validation_fraction * len(table))}
    if len(table) - sum(counts.values()) < 1:
        raise ValueError(f"{len(table)} rows are too few to split")
    strata, rest, rows = _strata(table), np.arange(len(table)), {}
    for name, count in counts.items():
        groups = None if strata is None else strata[rest]
        if groups is not None:
            sizes = np.bincount(groups)
            # Each group needs two rows, and a part at least one row for each group.
            if sizes.min() < 2 or min(count, len(rest) - count) < len(sizes):
                groups = None
        rest, rows[name] = train_test_split(rest, test_size=count, random_state=split_seed, stratify=groups)
    rows["train"] = rest
    for name in SPLITS:
        for task, column in zip(table.tasks, table.labels[rows[name]].T, strict=True):
            if np.isnan(column).all():
                raise ValueError(f"task {task.name!r} has no label among the {len(column)} {name} rows")
    fitted = table.take(rest)
    mean, deviation = fitted.features.mean(0, dtype=np.float64), fitted.features.std(0, dtype=np.float64)
    deviation[fitted.features.min(0) == fitted.features.max(0)] = 1.0
    tasks, offsets = list(table.tasks), np.zeros(len(table.tasks))
    for number, task in enumerate(table.tasks):
        known = fitted.labels[:, number][~np.isnan(fitted.labels[:, number])].astype(np.float64)
        if task.kind == "real":
            offsets[number] = known.mean()
            unit = float(known.std()) if known.min() < known.max() else 1.0
            tasks[number] = dataclasses.replace(
                task, offset=task.offset + task.scale * float(known.mean()), scale=task.scale * unit
            )
    scales = [new.scale / old.scale for new, old in zip(tasks, table.tasks, strict=True)]
    return {
        name: TaskTable(
            ((table.features[rows[name]] - mean) / deviation).astype(np.float32),
            ((table.labels[rows[name]] - offsets) / scales).astype(np.float32),
            tuple(tasks),
            table.feature_offset + table.feature_scale * mean,
            table.feature_scale * deviation,
        )
        for name in SPLITS
    }


def _strata(table: TaskTable) -> np.ndarray | None:
    for kind in ("classes", "binary"):
        for task, column in zip(table.tasks, table.labels.T, strict=True):
            if task.kind == kind and not np.isnan(column).any():
                _, groups = np.unique(column, return_inverse=True)
                return groups
    return None


def drop_labels(table: TaskTable, kept: Mapping[str, float], *, seed: int) -> TaskTable:
    """Take away labels at random, keeping of each task named the given share of those it has, and at least one.

    Examples
    --------
    >>> from metafast.data import digit_tasks
    >>> scarce = drop_labels(digit_tasks.load(), {"C": 0.1}, seed=0)
    >>> (~np.isnan(scarce.labels)).sum(0).tolist()
    [1797, 1797, 180]
    """
    names = [task.name for task in table.tasks]
    labels = table.labels.copy()
    for name, share in kept.items():
        if name not in names:
            raise ValueError(f"there is no task {name!r} whose labels could be dropped; there is {', '.join(names)}")
        if not 0 < share <= 1:
            raise ValueError(f"the share of {name!r}'s labels to keep must be above 0 and at most 1, not {share}")
        number = names.index(name)
        known = np.flatnonzero(~np.isnan(labels[:, number]))
        shuffled = np.random.default_rng([seed, number]).permutation(known)
        labels[shuffled[max(1, round(share * len(known))) :], number] = np.nan
    return dataclasses.replace(table, labels=labels)
