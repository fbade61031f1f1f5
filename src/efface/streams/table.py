"""Chunks of tables (`.csv`, `.parquet`): pyarrow tables whose number columns can be read and replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._lazy import require
from efface._validate import to_tensor
from efface.streams.array import ArrayChunk, as_floating, to_numpy
from efface.streams.source import Chunk, Column, shortened

if TYPE_CHECKING:
    import pyarrow as pa

EXTRA = "files"


def arrow(module: str = "pyarrow") -> Any:
    """The pyarrow module, or an error that says how to install it."""
    return require(module, extra=EXTRA)


@dataclass(frozen=True)
class TableChunk:
    """Consecutive rows of a table.

    Attributes:
        first_row: Index of the first row in the whole file.
        table: The rows.
        where: What to call the file in messages.
    """

    first_row: int
    table: pa.Table
    where: str

    def __len__(self) -> int:
        return self.table.num_rows

    def numbers(self, columns: Sequence[str], *, gaps: bool = False) -> Tensor:
        """The columns side by side as floating point rows `(n, d)`; a list column gives its length of them.

        Args:
            columns: Their names.
            gaps: Whether values may be missing, which are NaN then; of lists none may.

        Raises:
            InputError: If a value is missing or a column holds no numbers.
        """
        parts = [self._numbers(name, gaps) for name in columns]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def gaps(self, numbers: Sequence[str], labels: Sequence[str] = ()) -> NDArray[np.bool_]:
        """Which rows miss a value in one of these columns, `(n,)`; a label that is an empty text is missing."""
        pc, found = arrow("pyarrow.compute"), np.zeros(len(self), bool)
        for name in (*numbers, *labels):
            values = _decoded(self.table.column(name))
            found |= pc.is_null(values, nan_is_null=arrow().types.is_floating(values.type)).to_numpy()
            if name in labels and is_text(values.type):
                found |= pc.fill_null(pc.equal(values, ""), True).to_numpy()
        return found

    def keep(self, rows: NDArray[np.bool_]) -> TableChunk:
        """These rows alone."""
        return replace(self, table=self.table.filter(arrow().array(rows)))

    def labels(self, column: str) -> np.ndarray:
        """One column as a numpy array `(n,)` of strings, integers, booleans or floats.

        Raises:
            InputError: If a value is missing or the column holds something else.
        """
        values = _decoded(self.table.column(column))
        self._check_complete(values, column)
        kind = column_of(arrow().field(column, values.type)).kind
        if kind == "number":
            return np.asarray(_plain(values).to_numpy())
        if not is_text(values.type):
            raise InputError(
                f"column {column!r} of {self.where} holds {values.type}, expected text or numbers: convert it"
            )
        self._check_complete(values, column, empty=True)
        return np.asarray(values.to_pylist(), dtype=np.str_)

    def replace(self, columns: Sequence[str], x: Tensor) -> TableChunk:
        """The same rows with new numbers `(n, d)` in these columns, each in its own floating point type."""
        table, start = self.table, 0
        for name in columns:
            field = table.schema.field(name)
            width = _list_width(table.column(name)) if is_list(field.type) else 1
            values = _like(field.type, x[:, start : start + width])
            table = table.set_column(
                table.schema.get_field_index(name),
                field.with_type(values.type),
                arrow().chunked_array([values]),
            )
            start += width
        return replace(self, table=table)

    def _numbers(self, name: str, gaps: bool) -> Tensor:
        values = self.table.column(name)
        if gaps and values.null_count and not is_list(values.type):
            self._check_numbers(values.type, name)
            filled = arrow("pyarrow.compute").fill_null(values.cast(arrow().float64()), float("nan"))
            return to_tensor(np.array(filled.to_numpy()), name)[:, None]
        self._check_complete(values, name)
        if is_list(values.type):
            return self._list_numbers(values, name)
        self._check_numbers(values.type, name)
        return as_floating(to_tensor(np.array(_plain(values).to_numpy()), name))[:, None]

    def _list_numbers(self, values: pa.ChunkedArray, name: str) -> Tensor:
        pc = arrow("pyarrow.compute")
        lengths = pc.list_value_length(values).to_numpy()
        wrong = np.flatnonzero(lengths != lengths[0])
        if wrong.size or lengths[0] == 0:
            row = self.first_row + int(wrong[0] if wrong.size else 0)
            raise InputError(
                f"column {name!r} of {self.where} has lists of different lengths or empty ones "
                f"({shortened(sorted({*lengths.tolist()}))}; see row {row}), expected one: pad or pool them"
            )
        flat = pc.list_flatten(values)
        self._check_complete(flat, name, per_row=int(lengths[0]))
        self._check_numbers(flat.type, name)
        return as_floating(to_tensor(np.array(_plain(flat).to_numpy()), name)).reshape(len(values), -1)

    def _check_numbers(self, type_: pa.DataType, name: str) -> None:
        if column_of(arrow().field(name, type_)).kind != "number":
            raise InputError(
                f"column {name!r} of {self.where} holds {type_}, expected numbers: leave it out with --exclude {name}"
            )

    def _check_complete(self, values: pa.ChunkedArray, name: str, *, per_row: int = 1, empty: bool = False) -> None:
        if not values.null_count and not empty:
            return
        pc = arrow("pyarrow.compute")
        missing = np.flatnonzero((pc.equal(values, "") if empty else pc.is_null(values)).to_numpy()) // per_row
        if missing.size:
            rows = np.unique(missing) + self.first_row
            raise InputError(
                f"column {name!r} of {self.where} has missing values in {rows.size} of {len(self)} rows "
                f"(first rows, counted from 0: {shortened(rows.tolist())}): drop or fill these rows first, "
                "or write --missing drop or --missing mean"
            )


def is_list(type_: pa.DataType) -> bool:
    """Whether each row holds a list."""
    types = arrow().types
    return types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)


def is_text(type_: pa.DataType) -> bool:
    """Whether each row holds a string."""
    types = arrow().types
    return types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_)


def _is_number(type_: pa.DataType) -> bool:
    types = arrow().types
    return (
        types.is_integer(type_)
        or types.is_floating(type_)
        or types.is_boolean(type_)
        or types.is_decimal(type_)
        or types.is_null(type_)
    )


def column_of(field: pa.Field) -> Column:
    """What a column holds; a column of nothing but missing values counts as numbers (that are missing)."""
    type_ = field.type
    if _is_number(type_):
        return Column(field.name, "number", str(type_))
    if is_list(type_) and _is_number(type_.value_type):
        return Column(field.name, "list", str(type_))
    return Column(field.name, "other", "text" if is_text(_value_type(type_)) else str(type_))


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if arrow().types.is_dictionary(type_) else type_


def _decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(_value_type(values.type))


def _plain(values: Any) -> Any:
    """Decimals as float64; other numbers as they are."""
    return values.cast(arrow().float64()) if arrow().types.is_decimal(values.type) else values


def _list_width(values: pa.ChunkedArray) -> int:
    return int(arrow("pyarrow.compute").list_value_length(values.slice(0, 1))[0].as_py())


def _like(type_: pa.DataType, x: Tensor) -> pa.Array:
    """Rows `(n, k)` as an arrow array of the given type; where that is of integers, as floats."""
    if not is_list(type_):
        return _cast(x.reshape(-1), type_)
    flat, types = _cast(x.reshape(-1), type_.value_type), arrow().types
    if types.is_fixed_size_list(type_):
        return arrow().FixedSizeListArray.from_arrays(flat, x.shape[1])
    offsets = np.arange(len(x) + 1, dtype=np.int64) * x.shape[1]
    if types.is_large_list(type_):
        return arrow().LargeListArray.from_arrays(offsets, flat)
    return arrow().ListArray.from_arrays(offsets.astype(np.int32), flat)


def _cast(x: Tensor, type_: pa.DataType) -> pa.Array:
    if x.is_complex():
        raise InputError("tables have no complex numbers: write -o to a .npy or .safetensors file")
    values = arrow().array(to_numpy(x, "table"))
    return values.cast(type_) if arrow().types.is_floating(type_) else values


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
