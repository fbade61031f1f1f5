"""`.csv` files in chunks, through pyarrow: numbers are parsed, every other column is kept to the letter."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from efface._errors import FormatError, InputError
from efface._io import atomic_path
from efface.streams.columns import arrow, column_of, is_text
from efface.streams.dialect import Dialect, find_dialect
from efface.streams.source import (
    Chunk,
    Column,
    Sink,
    Source,
    check_columns,
    check_rows,
    check_unique,
    column_names,
    shortened,
)
from efface.streams.steady import Stamp, steady
from efface.streams.table import TableChunk, rechunk, table_of

if TYPE_CHECKING:
    import pyarrow as pa

_PLAIN = Dialect()
_BLOCK_BYTES = 1 << 22
_LINES = 1024
_LABELS = ("int64", "double", "bool", "string", "null")


@dataclass(frozen=True)
class CsvSource:
    """The rows of a `.csv` file with a header line; types are those of the first few megabytes.

    Attributes:
        path: The file.
        where: What the user typed.
        columns: The columns in order.
        dialect: How it is written.
        numbers: Columns that are read as float64, or as booleans where they say True and False.
        labels: Columns that are read as the type they seem to have, numbers or truth; dates stay text. So do whole
            numbers some of which are written with zeros in front, or with more digits than fit: 007 is not 7.
        whole: Those of the labels that are whole numbers.
        read: Names of the columns to read, or None for all; what is neither of these stays text.
        stamp: What the file was like when it was opened.
        rows: None: only reading to the end would tell.
        shape: None: a table.
    """

    path: Path
    where: str
    columns: tuple[Column, ...]
    dialect: Dialect = _PLAIN
    numbers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    read: tuple[str, ...] | None = None
    stamp: Stamp | None = None
    rows: None = None
    shape: None = None

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time; only the last chunk may be shorter."""
        with steady(self.path, self.stamp, self.where):
            for table in rechunk(self._tables(), rows, start):
                yield TableChunk(start, table, self.where)
                start += table.num_rows

    def _tables(self) -> Iterator[pa.Table]:
        done, pyarrow = 0, arrow()
        try:
            with _open(self.path, self.dialect, self._types(), self.read) as reader:
                for batch in reader:
                    yield self._as_numbers(pyarrow.Table.from_batches([batch]), done)
                    done += batch.num_rows
        except (pyarrow.ArrowInvalid, UnicodeError) as error:
            raise FormatError(self._explained(str(error), done)) from error
        check_rows(done, self.where)

    def _types(self) -> dict[str, Any]:
        pyarrow = arrow()
        typed = {*self.labels} - {*self.whole}
        text = {c.name: pyarrow.string() for c in self.columns if c.name not in typed}
        truth = {c.name for c in self.columns if c.type == "bool"}
        return text | {name: pyarrow.bool_() if name in truth else pyarrow.float64() for name in self.numbers}

    def _as_numbers(self, table: pa.Table, done: int) -> pa.Table:
        """Labels that are whole numbers as such; they are read as text, which alone tells whether one is a name."""
        pyarrow, pc = arrow(), arrow("pyarrow.compute")
        for name in self.whole:
            text = pc.utf8_trim_whitespace(table.column(name))
            if len(found := _padded(text)):
                raise FormatError(
                    f"{self.where} cannot be read after row {done}: column {name!r} has {found[0]}, which is a name, "
                    "after megabytes of numbers: write such a row among the first, or the column as text in a .parquet "
                    "file"
                )
            text = pc.if_else(pc.is_in(text, value_set=_gaps()), pyarrow.scalar(None, pyarrow.string()), text)
            place = table.column_names.index(name)
            try:
                values = text.cast(pyarrow.int64())
            except pyarrow.ArrowInvalid as error:
                raise FormatError(self._explained(f"CSV conversion error: column {name!r}: {error}", done)) from error
            table = table.set_column(place, name, values)
        return table

    def _explained(self, error: str, done: int) -> str:
        """What pyarrow said, with the name of the column and the rows read so far."""
        for i, column in enumerate(column_names(self)):
            error = error.replace(f"CSV column #{i}:", f"column {column!r}:")
        advice = "expected one type in the whole column" if "conversion" in error else "expected one line per row"
        advice = "save it as UTF-8" if "UTF8" in error else advice
        place = "" if "Row #" in error else f" after row {done}"
        return f"{self.where} cannot be read{place}: {error.replace('Row #', 'line ')}: {advice}"

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> CsvSource:
        """The same file with these columns as float64 and labels; the others, as text, only if `rest`."""
        check_columns([*numbers, *labels], column_names(self), self.where)
        wanted = {*numbers, *labels}
        read = None if rest else tuple(name for name in column_names(self) if name in wanted)
        types = {column.name: column.type for column in self.columns}
        codes = self._codes([name for name in dict.fromkeys(labels) if types[name] in ("int64", "double")])
        typed = tuple(name for name in labels if name not in codes and types[name] in _LABELS)
        also = set(numbers)
        whole = tuple(name for name in dict.fromkeys(typed) if types[name] == "int64" and name not in also)
        return replace(self, numbers=tuple(numbers), labels=typed, whole=whole, read=read)

    def _codes(self, columns: Sequence[str]) -> set[str]:
        """Which of some columns of numbers are names that are written in digits, by the first megabytes."""
        if not columns:
            return set()
        text = dict.fromkeys(columns, arrow().string())
        with _open(self.path, self.dialect, text, columns) as reader:
            first = arrow().Table.from_batches([reader.read_next_batch()])
        types = {column.name: column.type for column in self.columns}
        trimmed = {name: arrow("pyarrow.compute").utf8_trim_whitespace(first.column(name)) for name in columns}
        return {name for name, each in trimmed.items() if len(_padded(each)) or _too_long(each, types[name])}


