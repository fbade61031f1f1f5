"""Chunks of tables (`.csv`, `.parquet`): pyarrow tables whose number columns can be read and replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import FormatError, InputError
from efface.streams.array import ArrayChunk, to_numpy
from efface.streams.columns import (
    arrow,
    column_of,
    decoded,
    gaps_in,
    is_list,
    is_text,
    like,
    list_lengths,
    list_rows,
    numbers_of,
    plain,
    stored,
)
from efface.streams.source import Chunk, Index, kept_index, row_of, shortened

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class TableChunk:
    """Consecutive rows of a table.

    Attributes:
        first_row: Index of the first row in the whole file.
        table: The rows.
        where: What to call the file in messages.
        widths: List column -> how long its lists are, and the first row that said so; one for all chunks of a source.
        kept: Numbers of the rows in the whole file, where some were left out.
    """

    first_row: int
    table: pa.Table
    where: str
    widths: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False, compare=False)
    kept: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)

    @property
    def index(self) -> Index:
        """Numbers of the rows in the whole file."""
        return self.first_row if self.kept is None else self.kept

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def nbytes(self) -> int:
        """How much memory the rows take."""
        return self.table.nbytes

    @property
    def _rows(self) -> str:
        return f"rows {row_of(self.index, 0)} to {row_of(self.index, len(self) - 1)}" if len(self) else "no rows"

    def numbers(self, columns: Sequence[str], *, gaps: bool = False) -> Tensor:
        """The columns side by side as floating point rows `(n, d)`; a list column gives its length of them.

        Types are those of `efface.streams.columns`, side by side the widest of them. Rows of one column of lists of
        floats lie in the memory that was read, and are not to be written to.

        Args:
            columns: Their names.
            gaps: Whether values may be missing, which are NaN then.

        Raises:
            InputError: If a value is missing, a column holds no numbers, or its lists differ in length.
        """
        parts = [self._numbers(name, gaps) for name in columns]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def gaps(self, numbers: Sequence[str], labels: Sequence[str] = ()) -> NDArray[np.bool_]:
        """Which rows miss a value in one of these columns, `(n,)`; a label that is an empty text is missing."""
        pc, found = arrow("pyarrow.compute"), np.zeros(len(self), bool)
        for name in (*numbers, *labels):
            values = decoded(self.table.column(name))
            found |= gaps_in(values, nan=True)
            if name in labels and is_text(values.type):
                found |= pc.fill_null(pc.equal(values, ""), True).to_numpy()
        return found

    def keep(self, rows: NDArray[np.bool_]) -> TableChunk:
        """These rows alone."""
        return replace(self, table=self.table.filter(arrow().array(rows)), kept=kept_index(self.index, rows))

    def labels(self, column: str) -> np.ndarray:
        """One column as a numpy array `(n,)` of strings, integers, booleans or floats.

        Raises:
            InputError: If a value is missing or the column holds something else.
            FormatError: If a text is damaged.
        """
        values = decoded(self.table.column(column))
        self._check_complete(values, column)
        kind = column_of(arrow().field(column, values.type)).kind
        if kind == "number":
            return np.asarray(plain(values).to_numpy())
        if not is_text(values.type):
            raise InputError(
                f"column {column!r} of {self.where} holds {values.type}, expected text or numbers: convert it"
            )
        self._check_complete(values, column, empty=True)
        try:
            return np.asarray(values.to_pylist(), dtype=np.str_)
        except UnicodeDecodeError as error:
            raise FormatError(
                f"column {column!r} of {self.where} has text in {self._rows} that is no UTF-8: {error}"
            ) from error

    def replace(self, columns: Sequence[str], x: Tensor) -> TableChunk:
        """The same rows with new numbers `(n, d)` in these columns, each in its own floating point type."""
        table, start = self.table, 0
        for name in columns:
            column = table.schema.field(name)
            width = self._width(stored(table.column(name)), name) if is_list(column.type) else 1
            values = like(column.type, x[:, start : start + width])
            table = table.set_column(
                table.schema.get_field_index(name),
                column.with_type(values.type),
                arrow().chunked_array([values]),
            )
            start += width
        return replace(self, table=table)

    def _numbers(self, name: str, gaps: bool) -> Tensor:
        values = stored(self.table.column(name))
        inner = values.type.value_type if is_list(values.type) else values.type
        if column_of(arrow().field(name, inner)).kind != "number":
            raise InputError(
                f"column {name!r} of {self.where} holds {values.type}, expected numbers: leave it out with "
                f"--exclude {name}"
            )
        if not gaps:
            self._check_complete(values, name)
        if is_list(values.type):
            width = self._width(values, name)
            parts = [list_rows(part, width) for part in values.chunks if len(part)]
        else:
            parts = [numbers_of(part)[:, None] for part in values.chunks if len(part)]
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.zeros(0, 1)

    def _width(self, values: pa.ChunkedArray, name: str) -> int:
        """The one length of all lists that are there, in this chunk and those before.

        Raises:
            InputError: If there are two; the first row that has another is named.
        """
        lengths = list_lengths(values)
        there = lengths >= 0
        if not there.any():
            raise InputError(
                f"column {name!r} of {self.where} has no list at all in {self._rows}: leave them out, --missing drop"
            )
        first = int(np.argmax(there))
        width, row = self.widths.setdefault(name, (int(lengths[first]), row_of(self.index, first)))
        wrong = np.flatnonzero(there & (lengths != width))
        if wrong.size:
            raise InputError(
                f"column {name!r} of {self.where} has lists of different lengths, {width} in row {row} and "
                f"{lengths[wrong[0]]} in row {row_of(self.index, int(wrong[0]))}, expected one: pad or pool them"
            )
        if not width:
            raise InputError(f"column {name!r} of {self.where} has an empty list in row {row}: expected numbers in it")
        return width

    def _check_complete(self, values: pa.ChunkedArray, name: str, *, empty: bool = False) -> None:
        pc = arrow("pyarrow.compute")
        gaps = pc.equal(values, "").to_numpy() if empty else gaps_in(values, nan=False)
        missing = kept_index(self.index, gaps)
        if missing.size:
            raise InputError(
                f"column {name!r} of {self.where} has missing values in {missing.size} of {len(self)} rows "
                f"(first rows, counted from 0: {shortened(missing.tolist())}): drop or fill these rows first, "
                "or write --missing drop or --missing mean"
            )


def rechunk(tables: Iterable[pa.Table], rows: int, start: int) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows (the last may be shorter) from any pieces, without `start` rows."""
    held, count = [], 0
    for table in tables:
        skipped = min(start, table.num_rows)
        start -= skipped
        held.append(table.slice(skipped))
        count += table.num_rows - skipped
        while count >= rows:
            whole = arrow().concat_tables(held)
            yield whole.slice(0, rows)
            held, count = [whole.slice(rows)], count - rows
    if count:
        yield arrow().concat_tables(held)


def table_of(chunk: Chunk) -> pa.Table:
    """The rows as a pyarrow table; the columns of an array are called `"0"`, `"1"`, ..."""
    if isinstance(chunk, TableChunk):
        return chunk.table
    if not isinstance(chunk, ArrayChunk):
        raise InputError(f"expected the chunk of an array or a table, got {type(chunk).__name__}")
    array = to_numpy(chunk.data, ".csv and .parquet")
    columns = [array] if array.ndim == 1 else list(array.T)
    if array.dtype.kind == "c":
        raise InputError("tables have no complex numbers: write -o to a .npy or .safetensors file")
    return arrow().table({str(i): np.ascontiguousarray(column) for i, column in enumerate(columns)})
