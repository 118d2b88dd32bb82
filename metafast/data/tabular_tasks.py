"""Tables of which some columns are tasks: scikit-learn's wine, diabetes and breast cancer data, or a CSV file."""

import shlex
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from metafast.data.csv_columns import Columns, parse_number, read_csv
from metafast.data.tasks import KINDS, Kind, Task, TaskTable

__all__ = ["DATA_SETS", "Columns", "choose", "load", "read_columns", "read_csv"]

# Name of the target column, and the columns to tell from the rest, as "name:kind".
DATA_SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "wine": ("cultivar", ("cultivar:classes", "alcohol:real", "color_intensity:real")),
    "diabetes": ("progression", ("progression:real", "sex:binary", "s6:real")),
    "breast-cancer": (
        "benign", ("benign:binary", "worst concave points:bounded", "worst texture:real", "worst smoothness:bounded"),
    ),
}  # fmt: skip


def load(name: str, tasks: Sequence[str] = (), ignore: Sequence[str] = ()) -> TaskTable:
    """One of scikit-learn's tables; `tasks`, by default those of `DATA_SETS`, and `ignore` are as for `choose`.

    Examples
    --------
    >>> table = load("wine")
    >>> table.features.shape, [task.name for task in table.tasks], table.tasks[0].num_classes
    ((178, 11), ['cultivar', 'alcohol', 'color_intensity'], 3)
    >>> load("wine", ["cultivar:classes", "hue:real"], ignore=["ash"]).features.shape
    (178, 11)
    """
    return choose(read_columns(name), tasks or DATA_SETS[name][1], ignore)


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


def choose(columns: Columns, tasks: Sequence[str], ignore: Sequence[str] = ()) -> TaskTable:
    """Make tasks, each "column:kind", of some columns, and features of all others but those to ignore.

    Parameters
    ----------
    columns
        Texts are allowed where they are ignored, classes, or the two values of a binary task.
    tasks
        Distinct values are classes, in their order, whatever they are; a binary task has 0 and 1, or two texts.
    ignore
        Names of columns that are neither task nor feature.

    Raises
    ------
    ValueError
        Where a name or kind does not exist, labels are not of their kind or have one value only, a feature has a cell
        that is missing or no number, or there is no feature. What is wrong with tasks is said first.

    Examples
    --------
    >>> columns = Columns(("width", "town"), np.array([[7.0, 1], [8, 0]]), {"town": ("Bern", "Rome")})
    >>> table = choose(columns, ["town:classes"])
    >>> table.tasks[0].num_classes, table.tasks[0].class_names, table.labels.tolist()
    (2, ('Bern', 'Rome'), [[1.0], [0.0]])
    """
    parsed = [_parse_task(columns, text) for text in tasks]
    told = [name for name, _ in parsed]
    if not told:
        raise ValueError("there must be a task: COLUMN:KIND")
    if repeated := [name for name in told if told.count(name) > 1]:
        raise ValueError(f"column {repeated[0]!r} can be only one task, not {told.count(repeated[0])}")
    for name in ignore:
        if name not in columns.names:
            raise ValueError(f"there is no column {name!r} to ignore; {_list_names(columns)}")
        if name in told:
            raise ValueError(f"column {name!r} is to be ignored, so it cannot be a task")
    chosen = [_make_task(columns, name, kind) for name, kind in parsed]
    others = [name for name in columns.names if name not in (*told, *ignore)]
    if not others:
        raise ValueError("no column is left as a feature: each is a task or ignored")
    features = np.column_stack([_read_feature(columns, name) for name in others])
    return TaskTable(features, np.column_stack([labels for _, labels in chosen]), tuple(task for task, _ in chosen))


def _list_names(columns: Columns) -> str:
    return f"the columns are {', '.join(map(repr, columns.names))}"


def _parse_task(columns: Columns, text: str) -> tuple[str, Kind]:
    name, colon, kind = text.rpartition(":")
    if not colon:
        raise ValueError(f"a task is COLUMN:KIND with KIND one of {', '.join(KINDS)}, not {text!r}")
    if kind not in KINDS:
        raise ValueError(f"task {text!r}: there is no kind {kind!r}; KIND is one of {', '.join(KINDS)}")
    if name not in columns.names:
        raise ValueError(f"there is no column {name!r}; {_list_names(columns)}")
    return name, cast(Kind, kind)


