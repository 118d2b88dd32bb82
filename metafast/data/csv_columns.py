"""A table by columns, and how one is read from a CSV file: numbers, texts and missing cells."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

# What stands for a missing cell, in any case.
MISSING = ("", "na", "n/a", "nan", "null", "none")
SEPARATORS = ",;\t"


class Columns(NamedTuple):
    """A table by columns.

    Attributes
    ----------
    names
        Of the columns, each once.
    values
        [rows, columns], NaN where a cell is missing; in a column of texts, the texts' numbers.
    texts
        Of each column with a cell that is no number: its distinct texts, sorted, which are numbered from 0.
    lines
        Of each row: its line in the file it was read from, the first line being 1; empty where there is no file.
    """

    names: tuple[str, ...]
    values: np.ndarray
    texts: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    lines: tuple[int, ...] = ()

    def place(self, row: int) -> str:
        """Where a row is, in words.

        Examples
        --------
        >>> columns = Columns(("width",), np.zeros((2, 1)), lines=(2, 4))
        >>> columns.place(1), columns._replace(lines=()).place(1)
        ('line 4', 'row 2')
        """
        return f"line {self.lines[row]}" if self.lines else f"row {row + 1}"


def parse_number(cell: str) -> float | None:
    """The number a cell holds, NaN where it is missing, None where it is text.

    Examples
    --------
    >>> [parse_number(cell) for cell in ("1.5", " -2e3 ", "n/a", "red", "12_3")]
    [1.5, -2000.0, nan, None, None]
    """
    if cell.strip().lower() in MISSING:
        return np.nan
    try:
        # Python would take the identifier 12_3 for the number 123.
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def read_csv(path: str | Path) -> Columns:
    """A file with the columns' names in its first line, separated by commas, semicolons or tabs as that line is.

    Cells that are empty, or NA, N/A, nan, null or None in any case, are missing. A column with any other cell that is
    no number holds texts.

    Raises
    ------
    OSError
        Where the file is not there or cannot be opened.
    ValueError
        Where it is no text, there are no names, or a line is too long or too short.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "houses.csv")
    ...     _ = path.write_text("price;town\\n200;Rome\\nNA;Bern\\n")
    ...     columns = read_csv(path)
    >>> columns.names, columns.texts
    (('price', 'town'), {'town': ('Bern', 'Rome')})
    >>> columns.values.tolist(), columns.lines
    ([[200.0, 1.0], [nan, 0.0]], (2, 3))
    """
    names, rows, lines = _read_rows(path)
    if len(set(names)) != len(names) or "" in names:
        raise ValueError(f"{path}: every column needs a name of its own; they are {', '.join(map(repr, names))}")
    for cells, line in zip(rows, lines, strict=True):
        if len(cells) != len(names):
            raise ValueError(f"{path}: line {line} has {len(cells)} cells, but there are {len(names)} columns")
    values, texts = np.empty((len(rows), len(names))), {}
    for number, name in enumerate(names):
        cells = [row[number] for row in rows]
        numbers = [parse_number(cell) for cell in cells]
        if None in numbers:
            # Also those that look like numbers: in a column of texts they are names.
            texts[name] = tuple(sorted({cell for cell in cells if cell.lower() not in MISSING}))
            by_text: dict[str, float] = {text: code for code, text in enumerate(texts[name])}
            numbers = [by_text.get(cell, np.nan) for cell in cells]
        values[:, number] = numbers
    return Columns(names, values, texts, tuple(lines))


def _read_rows(path: str | Path) -> tuple[tuple[str, ...], list[list[str]], list[int]]:
    """Names, and each other row's cells and line, by lines as an editor counts them."""
    text = _read_text(path)
    header = next((line for line in io.StringIO(text, newline="") if line.strip("\r\n")), "")
    # A separator within quotes is part of a name.
    unquoted = re.sub(r'"[^"]*("|$)', "", header)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=unquoted.count))
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read, near line {max(1, reader.line_num)}: {error}") from None
    names = tuple(lines[0][1]) if lines else ()
    numbers = [parse_number(name) for name in names if name.lower() not in MISSING]
    if numbers and None not in numbers:
        raise ValueError(f"{path}: the first line must hold the columns' names, not numbers: {', '.join(names)}")
    if len(lines) < 2:
        raise ValueError(f"{path} needs a line of names and a line for each row")
    return names, [cells for _, cells in lines[1:]], [line for line, _ in lines[1:]]


def _read_text(path: str | Path) -> str:
    try:
        contents = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Of the error's own bytes, as a mark at the file's beginning is not counted.
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path} cannot be read, near line {line}: it is not in UTF-8 ({error.reason})") from None
