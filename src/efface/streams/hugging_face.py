"""Data sets of Hugging Face as sources: a `datasets.Dataset`, or one that is streamed.

Rows are taken as arrow, whatever format was set, so that they reach torch as those of a `.parquet` file do. Nothing is
downloaded that the data set does not itself download. The package is not imported here: whoever has a data set has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface.core.data_sets import check_dataset, class_names
from efface.streams.columns import arrow, column_of
from efface.streams.source import (
    Chunk,
    Column,
    Index,
    check_columns,
    check_rows,
    check_unique,
    column_names,
    row_of,
)
from efface.streams.table import TableChunk, rechunk

if TYPE_CHECKING:
    import pyarrow as pa

_PEEKED = 100


@dataclass(frozen=True)
class DatasetChunk:
    """Consecutive rows of a data set: those of a table, with labels by their names.

    Attributes:
        rows: As a table.
        classes: Column -> names of its classes, in the order of their numbers.
    """

    rows: TableChunk
    classes: Mapping[str, Sequence[str]]

    @property
    def first_row(self) -> int:
        """Index of the first row in the whole data set."""
        return self.rows.first_row

    @property
    def index(self) -> Index:
        """Numbers of the rows in the whole data set."""
        return self.rows.index

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """How much memory the rows take."""
        return self.rows.nbytes

    def numbers(self, columns: Sequence[str], *, gaps: bool = False) -> Tensor:
        """The columns side by side as floating point rows `(n, d)`, as those of a table."""
        return self.rows.numbers(columns, gaps=gaps)

    def gaps(self, numbers: Sequence[str], labels: Sequence[str] = ()) -> NDArray[np.bool_]:
        """Which rows miss a value in one of these columns, `(n,)`; the class -1 is missing, too."""
        found = self.rows.gaps(numbers, labels)
        for name in [name for name in labels if name in self.classes]:
            found |= arrow("pyarrow.compute").fill_null(self.rows.table.column(name), -1).to_numpy() < 0
        return found

    def keep(self, rows: NDArray[np.bool_]) -> DatasetChunk:
        """These rows alone."""
        return replace(self, rows=self.rows.keep(rows))

    def labels(self, column: str) -> np.ndarray:
        """One column as a numpy array `(n,)`; classes by their names.

        Raises:
            InputError: If a label is missing, or the number of no class.
        """
        values, names = self.rows.labels(column), self.classes.get(column)
        if names is None:
            return values
        wrong = np.flatnonzero((values < 0) | (values >= len(names)))
        if wrong.size:
            row = int(wrong[0])
            raise InputError(
                f"column {column!r} of {self.rows.where} is {values[row]} in row {row_of(self.index, row)}, "
                f"the number of none of its {len(names)} classes (-1 is for rows without one): leave such rows out"
            )
        return np.asarray(names, dtype=np.str_)[values]

    def replace(self, columns: Sequence[str], x: Tensor) -> DatasetChunk:
        """The same rows with new numbers `(n, d)` in these columns."""
        return replace(self, rows=self.rows.replace(columns, x))


@dataclass(frozen=True)
class DatasetSource:
    """The rows of a data set.

    Attributes:
        dataset: The data set, in whatever format.
        where: What to call it in messages.
        columns: The columns in order.
        rows: How many rows there are; None of one that is streamed.
        classes: Column -> names of its classes, where the data set says them.
        read: Names of the columns to read, or None for all.
        shape: None: a table.
        peeked: Whether its first rows were gone through to find the columns.
    """

    dataset: Any = field(repr=False)
    where: str
    columns: tuple[Column, ...]
    rows: int | None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    read: tuple[str, ...] | None = None
    shape: None = None
    peeked: bool = False

    def begins_again(self) -> bool:
        """Whether there are rows when it is gone through anew; one that can be gone through once is at its end."""
        return self.rows is not None or next(iter(self.dataset.with_format("arrow").iter(1)), None) is not None

    @property
    def files(self) -> tuple[Path, ...]:
        """None that it would be known to be."""
        return ()

    @property
    def path(self) -> Path:
        """A data set has none."""
        raise InputError(f"{self.where} is no file: it has no path")

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time; only the last chunk may be shorter.

        A data set that is streamed goes through the rows before `start` again.
        """
        widths: dict[str, tuple[int, int]] = {}
        chosen = self.dataset if self.read is None else self.dataset.select_columns(list(self.read))
        for table in self._tables(chosen.with_format("arrow"), rows, start):
            yield DatasetChunk(TableChunk(start, table, self.where, widths), self.classes)
            start += table.num_rows

    def _tables(self, dataset: Any, rows: int, start: int) -> Iterator[pa.Table]:
        if self.rows is not None:
            for first in range(start, self.rows, rows):
                yield dataset[first : first + rows]
            return
        yield from rechunk(self._alike(dataset.iter(rows)), rows, start)

    def _alike(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Tables of one schema: one without features guesses types batch by batch."""
        first, done = None, 0
        for table in tables:
            plain = table.replace_schema_metadata()
            first = plain.schema if first is None else first
            if plain.schema != first:
                self._refuse(first, plain.schema, done)
            yield plain
            done += plain.num_rows

    def _refuse(self, first: pa.Schema, now: pa.Schema, row: int) -> None:
        for name in dict.fromkeys([*first.names, *now.names]):
            before, after = ([str(s.field(name).type) if name in s.names else "nothing"] for s in (first, now))
            if before != after:
                raise InputError(
                    f"column {name!r} of {self.where} holds {after[0]} from about row {row} on, and {before[0]} before"
                    ": name its types, IterableDataset.from_generator(..., features=datasets.Features(...)) or "
                    ".map(..., features=...)"
                )

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> DatasetSource:
        """The same data set, of which only these columns are read unless `rest`."""
        check_columns([*numbers, *labels], column_names(self), self.where)
        return self if rest else replace(self, read=tuple(dict.fromkeys([*numbers, *labels])))


def open_dataset(dataset: Any) -> DatasetSource:
    """A data set as a source.

    Args:
        dataset: A `datasets.Dataset`, or an `IterableDataset` that gives the same rows each time.

    Raises:
        InputError: If it is a dictionary of such, has a transform, or no rows.
    """
    check_dataset(dataset, "dataset")
    if getattr(dataset, "format", {}).get("type") == "custom":
        raise InputError(
            "the data set has a transform, which what is read here does not go through: write "
            "dataset.map(function, batched=True) in its place"
        )
    where, features = _name(dataset), dataset.features
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    check_rows(rows, where)
    schema = features.arrow_schema if features is not None else _peeked(dataset, where)
    check_unique(schema.names, where)
    columns = tuple(map(column_of, schema))
    classes = {column.name: class_names(dataset, column.name) for column in columns if column.kind == "number"}
    classes = {name: names for name, names in classes.items() if names}
    return DatasetSource(dataset, where, columns, rows, classes, peeked=features is None)


def _name(dataset: Any) -> str:
    name, split = getattr(dataset.info, "dataset_name", None), getattr(dataset, "split", None)
    return f"the data set {name}" + (f"[{split}]" if split else "") if name else "the data set"


def _peeked(dataset: Any, where: str) -> pa.Schema:
    """The schema of the first rows of a data set that does not say it.

    Raises:
        InputError: If it has none, or other ones when they are asked for again.
    """
    first, again = (next(iter(dataset.with_format("arrow").iter(_PEEKED)), None) for _ in range(2))
    if first is None:
        raise InputError(f"{where} has no rows: expected at least one")
    if again is None or not again.equals(first):
        raise InputError(
            f"{where} does not begin with the same rows when it is gone through again: make it of a function that "
            "begins anew each time, or name its types, features=datasets.Features(...)"
        )
    return first.schema.remove_metadata()
