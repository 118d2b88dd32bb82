"""How tasks relate, as pictures: learning curves side by side, gradient cosines over training, attention between tasks.

A negative cosine says that a step for one task undoes some of the other's (Yu et al. 2020); a positive one, that each
step helps both.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metafast.data.tasks import Task

# Curves side by side; an image of more than 2**16 points across cannot be drawn.
PER_ROW = 8
# More names of lines, or numbers across a matrix, would cover what is drawn.
MOST_WRITTEN = 15


def draw_curves(
    path: Path, tasks: Sequence[Task], epochs: np.ndarray, together: np.ndarray, alone: np.ndarray | None,
    turn_ends: Sequence[float],
) -> None:  # fmt: skip
    """Every task's validation figure [epochs, tasks] by epoch, of the shared network and of each task's own."""
    rows, columns = math.ceil(len(tasks) / PER_ROW), min(len(tasks), PER_ROW)
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    for number, task in enumerate(tasks):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.plot(epochs, together[:, number], label="multi-task")
        if alone is not None:
            axes.plot(epochs, alone[:, number], label="single-task", linestyle="--")
        for end in turn_ends:
            axes.axvline(end, color="grey", linewidth=1, linestyle=":")
        if task.metric == "rmse" and (together[:, number] > 0).any():
            axes.set_yscale("log")
        axes.set(xlabel="epoch", title=f"{_literal(task.name)}: {task.metric} on validation rows")
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def draw_relations(
    path: Path, names: Sequence[str], epochs: np.ndarray, cosines: np.ndarray, attention: np.ndarray | None
) -> None:
    """The matrix of gradient cosines, its entries over the epochs, and the attention between tasks where there is any.

    `cosines` are [epochs, tasks, tasks], and `attention` [tasks, tasks] says how much each row's task looks at the
    column's, NaN at itself.
    """
    names = [_literal(name) for name in names]
    figure = Figure(figsize=(14 if attention is not None else 9.5, 4.2), layout="constrained")
    first, second, *third = figure.subplots(1, 3 if attention is not None else 2)
    _draw_matrix(figure, first, names, cosines.mean(0), (-1.0, 1.0), "RdBu", "cosine of gradients, mean over training")
    for row in range(len(names)):
        for column in range(row + 1, len(names)):
            # A label that begins with an underscore would be left out.
            label = f"{names[row]}, {names[column]}"
            second.plot(epochs, cosines[:, row, column], label=f" {label}" if label.startswith("_") else label)
    second.axhline(0, color="grey", linewidth=1)
    second.set(xlabel="epoch", title="cosine of gradients")
    second.grid(alpha=0.3)
    if len(names) * (len(names) - 1) // 2 <= MOST_WRITTEN:
        second.legend()
    for axes in third:
        assert attention is not None
        _draw_matrix(figure, axes, names, attention, (0.0, 1.0), "Greens", "attention of each row's task on others")
    _save(figure, path)


def _literal(name: str) -> str:
    # What stands between two dollars would be read as a formula.
    return name.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # A name in letters that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(path, dpi=120)


def _draw_matrix(
    figure: Figure, axes: Any, names: Sequence[str], values: np.ndarray, limits: tuple[float, float], colours: str,
    title: str,
) -> None:  # fmt: skip
    image = axes.imshow(values, vmin=limits[0], vmax=limits[1], cmap=colours)
    axes.set_xticks(range(len(names)), names, rotation=30 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value) and len(names) <= MOST_WRITTEN:
            dark = abs(value) > 0.6 * max(map(abs, limits))
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, shrink=0.8)