def _padded(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Those of some texts that are digits with zeros in front."""
    pc = arrow("pyarrow.compute")
    return pc.filter(text, pc.match_substring_regex(text, r"^[+-]?0\d+$"))


def _too_long(text: pa.ChunkedArray, kind: str) -> bool:
    """Whether whole numbers have more digits than fit, so that several of them would be read as one float."""
    pc = arrow("pyarrow.compute")
    given = pc.filter(text, pc.invert(pc.is_in(text, value_set=_gaps())))
    return kind == "double" and len(given) > 0 and bool(pc.all(pc.match_substring_regex(given, r"^[+-]?\d+$")).as_py())


def _gaps() -> pa.Array:
    """How values that are missing may be written among numbers."""
    return arrow().array(arrow("pyarrow.csv").ConvertOptions().null_values)


@contextmanager
def _open(path: Path, dialect: Dialect, types: dict[str, Any], read: Sequence[str] | None) -> Iterator[Any]:
    pc = arrow("pyarrow.csv")
    how = {"skip_rows": dialect.skip, "encoding": "utf8" if dialect.encoding == "utf-8" else dialect.encoding}
    options = {
        "read_options": pc.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False, **how),
        "parse_options": pc.ParseOptions(delimiter=dialect.separator, newlines_in_values=True),
        "convert_options": pc.ConvertOptions(
            column_types=types, include_columns=list(read or ()), decimal_point=dialect.decimal
        ),
    }
    with pc.open_csv(path, **options) as reader:
        yield reader


def open_csv(path: Path) -> CsvSource:
    """Open a `.csv` file as a source.

    Raises:
        FormatError: If it is empty, no text that can be read, without a header, or has rows of unequal length.
    """
    stamp = Stamp.of(path)
    dialect = find_dialect(path)
    try:
        with _open(path, dialect, {}, None) as reader:
            found = [column_of(field) for field in reader.schema]
    except (arrow().ArrowInvalid, UnicodeError) as error:
        raise FormatError(
            f"{path} cannot be read: {error}: expected a header line and one line per row, with commas, semicolons or "
            "tabs between columns"
        ) from error
    columns = tuple(replace(column, is_index=_is_index(column, i, len(found))) for i, column in enumerate(found))
    _check_header([column.name for column in columns], path)
    if any(column.type == "binary" for column in columns):
        raise FormatError(f"{path} is not UTF-8 text: save it as UTF-8")
    return CsvSource(path, str(path), columns, dialect, stamp=stamp)


def _is_index(column: Column, place: int, width: int) -> bool:
    """Whether a column is none of the data: rows' names as pandas writes them, or what a separator at the end makes."""
    if place == 0 and width > 1:
        return not column.name or column.name == "Unnamed: 0"
    return place == width - 1 and not column.name and column.type == "null"


def _check_header(names: Sequence[str], path: Path) -> None:
    check_unique(names, str(path))
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise FormatError(
            f"{path} has one column called {names[0]!r}: expected one separator, comma, semicolon or tab, the same in "
            "all lines"
        )
    if all(map(_is_number, names)) and [*names] != [str(i) for i in range(len(names))]:
        raise FormatError(
            f"{path} has no header line: its first line holds numbers ({shortened(names)}): put names above them"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class CsvWriter:
    """Writes tables as lines in UTF-8; only values that need quotes get them."""

    def __init__(self, file: IO[bytes], where: str, dialect: Dialect) -> None:
        self._file, self._where, self._begun = file, where, False
        self._dialect = dialect

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        table = table_of(chunk)
        if not self._begun:
            self._write_header(table.column_names)
        for start in range(0, len(table), _LINES):
            lines = to_lines(table.slice(start, _LINES), self._dialect)
            self._file.write("".join(lines.to_pylist()).encode())

    def _write_header(self, names: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n", delimiter=self._dialect.separator).writerow(names)
        self._file.write(line.getvalue().encode())
        self._begun = True

    def finish(self) -> None:
        """Refuse a file without rows."""
        check_rows(None if self._begun else 0, self._where)


def to_lines(table: pa.Table, dialect: Dialect) -> pa.ChunkedArray:
    """Each row as a line, its end included; floats have as many digits as they need to be read back."""
    pc = arrow("pyarrow.compute")
    fields = [_to_field(name, table.column(name), dialect) for name in table.column_names]
    if len(fields) == 1:
        # An empty line would not be read as a row.
        fields = [pc.if_else(pc.equal(fields[0], ""), '""', fields[0])]
    lines = pc.binary_join_element_wise(*fields, dialect.separator) if len(fields) > 1 else fields[0]
    return pc.binary_join_element_wise(lines, "\n", "")


def _to_field(name: str, values: pa.ChunkedArray, dialect: Dialect) -> pa.ChunkedArray:
    pyarrow, pc = arrow(), arrow("pyarrow.compute")
    try:
        text = pc.coalesce(values.cast(pyarrow.string()), pyarrow.scalar("", pyarrow.string()))
    except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowInvalid) as error:
        raise InputError(
            f"column {name!r} holds {values.type}, which .csv files have not: write -o to .parquet"
        ) from error
    if is_text(values.type) or pyarrow.types.is_dictionary(values.type):
        inside = pc.replace_substring(text, '"', '""')
        quoted = pc.binary_join_element_wise('"', inside, '"', "")
        special = f'["{re.escape(dialect.separator)}\r\n]'
        return pc.if_else(pc.match_substring_regex(text, special), quoted, text)
    return text if dialect.decimal == "." else pc.replace_substring(text, ".", dialect.decimal)


@contextmanager
def write_csv(path: Path, like: Source, features: Sequence[str]) -> Iterator[Sink]:
    """A sink for a `.csv` file, written like the source if that is one, that appears when the block ends well."""
    dialect = getattr(like, "dialect", None) or _PLAIN
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sink = CsvWriter(file, like.where, dialect)
        yield sink
        sink.finish()
