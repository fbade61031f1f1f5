"""`.parquet` files in chunks, through pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import SEEK_END
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface._errors import FormatError
from efface._io import atomic_path
from efface.streams.columns import arrow, column_of
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
from efface.streams.steady import Stamp, steady
from efface.streams.table import TableChunk, rechunk, table_of

if TYPE_CHECKING:
    import pyarrow as pa


_TRIED_ROWS = 4096
_MAGIC = b"PAR1"
_HOW: dict[str, Any] = {"pre_buffer": False, "buffer_size": 2**16, "page_checksum_verification": True}
"""Read through buffers of that many bytes a column, or a whole row group would be in memory."""


@dataclass(frozen=True)
class ParquetSource:
    """The rows of a `.parquet` file.

    Attributes:
        path: The file.
        where: What the user typed.
        rows: How many rows there are.
        columns: The columns in order.
        read: Names of the columns to read, or None for all.
        stamp: What the file was like when it was opened.
        shape: None: a table.
    """

    path: Path
    where: str
    rows: int
    columns: tuple[Column, ...]
    read: tuple[str, ...] | None = None
    stamp: Stamp | None = None
    shape: None = None

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time; only the last chunk may be shorter.

        Row groups before `start` are not read. Checksums of pages are compared where the file has them.

        Raises:
            FormatError: If a part of the file is damaged; the text names row group, column, rows and bytes.
            InputError: If the file has changed since it was opened.
        """
        widths: dict[str, tuple[int, int]] = {}
        with steady(self.path, self.stamp, self.where), parquet_file(self.path, self.where) as file:
            group, first = _group_of(file.metadata, start)
            for table in rechunk(self._tables(file, rows, group, first), rows, start - first):
                yield TableChunk(start, table, self.where, widths)
                start += table.num_rows

    def _tables(self, file: Any, rows: int, group: int, done: int) -> Iterator[pa.Table]:
        pyarrow, groups = arrow(), range(group, file.metadata.num_row_groups)
        how: dict[str, Any] = {"columns": self.read and list(self.read), "use_threads": False}
        try:
            for batch in file.iter_batches(rows, row_groups=list(groups), **how):
                yield pyarrow.Table.from_batches([batch])
                done += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            said = damage(self.path, self.read, done)
            if not said and isinstance(error, MemoryError):
                raise
            said = said or f"it is damaged after row {done}: {_line(error)}"
            raise FormatError(f"{self.where} cannot be read: {said}: copy or write it again") from error
        if done != self.rows:
            raise FormatError(f"{self.where} is damaged: it holds {done} rows, its footer promises {self.rows}")

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> ParquetSource:
        """The same file, of which only these columns are read unless `rest`."""
        check_columns([*numbers, *labels], column_names(self), self.where)
        return self if rest else replace(self, read=tuple(dict.fromkeys([*numbers, *labels])))


def _group_of(metadata: Any, row: int) -> tuple[int, int]:
    """The row group that a row is in, and the first row of that."""
    first = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if row < first + count:
            return group, first
        first += count
    return metadata.num_row_groups, first


@contextmanager
def parquet_file(path: Path, where: str) -> Iterator[Any]:
    """An open `.parquet` file.

    Raises:
        FormatError: If it has no footer that can be read.
    """
    pyarrow, parquet = arrow(), arrow("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path, **_HOW)
    except FileNotFoundError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        said = _why(path) or f"the footer of the .parquet file is damaged, {_line(error)}"
        raise FormatError(f"{where} cannot be read: {said}: copy or write it again") from error
    with file:
        yield file


def _why(path: Path) -> str:
    """Why a file cannot even be opened, as far as its ends tell."""
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
        size = file.seek(0, SEEK_END)
        file.seek(max(0, size - len(_MAGIC)))
        end = file.read()
    if start != _MAGIC:
        return "it is no .parquet file, which begins with PAR1"
    if end != _MAGIC:
        return f"the .parquet file is truncated: its {size:,} bytes end without the footer, which tells where rows are"
    return ""


def damage(path: Path, columns: Sequence[str] | None, row: int) -> str:
    """Which part of a `.parquet` file cannot be read: the first from the row group of `row` on; empty if none.

    Reads what may be damaged a second time, column by column.
    """
    parquet, pyarrow = arrow("pyarrow.parquet"), arrow()
    with parquet.ParquetFile(path, **_HOW) as file:
        group, first = _group_of(file.metadata, row)
        for number in range(group, file.metadata.num_row_groups):
            part = file.metadata.row_group(number)
            for name in columns or file.schema_arrow.names:
                try:
                    for _ in file.iter_batches(_TRIED_ROWS, row_groups=[number], columns=[name], use_threads=False):
                        pass
                except (pyarrow.ArrowException, OSError) as error:
                    begin, end = _bytes(part, name)
                    beyond = f", beyond its {size:,} bytes" if end > (size := path.stat().st_size) else ""
                    rows = f"rows {first} to {first + part.num_rows - 1}"
                    return (
                        f"row group {number} ({rows}) is damaged or cut off in column {name!r} (bytes {begin:,} to "
                        f"{end - 1:,} of the file{beyond}): {_line(error)}"
                    )
            first += part.num_rows
    return ""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _bytes(group: Any, column: str) -> tuple[int, int]:
    """Where a column of a row group lies in its file."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    own = [c for c in chunks if c.path_in_schema == column or c.path_in_schema.startswith(f"{column}.")]
    begins = [c.dictionary_page_offset if c.has_dictionary_page else c.data_page_offset for c in own]
    return min(begins), max(begin + c.total_compressed_size for begin, c in zip(begins, own, strict=True))


def open_parquet(path: Path, *, empty: bool = False) -> ParquetSource:
    """Open a `.parquet` file as a source.

    Args:
        path: The file.
        empty: Whether it may have no rows, as one of many.

    Raises:
        FormatError: If it is truncated or foreign.
        InputError: If it has no rows.
    """
    stamp = Stamp.of(path)
    with parquet_file(path, str(path)) as file:
        rows, schema = file.metadata.num_rows, file.schema_arrow
    check_rows(rows or None if empty else rows, str(path))
    check_unique(schema.names, str(path))
    index = (schema.pandas_metadata or {}).get("index_columns", [])  # names, or descriptions of ranges
    columns = (replace(column_of(field), is_index=field.name in index) for field in schema)
    return ParquetSource(path, str(path), rows, tuple(columns), stamp=stamp)


class ParquetWriter:
    """Writes tables one after the other; the first one sets the columns."""

    def __init__(self, path: Path, where: str) -> None:
        self._path, self._where = path, where
        self._writer: Any = None

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        table = table_of(chunk)
        if self._writer is None:
            self._writer = arrow("pyarrow.parquet").ParquetWriter(self._path, table.schema, write_page_checksum=True)
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
