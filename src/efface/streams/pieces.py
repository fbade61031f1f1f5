"""Sources that are no files: some rows of another source, and tables in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.streams.columns import arrow, column_of
from efface.streams.parquet import ParquetSource, parquet_file
from efface.streams.source import Chunk, Column, Source, check_columns, column_names, files_of
from efface.streams.table import TableChunk, rechunk

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class RowsOf:
    """Rows `first` to `last` (not included) of a source, which are counted as they are there.

    Attributes:
        source: The source.
        first: The first row.
        last: The row behind the last.
    """

    source: Source
    first: int
    last: int

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    @property
    def files(self) -> tuple[Path, ...]:
        """The files."""
        return files_of(self.source)

    @property
    def where(self) -> str:
        """What the user typed."""
        return self.source.where

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.last - self.first

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in order."""
        return self.source.columns

    @property
    def shape(self) -> tuple[int, ...] | None:
        """`(n, d)`, or `(n,)`; None for tables."""
        shape = self.source.shape
        return None if shape is None else (self.rows, *shape[1:])

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` of these on, `rows` at a time; only the last chunk may be shorter."""
        place = self.first + start
        whole = place + (self.last - place) // rows * rows
        if place < whole:
            for chunk in self.source.chunks(rows, start=place):
                yield chunk
                place += len(chunk)
                if place >= whole:
                    break
        if place < self.last:
            yield next(self.source.chunks(self.last - place, start=place))

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> RowsOf:
        """The same rows with these columns read as numbers and labels; the others only if `rest`."""
        return replace(self, source=self.source.select(numbers, labels, rest=rest))


@dataclass(frozen=True)
class Tables:
    """Tables of pyarrow in memory, one after the other.

    Attributes:
        tables: Tables or record batches of one schema.
        where: What to call them in messages.
    """

    tables: tuple[Any, ...]
    where: str
    shape: None = None

    @property
    def path(self) -> Path:
        """No file: what they are called."""
        return Path(self.where)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(table.num_rows for table in self.tables)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in order."""
        return tuple(column_of(field) for field in self.tables[0].schema) if self.tables else ()

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time; only the last chunk may be shorter."""
        widths: dict[str, tuple[int, int]] = {}
        for table in rechunk(map(_table, self.tables), rows, start):
            yield TableChunk(start, table, self.where, widths)
            start += table.num_rows

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> Tables:
        """The same tables with these columns; the others only if `rest`."""
        check_columns([*numbers, *labels], column_names(self), self.where)
        wanted = list(dict.fromkeys([*numbers, *labels]))
        return self if rest else replace(self, tables=tuple(table.select(wanted) for table in self.tables))


def _table(rows: Any) -> pa.Table:
    pyarrow = arrow()
    return pyarrow.Table.from_batches([rows]) if isinstance(rows, pyarrow.RecordBatch) else rows


def borders(source: Source) -> list[int]:
    """Rows at which a source is best parted, 0 and the number of rows included: files, and row groups in `.parquet`."""
    found, start = [0], 0
    for each in _files(source):
        for count in _counts(each):
            start += count
            found.append(start)
    return sorted({*found})


def place_of(source: Any, row: int) -> tuple[str, int]:
    """The file of a source that a row lies in, as messages call it, and its number there."""
    files = _files(source)
    for each in files[:-1]:
        if row < (each.rows or 0):
            return each.where, row
        row -= each.rows or 0
    return files[-1].where, row


def _files(source: Any) -> Sequence[Any]:
    inner = getattr(source, "table", source)  # of a source that spreads columns of text
    return getattr(inner, "sources", (inner,))


def _counts(source: Any) -> list[int]:
    if not isinstance(source, ParquetSource):
        return [source.rows]
    with parquet_file(source.path, source.where) as file:
        meta = file.metadata
        return [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
