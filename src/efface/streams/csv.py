"""`.csv` files in chunks, through pyarrow: numbers are parsed, every other column is kept to the letter."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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
from efface.streams.table import TableChunk, arrow, column_of, is_text, rechunk, table_of

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_BYTES = 1 << 22
_SPECIAL = r'[",\r\n]'


@dataclass(frozen=True)
class CsvSource:
    """The rows of a `.csv` file with a header line; types are those of the first few megabytes.

    Attributes:
        path: The file.
        where: What the user typed.
        columns: The columns in order.
        numbers: Columns that are read as float64.
        labels: Columns that are read as the type they seem to have.
        read: Names of the columns to read, or None for all; what is neither of these stays text.
        rows: None: only reading to the end would tell.
        shape: None: a table.
    """

    path: Path
    where: str
    columns: tuple[Column, ...]
    numbers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    read: tuple[str, ...] | None = None
    rows: None = None
    shape: None = None

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time; only the last chunk may be shorter."""
        for table in rechunk(self._tables(), rows, start):
            yield TableChunk(start, table, self.where)
            start += table.num_rows

    def _tables(self) -> Iterator[pa.Table]:
        done, pyarrow = 0, arrow()
        try:
            with _open(self.path, self._types(), self.read) as reader:
                for batch in reader:
                    yield pyarrow.Table.from_batches([batch])
                    done += batch.num_rows
        except pyarrow.ArrowInvalid as error:
            raise FormatError(self._explained(str(error), done)) from error
        check_rows(done, self.where)

    def _types(self) -> dict[str, Any]:
        pyarrow = arrow()
        text = {c.name: pyarrow.string() for c in self.columns if c.name not in self.labels}
        return text | {name: pyarrow.float64() for name in self.numbers}

    def _explained(self, error: str, done: int) -> str:
        """What pyarrow said, with the name of the column and the rows read so far."""
        for i, column in enumerate(self.read or column_names(self)):
            error = error.replace(f"CSV column #{i}:", f"column {column!r}:")
        advice = (
            "expected one type in the whole column" if "conversion" in error else "expected one line per row"
        )
        return f"{self.where} cannot be read after row {done}: {error}: {advice}"

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> CsvSource:
        """The same file with these columns as float64 and labels; the others, as text, only if `rest`."""
        check_columns([*numbers, *labels], column_names(self), self.where)
        wanted = {*numbers, *labels}
        read = None if rest else tuple(name for name in column_names(self) if name in wanted)
        return replace(self, numbers=tuple(numbers), labels=tuple(labels), read=read)


@contextmanager
def _open(path: Path, types: dict[str, Any], read: Sequence[str] | None) -> Iterator[Any]:
    pc = arrow("pyarrow.csv")
    convert = pc.ConvertOptions(column_types=types, include_columns=list(read or ()))
    options = {
        "read_options": pc.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        "convert_options": convert,
    }
    with pc.open_csv(path, parse_options=pc.ParseOptions(newlines_in_values=True), **options) as reader:
        yield reader


def open_csv(path: Path) -> CsvSource:
    """Open a `.csv` file as a source.

    Raises:
        FormatError: If it is empty, not comma separated, not UTF-8, or has rows of unequal length.
    """
    try:
        with _open(path, {}, None) as reader:
            columns = tuple(column_of(field) for field in reader.schema)
    except arrow().ArrowInvalid as error:
        raise FormatError(
            f"{path} cannot be read: {error}: expected a header line and one line per row"
        ) from error
    _check_header([column.name for column in columns], path)
    return CsvSource(path, str(path), columns)


def _check_header(names: Sequence[str], path: Path) -> None:
    check_unique(names, str(path))
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise FormatError(f"{path} has one column called {names[0]!r}: expected commas between columns")


class CsvWriter:
    """Writes tables as lines; only text that needs quotes gets them."""

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file, self._where, self._begun = file, where, False

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        table, pc = table_of(chunk), arrow("pyarrow.csv")
        if not self._begun:
            self._write_header(table.column_names)
        style = "needed" if _needs_quotes(table) else "none"
        pc.write_csv(_writable(table), self._file, pc.WriteOptions(include_header=False, quoting_style=style))

    def _write_header(self, names: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(names)
        self._file.write(line.getvalue().encode())
        self._begun = True

    def finish(self) -> None:
        """Refuse a file without rows."""
        check_rows(None if self._begun else 0, self._where)


def _needs_quotes(table: pa.Table) -> bool:
    pc = arrow("pyarrow.compute")
    texts = (column for column in table.columns if is_text(column.type))
    return any(pc.any(pc.match_substring_regex(column, _SPECIAL)).as_py() for column in texts)


def _writable(table: pa.Table) -> pa.Table:
    """Categories as what they stand for: pyarrow does not write them as lines."""
    types = arrow().types
    for i, field in enumerate(table.schema):
        if types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table


@contextmanager
def write_csv(path: Path, like: Source, features: Sequence[str]) -> Iterator[Sink]:
    """A sink for a `.csv` file that appears when the block ends without an error."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sink = CsvWriter(file, like.where)
        yield sink
        sink.finish()
