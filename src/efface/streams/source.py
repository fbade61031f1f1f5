"""The common shape of files read and written in chunks: what a source, a chunk and a sink offer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._text import visible
from efface._validate import did_you_mean
from efface.core.doors import check_call

_SHOWN = 5

Index = int | NDArray[np.int64]
"""Numbers of rows in the whole file: of the first, where they follow each other, or `(n,)` of each."""


@dataclass(frozen=True)
class Column:
    """One column of a file.

    Attributes:
        name: Its name in the header; columns of arrays are called `"0"`, `"1"`, ...
        kind: `"number"`, `"list"` (each row holds a list of numbers) or `"other"` (text, dates, ...).
        type: The type as the file says it, for messages.
        is_index: Whether it holds the rows' names, as pandas writes them, and so is no feature unless asked for.
    """

    name: str
    kind: Literal["number", "list", "other"]
    type: str
    is_index: bool = False


class Chunk(Protocol):
    """Consecutive rows of a file."""

    @property
    def first_row(self) -> int:
        """Index of the first row in the whole file, from 0."""
        ...

    @property
    def index(self) -> Index:
        """Numbers of the rows in the whole file, also where some were left out."""
        ...

    def __len__(self) -> int: ...

    def numbers(self, columns: Sequence[str], *, gaps: bool = False) -> Tensor:
        """The columns side by side as floating point or complex rows `(n, d)`; with `gaps`, NaN for what is missing."""
        ...

    def gaps(self, numbers: Sequence[str], labels: Sequence[str] = ()) -> NDArray[np.bool_]:
        """Which rows miss a value in one of these columns, `(n,)`."""
        ...

    def keep(self, rows: NDArray[np.bool_]) -> Chunk:
        """These rows alone."""
        ...

    def labels(self, column: str) -> Any:
        """One column as a numpy array `(n,)` of strings, integers, booleans or floats."""
        ...

    def replace(self, columns: Sequence[str], x: Tensor) -> Chunk:
        """The same rows with new numbers `(n, d)` in these columns."""
        ...


class Source(Protocol):
    """A file that is read in chunks."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def where(self) -> str:
        """What the user typed, for messages; it may name an array inside the file."""
        ...

    @property
    def rows(self) -> int | None:
        """How many rows there are, or None if only reading to the end would tell."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in order."""
        ...

    @property
    def shape(self) -> tuple[int, ...] | None:
        """`(n, d)`, or `(n,)` for a one-dimensional array; None for tables."""
        ...

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time; only the last chunk may be shorter."""
        ...

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> Source:
        """The same file with these columns read as numbers and labels; the others only if `rest`."""
        ...


class Sink(Protocol):
    """A file that is written chunk by chunk."""

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        ...


def row_of(index: Index, row: int) -> int:
    """The number in the whole file of one of some rows.

    >>> row_of(10, 2), row_of(np.array([4, 7]), 1)
    (12, 7)
    """
    return index + row if isinstance(index, int) else int(index[row])


def kept_index(index: Index, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers of those rows alone that are kept.

    >>> kept_index(10, np.array([False, True])), kept_index(np.array([4, 7]), np.array([False, True]))
    (array([11]), array([7]))
    """
    return np.flatnonzero(rows) + index if isinstance(index, int) else index[rows]


def column_names(source: Source) -> tuple[str, ...]:
    """Names of all columns of a source, in order."""
    _check_source(source)
    return tuple(column.name for column in source.columns)


def files_of(source: Source) -> tuple[Path, ...]:
    """The files that a source reads.

    Raises:
        InputError: If it is no source.
    """
    _check_source(source)
    return getattr(source, "files", None) or (source.path,)


def _check_source(source: Any) -> None:
    if not isinstance(getattr(source, "columns", None), tuple):
        raise InputError(f"a {type(source).__name__} is no source: open one with open_source(path)")


def check_columns(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Refuse names of columns that are not there, listing those that are.

    >>> check_columns(["c"], ["a", "b"], "X.csv")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: X.csv has no column 'c': it has a, b
    """
    there = set(known)
    missing = [name for name in wanted if name not in there]
    if missing:
        named = shortened([repr(name) for name in missing]) + did_you_mean(missing[0], known)
        raise InputError(f"{where} has no column {named}: it has {shortened(known, count=20)}")


def check_rows(rows: int | None, where: str) -> None:
    """Refuse a file without rows."""
    if rows == 0:
        raise InputError(f"{where} has no rows: expected at least one")


def check_unique(names: Sequence[str], where: str) -> None:
    """Refuse a table in which two columns have the same name."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"{where} has several columns called {shortened(twice)}: rename them")


def shortened(items: Sequence[str | float | bool], *, count: int = _SHOWN) -> str:
    """The first items, comma separated, and how many more there are.

    >>> shortened(range(7), count=3)
    '0, 1, 2 and 4 more'
    """
    check_call(shortened, locals())
    shown = visible(", ".join(str(item) for item in items[:count]))
    return shown if len(items) <= count else f"{shown} and {len(items) - count} more"
