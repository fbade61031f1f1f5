"""`.parquet` files in chunks, through pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface._errors import FormatError
from efface._io import atomic_path
from efface.streams.source import (
    Chunk,
    Column,
    Sink,
    Source,
    check_columns,
    check_rows,
    check_unique,
    column_names,
)
from efface.streams.table import TableChunk, arrow, column_of, rechunk, table_of

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ParquetSource:
    """The rows of a `.parquet` file.

    Attributes:
        path: The file.
        where: What the user typed.
        rows: How many rows there are.
        columns: The columns in order.
        read: Names of the columns to read, or None for all.
        shape: None: a table.
    """

    path: Path
    where: str
    rows: int
    columns: tuple[Column, ...]
    read: tuple[str, ...] | None = None
    shape: None = None

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time; only the last chunk may be shorter."""
        for table in rechunk(self._tables(rows), rows, start):
            yield TableChunk(start, table, self.where)
            start += table.num_rows

    def _tables(self, rows: int) -> Iterator[pa.Table]:
        pyarrow, parquet = arrow(), arrow("pyarrow.parquet")
        with _readable(self.where), parquet.ParquetFile(self.path, pre_buffer=False) as file:
            for batch in file.iter_batches(rows, columns=self.read and list(self.read), use_threads=False):
                yield pyarrow.Table.from_batches([batch])

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> ParquetSource:
        """The same file, of which only these columns are read unless `rest`."""
        check_columns([*numbers, *labels], column_names(self), self.where)
        return self if rest else replace(self, read=tuple(dict.fromkeys([*numbers, *labels])))


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except (arrow().ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FormatError(f"{where} cannot be read, the .parquet file may be truncated: {error}") from error


def open_parquet(path: Path) -> ParquetSource:
    """Open a `.parquet` file as a source.

    Raises:
        FormatError: If it is truncated or foreign.
        InputError: If it has no rows.
    """
    parquet = arrow("pyarrow.parquet")
    with _readable(str(path)), parquet.ParquetFile(path) as file:
        rows, schema = file.metadata.num_rows, file.schema_arrow
    check_rows(rows, str(path))
    check_unique(schema.names, str(path))
    index = (schema.pandas_metadata or {}).get("index_columns", [])  # names, or descriptions of ranges
    columns = (replace(column_of(field), is_index=field.name in index) for field in schema)
    return ParquetSource(path, str(path), rows, tuple(columns))


class ParquetWriter:
    """Writes tables one after the other; the first one sets the columns."""

    def __init__(self, path: Path, where: str) -> None:
        self._path, self._where = path, where
        self._writer: Any = None

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        table = table_of(chunk)
        if self._writer is None:
            self._writer = arrow("pyarrow.parquet").ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Write the footer, if anything was written."""
        if self._writer is not None:
            self._writer.close()

    def finish(self) -> None:
        """Refuse a file without rows."""
        check_rows(None if self._writer else 0, self._where)


@contextmanager
def write_parquet(path: Path, like: Source, features: Sequence[str]) -> Iterator[Sink]:
    """A sink for a `.parquet` file that appears when the block ends without an error."""
    with atomic_path(path) as temporary:
        sink = ParquetWriter(temporary, like.where)
        try:
            yield sink
        finally:
            sink.close()
        sink.finish()
