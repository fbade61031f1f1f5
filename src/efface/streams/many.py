"""Several files of one format as one source: a folder, what a pattern matches, or a list.

What a folder holds or a pattern matches is read in the order of names, a list in its own. Rows are counted over all
files; messages about a value name its file, and the row in it. Files whose columns are not the same are refused as soon
as their headers say so, and lists of another width when they are read: no file is left out, and no column.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface.streams.alike import check_alike, check_read_alike
from efface.streams.array import ArrayChunk
from efface.streams.columns import arrow
from efface.streams.source import Chunk, Column, Index, Source, check_columns, check_rows, column_names, kept_index
from efface.streams.table import TableChunk

_COUNTED = 4096


# ------------------------------------------------------------------------------------------------------- chunks of rows


@dataclass(frozen=True)
class JoinedChunk:
    """Consecutive rows of several files.

    Attributes:
        first_row: Index of the first row over all files.
        parts: The rows of each file, counted as in that file.
        lists: Columns in which each row holds a list.
        widths: List column -> its width and the first file that said so; the same for all chunks of a source.
        kept: Numbers of the rows over all files, where some were left out.
    """

    first_row: int
    parts: tuple[Any, ...]
    lists: tuple[str, ...] = ()
    widths: dict[str, tuple[int, str]] = field(default_factory=dict)
    kept: NDArray[np.int64] | None = None

    @property
    def index(self) -> Index:
        """Numbers of the rows over all files."""
        return self.first_row if self.kept is None else self.kept

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def nbytes(self) -> int:
        """How much memory the rows take."""
        return sum(part.nbytes for part in self.parts)

    def numbers(self, columns: Sequence[str], *, gaps: bool = False) -> Tensor:
        """The columns side by side as floating point or complex rows `(n, d)`; with `gaps`, NaN for what is missing.

        Raises:
            InputError: If a list column has another width than in a file before.
        """
        found = [part.numbers(columns, gaps=gaps) for part in self.parts]
        for part, x in zip(self.parts, found, strict=True):
            self._check_widths(columns, part, x)
        return found[0] if len(found) == 1 else torch.cat(found)

    def _check_widths(self, columns: Sequence[str], part: Any, x: Tensor) -> None:
        lists = [name for name in columns if name in self.lists]
        for name in lists:
            alone = x.shape[1] - len(columns) + 1
            width = alone if len(lists) == 1 else part.numbers([name]).shape[1]
            known, where = self.widths.setdefault(name, (width, part.where))
            if width != known:
                raise InputError(
                    f"column {name!r} has lists of {known} numbers in {where} and of {width} in {part.where}: pad or "
                    "pool them to one width"
                )

    def gaps(self, numbers: Sequence[str], labels: Sequence[str] = ()) -> NDArray[np.bool_]:
        """Which rows miss a value in one of these columns, `(n,)`."""
        return np.concatenate([part.gaps(numbers, labels) for part in self.parts])

    def keep(self, rows: NDArray[np.bool_]) -> JoinedChunk:
        """These rows alone."""
        parts = tuple(part.keep(rows[own]) for part, own in self._places())
        parts = tuple(part for part in parts if len(part)) or parts[:1]
        return replace(self, parts=parts, kept=kept_index(self.index, rows))

    def labels(self, column: str) -> np.ndarray:
        """One column as a numpy array `(n,)`."""
        return np.concatenate([part.labels(column) for part in self.parts])

    def replace(self, columns: Sequence[str], x: Tensor) -> JoinedChunk:
        """The same rows with new numbers `(n, d)` in these columns."""
        return replace(self, parts=tuple(part.replace(columns, x[own]) for part, own in self._places()))

    def joined(self) -> Chunk:
        """The same rows as a chunk of one file, for a file to be written."""
        first = self.parts[0]
        if isinstance(first, TableChunk):
            tables = [part.table for part in self.parts]
            alike = [t if t.schema.equals(first.table.schema) else t.cast(first.table.schema) for t in tables]
            return TableChunk(self.first_row, arrow().concat_tables(alike), first.where)
        data = [part.data for part in self.parts]
        joined = np.concatenate(data) if isinstance(data[0], np.ndarray) else torch.cat(data)
        return ArrayChunk(self.first_row, joined, first.where)

    def _places(self) -> Iterator[tuple[Any, slice]]:
        start = 0
        for part in self.parts:
            yield part, slice(start, start + len(part))
            start += len(part)


def whole(chunk: Any) -> Any:
    """A chunk as one of one file."""
    return chunk.joined() if isinstance(chunk, JoinedChunk) else chunk


# --------------------------------------------------------------------------------------------------------- the source


@dataclass(frozen=True)
class ManySource:
    """The rows of several files, one after the other.

    Attributes:
        sources: The files, whose columns are the same.
        where: What the user typed.
    """

    sources: tuple[Source, ...]
    where: str

    @property
    def path(self) -> Path:
        """The folder that all files lie in."""
        return Path(os.path.commonpath([source.path.absolute().parent for source in self.sources]))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(source.path for source in self.sources)

    @property
    def rows(self) -> int | None:
        """How many rows there are in all, or None if only reading to the end would tell."""
        counts = [source.rows for source in self.sources]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in order."""
        return self.sources[0].columns

    @property
    def shape(self) -> tuple[int, ...] | None:
        """`(n, d)`, or `(n,)`; None for tables."""
        shape = self.sources[0].shape
        return None if shape is None else (self.rows or 0, *shape[1:])

    @property
    def dialect(self) -> Any:
        """How the first `.csv` file is written."""
        return getattr(self.sources[0], "dialect", None)

    @cached_property
    def _lists(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.kind == "list")

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time; only the last chunk may be shorter."""
        held: list[Any] = []
        count, widths = 0, {}
        for source, skipped in self._from(start):
            for chunk in _filling(source, rows, rows - count, skipped):
                held, count = [*held, chunk], count + len(chunk)
                if count == rows:
                    yield JoinedChunk(start, tuple(held), self._lists, widths)
                    held, count, start = [], 0, start + rows
        if held:
            yield JoinedChunk(start, tuple(held), self._lists, widths)

    def _from(self, start: int) -> Iterator[tuple[Source, int]]:
        """Files from row `start` on, with how many rows of each come before."""
        for source in self.sources:
            count = source.rows
            if count is None and start:
                count = sum(map(len, source.chunks(_COUNTED)))
            if count is None or count > start:
                yield source, start
            start = max(0, start - (count or 0))

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> ManySource:
        """The same files with these columns read as numbers and labels; the others only if `rest`."""
        check_columns([*numbers, *labels], column_names(self), self.where)
        selected = tuple(source.select(numbers, labels, rest=rest) for source in self.sources)
        check_read_alike(selected, labels)
        return replace(self, sources=selected)


def _filling(source: Source, rows: int, first: int, start: int) -> Iterator[Chunk]:
    """Chunks of a file from `start` on: the first of `first` rows, the others of `rows`."""
    if first < rows:
        for chunk in source.chunks(first, start=start):
            start += len(chunk)
            yield chunk
            break
        if source.rows is not None and start >= source.rows:
            return
    yield from source.chunks(rows, start=start)


def joined_source(sources: Sequence[Source], where: str) -> Source:
    """Files as one source.

    Raises:
        InputError: If one is there twice, or their columns differ; the text names two files, the column and its types.
    """
    twice: dict[Path, Source] = {}
    for source in sources:
        if twice.setdefault(source.path.resolve(), source) is not source:
            raise InputError(f"{source.path} is there twice in {where}: its rows would count twice")
    check_alike(sources)
    many = ManySource(tuple(sources), where)
    check_rows(many.rows, where)
    return sources[0] if len(sources) == 1 else many
