"""Tables of which some columns are tasks: scikit-learn's wine, diabetes and breast cancer data, or a CSV file."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from metafast.data.tasks import KINDS, Kind, Task, TaskTable

# Name of the target column, and the columns to tell from the rest, as "name:kind".
DATA_SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "wine": ("cultivar", ("cultivar:classes", "alcohol:real", "color_intensity:real")),
    "diabetes": ("progression", ("progression:real", "sex:binary", "s6:real")),
    "breast-cancer": (
        "benign", ("benign:binary", "worst concave points:bounded", "worst texture:real", "worst smoothness:bounded"),
    ),
}  # fmt: skip


class Columns(NamedTuple):
    """A table by columns: [rows, columns], NaN where a cell is empty."""

    names: tuple[str, ...]
    values: np.ndarray


def load(name: str, tasks: Sequence[str] = ()) -> TaskTable:
    """One of scikit-learn's tables; `tasks` are "column:kind", by default those of `DATA_SETS`.

    Examples
    --------
    >>> table = load("wine")
    >>> table.features.shape, [task.name for task in table.tasks], table.tasks[0].num_classes
    ((178, 11), ['cultivar', 'alcohol', 'color_intensity'], 3)
    >>> load("wine", ["cultivar:classes", "hue:real"]).features.shape
    (178, 12)
    """
    return choose(read_columns(name), tasks or DATA_SETS[name][1])


def read_columns(name: str) -> Columns:
    """A table of scikit-learn, its target the last column; sex in the diabetes data is 0 or 1."""
    from sklearn import datasets

    if name not in DATA_SETS:
        raise ValueError(f"there is no table {name!r}; there is {', '.join(DATA_SETS)}")
    options: dict[str, Any] = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name.replace('-', '_')}")(**options)
    names = (*bunch.feature_names, DATA_SETS[name][0])
    values = np.column_stack([bunch.data, bunch.target]).astype(np.float64)
    if name == "diabetes":
        values[:, names.index("sex")] -= 1
    return Columns(names, values)


def read_csv(path: str | Path) -> Columns:
    """A file of numbers, separated by commas, with the columns' names in its first line and empty cells for missing.

    Raises
    ------
    ValueError
        Where a line is too long or too short, or a cell is no number; the message names the line and the column.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            lines = [line for line in reader if line]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read, near line {max(1, reader.line_num)}: {error}") from None
    if len(lines) < 2:
        raise ValueError(f"{path} needs a line of names and lines of numbers")
    names = tuple(cell.strip() for cell in lines[0])
    if len(set(names)) != len(names) or "" in names:
        raise ValueError(f"{path}: every column needs a name of its own; they are {', '.join(names)}")
    values = np.full((len(lines) - 1, len(names)), np.nan)
    for row, cells in enumerate(lines[1:]):
        if len(cells) != len(names):
            raise ValueError(f"{path}: row {row + 1} has {len(cells)} cells, but there are {len(names)} columns")
        for column, cell in enumerate(cells):
            try:
                values[row, column] = float(cell) if cell.strip() else np.nan
            except ValueError:
                raise ValueError(f"{path}: row {row + 1}, column {names[column]!r}: {cell!r} is no number") from None
    return Columns(names, values)


def choose(columns: Columns, tasks: Sequence[str]) -> TaskTable:
    """Make tasks, each "column:kind", of some columns, and features of all others.

    Raises
    ------
    ValueError
        Where a task names no column or no kind, its labels are not of its kind, or a feature has an empty cell.
    """
    chosen = []
    with np.errstate(over="ignore"):
        # What single precision cannot hold becomes infinite, and is refused as such.
        values = columns.values.astype(np.float32)
    for text in tasks:
        name, _, kind = text.rpartition(":")
        if name not in columns.names or kind not in KINDS:
            raise ValueError(
                f"a task is COLUMN:KIND with KIND one of {', '.join(KINDS)}, not {text!r}; the columns are "
                f"{', '.join(columns.names)}"
            )
        labels = values[:, columns.names.index(name)]
        num_classes = int(np.max(labels, initial=0, where=np.isfinite(labels))) + 1 if kind == "classes" else 0
        if num_classes > max(100, len(labels)):
            # As of a column of identifiers: a head with an output for each would not fit into memory.
            raise ValueError(
                f"column {name!r} has labels up to {num_classes - 1}, but there are only {len(labels)} rows: number "
                "the classes from 0"
            )
        chosen.append(Task(name, cast(Kind, kind), num_classes))
    told = [columns.names.index(task.name) for task in chosen]
    others = [number for number in range(len(columns.names)) if number not in told]
    for number in others:
        if not np.isfinite(values[:, number]).all():
            raise ValueError(f"column {columns.names[number]!r} is a feature, but not every cell of it holds a number")
    return TaskTable(values[:, others], values[:, told], tuple(chosen))
