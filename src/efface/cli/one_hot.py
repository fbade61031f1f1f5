"""Columns of text as features: a column of 0 and 1 for each value, in the place of the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from efface._errors import InputError
from efface.streams import Chunk, Column, Source, column_names, files_of, shortened
from efface.streams.columns import arrow
from efface.streams.many import whole
from efface.streams.source import check_unique
from efface.streams.table import TableChunk

_MOST = 200


@dataclass(frozen=True)
class OneHotSource:
    """A table in which some columns of text are spread.

    Attributes:
        table: The table.
        values: Column -> its values in order. The column of `city` for Rome is called `city=Rome`.
    """

    table: Source
    values: Mapping[str, Sequence[str]]

    @property
    def path(self) -> Path:
        """The file."""
        return self.table.path

    @property
    def files(self) -> tuple[Path, ...]:
        """The files."""
        return files_of(self.table)

    @property
    def where(self) -> str:
        """What the user typed."""
        return self.table.where

    @property
    def rows(self) -> int | None:
        """How many rows there are, if that is known."""
        return self.table.rows

    @property
    def shape(self) -> tuple[int, ...] | None:
        """None: a table."""
        return None

    @property
    def dialect(self) -> Any:
        """How a `.csv` file is written."""
        return getattr(self.table, "dialect", None)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those of the table, and in the place of text its values."""
        return tuple(
            spread
            for column in self.table.columns
            for spread in ([Column(name, "number", "0 and 1") for name in self._names(column.name)] or [column])
        )

    def _names(self, column: str) -> list[str]:
        return [f"{column}={value}" for value in self.values.get(column, ())]

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time.

        Raises:
            InputError: If a text has a value that is not known.
        """
        for chunk in self.table.chunks(rows, start=start):
            yield self.spread(whole(chunk))

    def spread(self, chunk: Any) -> Chunk:
        """A chunk of the table, spread.

        Raises:
            InputError: If a text has a value that is not known.
        """
        table, pa, pc = chunk.table, arrow(), arrow("pyarrow.compute")
        for column in [name for name in self.values if name in table.column_names]:
            place = table.schema.get_field_index(column)
            text = table.column(column).cast(pa.string())
            text = pc.if_else(pc.equal(text, ""), None, text)
            self._check_known(column, text, chunk.first_row)
            table = table.remove_column(place)
            for i, (name, value) in enumerate(zip(self._names(column), self.values[column], strict=True)):
                table = table.add_column(place + i, name, pc.equal(text, value).cast(pa.float64()))
        return TableChunk(chunk.first_row, table, chunk.where)

    def _check_known(self, column: str, text: Any, first_row: int) -> None:
        pa, pc = arrow(), arrow("pyarrow.compute")
        known = pc.or_kleene(pc.is_in(text, value_set=pa.array(list(self.values[column]))), pc.is_null(text))
        wrong = np.flatnonzero(~np.asarray(known.to_numpy()))
        if wrong.size:
            raise InputError(
                f"{column} is {text[int(wrong[0])].as_py()!r} in row {first_row + int(wrong[0])} of {self.where}: the "
                f"eraser does not know that, and was fitted on {shortened(self.values[column], count=8)}"
            )

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> OneHotSource:
        """The same with these columns to be read; of text the whole, if one of its values is."""
        own = {name: column for column in self.values for name in self._names(column)}
        text = list(dict.fromkeys(own[name] for name in numbers if name in own))
        plain = [name for name in numbers if name not in own]
        return replace(self, table=self.table.select(plain, [*labels, *text], rest=rest))


def spread(source: Source, columns: Sequence[str], rows: int) -> OneHotSource:
    """A table with columns of text spread, whose values are found in one pass.

    Raises:
        InputError: If there is no such column, it holds no text, or has too many values.
    """
    if source.shape is not None:
        raise InputError(f"--one-hot is for tables, {source.where} is an array")
    source.select([], columns)
    kinds = {column.name: column for column in source.columns}
    found: dict[str, set[str]] = {name: set() for name in columns}
    for name in columns:
        if kinds[name].kind != "other":
            raise InputError(f"--one-hot {name} holds {kinds[name].type}: it is a feature as it is")
    for chunk in source.select([], columns).chunks(rows):
        for name in columns:
            found[name] |= {str(value) for value in chunk.keep(~chunk.gaps([], [name])).labels(name).tolist()}
            if len(found[name]) > _MOST:
                raise InputError(
                    f"--one-hot {name} has more than {_MOST} values: leave it out with --exclude {name}, or merge some"
                )
    made = OneHotSource(source, {name: tuple(sorted(values)) for name, values in found.items()})
    check_unique(column_names(made), source.where)
    return made
