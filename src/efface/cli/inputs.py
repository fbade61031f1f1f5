"""The user's files as pairs of X and labels, chunk by chunk: which columns are features, where the labels are."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_finite, did_you_mean
from efface.cli.options import Missing
from efface.streams import SUFFIXES, Chunk, Source, column_names, open_source, shortened, split_spec


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


def find_labels(spec: str, x: Source) -> Labels:
    """Labels in a column of X (`sex`), or in another file (`z.npy`, `z.npz:z`, `z.csv:sex`).

    Raises:
        InputError: If it is neither; the text lists the columns that there are.
    """
    names = column_names(x)
    if spec in names:
        return Labels(spec, spec)
    path, name = split_spec(spec)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"--concept {spec!r} is neither a column of {x.where} (it has {shortened(names, count=20)}) nor a file "
            f"({' '.join(SUFFIXES)}){did_you_mean(spec, names)}"
        )
    source = open_source(spec)
    if source.shape is not None:
        several = len(source.shape) == 2 and source.shape[1] > 1
        return Labels(spec, None, source, column_names(source)) if several else Labels(spec, "0", source)
    names = column_names(source)
    if name is None and len(names) > 1:
        raise InputError(f"{spec} has several columns ({shortened(names, count=20)}): choose one, {spec}:{names[0]}")
    column = name or next(iter(names))
    return Labels(spec, column, source.select([], [column]))


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
    missing: Missing | None = None
    means: Tensor | None = None

    def own_labels(self) -> list[str]:
        """The columns of X that are labels."""
        return [labels.column for labels in self.labels if labels.source is None and labels.column is not None]

    def numbers(self, chunk: Chunk, *, gaps: bool = False) -> Tensor:
        """The features of a chunk; what is missing is NaN if `gaps`, else what `missing` says.

        Raises:
            InputError: If a value is missing and nothing was said, or infinite.
        """
        x = chunk.numbers(self.features, gaps=gaps or self.means is not None)
        if gaps:
            return x
        if self.means is not None and x.shape[1] == len(self.means):
            x = torch.where(x.isnan(), self.means.to(x), x)
        check_finite(x, self.x.where, first_row=chunk.first_row)
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

    def labels_only(self, rows: int) -> Iterator[list[Any]]:
        """The labels alone; columns of X that are not labels are not read where the format allows."""
        inside = self.own_labels()
        if inside:
            yield from (piece.labels for piece in self._aligned(self.x.select([], inside), rows, 0, ()))
        else:
            yield from self._outside_only(rows)

    def _outside_only(self, rows: int) -> Iterator[list[Any]]:
        streams = [labels.source.chunks(rows) for labels in self.labels if labels.source is not None]
        for chunks in zip_longest(*streams):
            self._check_together(chunks, [labels.spec for labels in self.labels])
            yield self._read(chunks, self._used(chunks, ()))[1]

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


def split_names(text: str | None) -> list[str]:
    """Names separated by commas; a name that has a comma itself is put in double quotes.

    >>> split_names('age,"x, y"')
    ['age', 'x, y']
    """
    return next(csv.reader([text])) if text else []


def choose_features(x: Source, *, columns: str | None, exclude: str | None, labels: Sequence[str]) -> tuple[str, ...]:
    """The columns that are X: those asked for, or all that are neither excluded nor labels nor the rows' names.

    Raises:
        InputError: If one of them holds no numbers; the text says what to write instead.
    """
    _check_two_dimensional(x)
    wanted, left_out = split_names(columns), split_names(exclude)
    known = {column.name: column for column in x.columns}
    x.select([*wanted, *left_out], labels)
    both = sorted({*wanted} & {*labels, *left_out})
    if both:
        raise InputError(f"{', '.join(both)} cannot be in --columns and be a concept or in --exclude: choose one")
    plain = [name for name, column in known.items() if not column.is_index]
    found = wanted or [name for name in plain if name not in {*left_out, *labels}]
    _check_numbers(x, [name for name in found if known[name].kind == "other"], [*left_out])
    lists = [name for name in found if known[name].kind == "list"]
    if lists and not wanted and len(found) > 1:
        raise InputError(
            f"{x.where} has lists of numbers ({', '.join(lists)}) beside other columns "
            f"({shortened([n for n in found if n not in lists])}): choose with --columns {lists[0]}"
        )
    if not found:
        raise InputError(f"{x.where} has no columns left to erase from: it has {shortened(list(known), count=20)}")
    return tuple(found)


def _check_two_dimensional(x: Source) -> None:
    if x.shape is not None and len(x.shape) != 2:
        raise InputError(f"{x.where} has shape {x.shape}, expected (n, d): save array.reshape(-1, 1)")


def _check_numbers(x: Source, names: Sequence[str], left_out: Sequence[str]) -> None:
    if names:
        types = {column.name: column.type for column in x.columns}
        listed = shortened([f"{name} ({types[name]})" for name in names], count=20)
        line = ",".join(f'"{n}"' if "," in n else n for n in [*left_out, *names])
        raise InputError(f"{x.where} has columns that hold no numbers: {listed}: leave them out with --exclude {line}")
