"""Features and labels of the same rows, chunk by chunk, whether they lie in one source or in several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_finite
from efface.streams.source import Chunk, Index, Source


@dataclass(frozen=True)
class Labels:
    """Where the labels of one concept are.

    Attributes:
        spec: What the user typed.
        column: The column, or None for several.
        source: The file, or None if it is a column of X.
        columns: The columns if there are several.
    """

    spec: str
    column: str | None
    source: Source | None = None
    columns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What to call the concept: its column if it has a name, else what the user typed."""
        return self.column if self.column and not self.column.isdecimal() else self.spec

    def of(self, chunk: Chunk) -> Any:
        """The labels `(n,)` as numpy array, or columns `(n, k)` as tensor, of a chunk of its file."""
        return chunk.numbers(self.columns) if self.column is None else chunk.labels(self.column)


@dataclass(frozen=True)
class Piece:
    """Some rows of X with their labels.

    Attributes:
        chunk: The rows that are used.
        labels: The labels of the same rows.
        end: Number of rows of the file up to here, those left out too.
    """

    chunk: Chunk
    labels: list[Any]
    end: int


@dataclass(frozen=True)
class Inputs:
    """Features and labels of the same rows.

    Attributes:
        x: The file of the features.
        features: Their columns.
        labels: The labels of each concept.
        missing: What to do where a value is missing: `"drop"` leaves the row out, `"mean"` takes `means` for a feature
            and leaves rows without a label out; None refuses it.
        means: A value for each feature.
    """

    x: Source
    features: tuple[str, ...]
    labels: tuple[Labels, ...]
    missing: Literal["drop", "mean"] | None = None
    means: Tensor | None = None

    def own_labels(self) -> list[str]:
        """The columns of X that are labels."""
        return [labels.column for labels in self.labels if labels.source is None and labels.column is not None]

    def numbers(self, chunk: Chunk, *, gaps: bool = False, check: bool = True) -> Tensor:
        """The features of a chunk; what is missing is NaN if `gaps`, else what `missing` says.

        Args:
            chunk: Rows of X.
            gaps: Whether what is missing is wanted.
            check: Whether to look for values that are not finite; False leaves that to whoever sums them.

        Raises:
            InputError: If a value is missing and nothing was said, or infinite.
        """
        x = chunk.numbers(self.features, gaps=gaps or self.means is not None)
        if gaps:
            return x
        if self.means is not None and x.shape[1] == len(self.means):
            x = torch.where(x.isnan(), self.means.to(x), x)
        if check:
            check_finite(x, self.x.where, index=chunk.index)
        return x

    def chunks(self, rows: int, *, start: int = 0, rest: bool = False) -> Iterator[Piece]:
        """Chunks of X with the labels of the same rows.

        Args:
            rows: Rows of a chunk.
            start: First row.
            rest: Whether the chunks of X have to hold the other columns too.
        """
        x = self.x.select(self.features, self.own_labels(), rest=rest)
        yield from self._aligned(x, rows, start, self.features)

    def with_numbers(
        self, rows: int, *, start: int = 0, rest: bool = False, gaps: bool = False, check: bool = True
    ) -> Iterator[tuple[Piece, Tensor]]:
        """As `chunks`, each piece with its features as `numbers` gives them."""
        for piece in self.chunks(rows, start=start, rest=rest):
            yield piece, self.numbers(piece.chunk, gaps=gaps, check=check)

    def labels_only(self, rows: int) -> Iterator[tuple[list[Any], Index]]:
        """The labels alone, with the numbers of their rows; of X labels are read alone where the format allows."""
        inside = self.own_labels()
        if inside:
            pieces = self._aligned(self.x.select([], inside), rows, 0, ())
            yield from ((piece.labels, piece.chunk.index) for piece in pieces)
        else:
            yield from self._outside_only(rows)

    def _outside_only(self, rows: int) -> Iterator[tuple[list[Any], Index]]:
        streams = [labels.source.chunks(rows) for labels in self.labels if labels.source is not None]
        for chunks in zip_longest(*streams):
            self._check_together(chunks, [labels.spec for labels in self.labels])
            first, labels = self._read(chunks, self._used(chunks, ()), chunks[0])
            assert first is not None
            yield labels, first.index

    def _aligned(self, x: Source, rows: int, start: int, features: tuple[str, ...]) -> Iterator[Piece]:
        outside = [labels for labels in self.labels if labels.source is not None]
        self._check_lengths(outside)
        streams = [labels.source.chunks(rows, start=start) for labels in outside if labels.source is not None]
        for chunk, *others in zip_longest(x.chunks(rows, start=start), *streams):
            self._check_together([chunk, *others], [x.where, *(labels.spec for labels in outside)])
            theirs = iter(others)
            chunks = [chunk if labels.source is None else next(theirs) for labels in self.labels]
            end = chunk.first_row + len(chunk)
            kept, labels = self._read(chunks, self._used(chunks, features, chunk), chunk)
            if kept is not None and len(kept):
                yield Piece(kept, labels, end)

    def _used(self, chunks: Sequence[Chunk], features: Sequence[str], x: Chunk | None = None) -> Any:
        """Which rows are used, `(n,)`; None for all."""
        if self.missing is None:
            return None
        gaps = np.zeros(len(chunks[0] if x is None else x), bool)
        if x is not None and self.missing == "drop":
            gaps |= x.gaps(features)
        for chunk, labels in zip(chunks, self.labels, strict=True):
            inside = () if labels.column is None else (labels.column,)
            gaps |= chunk.gaps(labels.columns, inside)
        return None if not gaps.any() else ~gaps

    def _read(self, chunks: Sequence[Chunk], used: Any, x: Chunk | None = None) -> tuple[Chunk | None, list[Any]]:
        if used is not None:
            chunks, x = [chunk.keep(used) for chunk in chunks], None if x is None else x.keep(used)
        return x, [labels.of(chunk) for labels, chunk in zip(self.labels, chunks, strict=True)]

    def _check_lengths(self, outside: Sequence[Labels]) -> None:
        for labels in outside:
            rows = labels.source.rows if labels.source is not None else None
            if None not in (rows, self.x.rows) and rows != self.x.rows:
                raise InputError(
                    f"{labels.spec} has {rows} rows and {self.x.where} has {self.x.rows}: give one label for each row"
                )

    def _check_together(self, chunks: Sequence[Chunk | None], names: Sequence[str]) -> None:
        ends = [-1 if chunk is None else chunk.first_row + len(chunk) for chunk in chunks]
        if len(set(ends)) > 1:
            shorter, longer = names[ends.index(min(ends))], names[ends.index(max(ends))]
            raise InputError(f"{shorter} has fewer rows than {longer}: give one label for each row")