def _make_task(columns: Columns, name: str, kind: Kind) -> tuple[Task, np.ndarray]:
    values, texts = columns.values[:, columns.names.index(name)], columns.texts.get(name, ())
    single = _to_single(values)
    known = np.unique(values[~np.isnan(values)])
    if len(known) == 0:
        raise ValueError(f"task {name!r} has no labels")
    _refuse(columns, values, np.isinf(single), f"task {name!r} is {kind}, but", "is infinite in single precision")
    if len(known if kind == "classes" else np.unique(single[~np.isnan(single)])) < 2:
        raise ValueError(f"column {name!r} has only one value, so there is nothing to learn")
    if kind == "classes":
        if len(known) > max(20, len(values) / 2):
            raise ValueError(
                f"column {name!r} has {len(known)} distinct values in {len(values)} rows: too many for classes"
            )
        # More digits than "g" has by itself, so that long numbers keep names of their own.
        names = tuple(texts[int(value)] if texts else f"{value:.15g}" for value in known)
        labels = np.where(np.isnan(values), np.nan, np.searchsorted(known, values))
        return Task(name, kind, len(known), class_names=names), _to_single(labels)
    as_classes = shlex.quote(f"{name}:classes")
    if texts and kind == "binary":
        if len(texts) != 2:
            raise ValueError(
                f"task {name!r} is binary, but its column holds {len(texts)} texts, as {_find_text(columns, name)}: "
                f"make it {as_classes}"
            )
        return Task(name, kind, class_names=texts), single
    if texts:
        raise ValueError(
            f"task {name!r} is {kind}, but its column holds text, as {_find_text(columns, name)}: make it "
            f"{as_classes}, or leave it out with {_ignore(name)}"
        )
    if kind == "binary":
        bad = (single != 0) & (single != 1)
        _refuse(columns, values, bad, f"task {name!r} is binary, but", f"is neither 0 nor 1: make it {as_classes}")
    if kind == "bounded":
        bad = (single < 0) | (single > 1)
        _refuse(columns, values, bad, f"task {name!r} is bounded, but", "does not lie between 0 and 1")
    return Task(name, kind), single


def _read_feature(columns: Columns, name: str) -> np.ndarray:
    values = columns.values[:, columns.names.index(name)]
    remedy = f"leave the column out with {_ignore(name)}"
    if name in columns.texts:
        raise ValueError(
            f"column {name!r} is a feature, but holds text, as {_find_text(columns, name)}: {remedy}, or make it a "
            f"task, {shlex.quote(name + ':classes')}"
        )
    if np.isnan(values).any():
        row = int(np.isnan(values).argmax())
        raise ValueError(
            f"column {name!r} is a feature, but its cell on {columns.place(row)} is missing: fill it in, or {remedy}"
        )
    single = _to_single(values)
    why = f"is infinite in single precision: {remedy}"
    _refuse(columns, values, np.isinf(single), f"column {name!r} is a feature, but", why)
    return single


def _to_single(values: np.ndarray) -> np.ndarray:
    """In single precision; what it cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _refuse(columns: Columns, values: np.ndarray, bad: np.ndarray, before: str, after: str) -> None:
    """Name the first of some bad cells; one that is missing is not among them."""
    bad = bad & ~np.isnan(values)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{before} {values[row]:g} on {columns.place(row)} {after}")


def _find_text(columns: Columns, name: str) -> str:
    """The first cell of a column that is no number, and its line."""
    for row, code in enumerate(columns.values[:, columns.names.index(name)]):
        if not np.isnan(code) and parse_number(text := columns.texts[name][int(code)]) is None:
            return f"{text!r} on {columns.place(row)}"
    raise AssertionError(f"column {name!r} holds no text")


def _ignore(name: str) -> str:
    return f"--ignore {shlex.quote(name)}"
