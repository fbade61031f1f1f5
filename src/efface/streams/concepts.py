"""What a concept is in files: classes or quantities, learned from all labels, the same for every chunk."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface._errors import EffaceWarning, InputError
from efface.core.arrays import shared
from efface.core.labels import Decided, Kind, Tally, check_kind, read_column
from efface.streams.source import Index, row_of, shortened

_MOST_CLASSES = 1000


@dataclass(frozen=True)
class Concept:
    """What one concept was taken for.

    Attributes:
        name: Its column or file.
        kind: `"categorical"`, `"continuous"` or `"columns"` (several numbers a row).
        classes: The labels in sorted order, if categorical.
        width: How many columns of z it makes.
    """

    name: str
    kind: Decided
    classes: tuple[Any, ...] = ()
    width: int = 1

    def __str__(self) -> str:
        if self.kind == "categorical":
            return f"{self.name}: {len(self.classes)} classes ({shortened(self.classes, count=8)})"
        return f"{self.name}: continuous, {self.width} column{'s' * (self.width > 1)}"

    def encode(self, values: Any, index: Index) -> Tensor:
        """Class numbers `(n,)`, quantities `(n,)` or columns `(n, k)` of a chunk, whose rows have these numbers.

        Raises:
            InputError: If a label is not among the classes, or values are not as when it was learned.
        """
        if self.kind == "columns":
            return values
        column = read_column(values, self.name, kind=self.kind, index=index)
        if self.kind == "continuous":
            return shared(column.numbers())
        codes = column.codes(self.classes)
        wrong = np.flatnonzero(codes < 0)
        if wrong.size:
            row = int(wrong[0])
            raise InputError(
                f"{self.name} has the label {values[row]!s} in row {row_of(index, row)}, which the eraser does not "
                f"know: it was fitted on {shortened(self.classes, count=8)}"
            )
        return shared(codes)

    def columns(self, values: Any, index: Index) -> Tensor:
        """Columns of float64 `(n, width)`: one-hot for classes."""
        z = self.encode(values, index)
        if self.kind == "categorical":
            return torch.nn.functional.one_hot(z, self.width).double()
        return z.double().reshape(len(z), -1)


class Learner:
    """Finds out in one pass over the labels what a concept is."""

    def __init__(self, name: str, kind: str) -> None:
        self._name = name
        self._wanted: Kind = check_kind(kind)
        self.kind: Decided | None = None
        self._width = 1
        self._tally = Tally(name, self._wanted)

    def update(self, values: Any, index: Index) -> None:
        """Take in the labels of a chunk, whose rows have these numbers."""
        if values.ndim == 2:
            self._take_columns(values.shape[1])
            return
        # Of several concepts --kind continuous is about those that are numbers.
        wanted: Kind = "auto" if values.dtype.kind in "US" else self._wanted
        column = read_column(values, self._name, kind=wanted, index=index)
        self.kind = self.kind or column.kind
        self._tally.add(column.values, self.kind)
        self._check_count()

    def merge(self, other: Learner) -> None:
        """Take in what another one has learned of other rows of the same labels."""
        if None not in (self.kind, other.kind) and self.kind != other.kind:
            raise InputError(f"{self._name} is {self.kind} in some rows and {other.kind} in others: say which by kind=")
        self.kind, self._width = self.kind or other.kind, max(self._width, other._width)
        self._tally.merge(other._tally)
        self._check_count()

    def _take_columns(self, width: int) -> None:
        if self._wanted == "categorical":
            raise InputError(f"{self._name} has {width} columns: give one label a row for classes")
        self.kind, self._width = "columns", width

    def _check_count(self) -> None:
        if len(self._tally.classes) > _MOST_CLASSES:
            raise InputError(
                f"{self._name} has more than {_MOST_CLASSES} distinct values: write --kind continuous if it is a "
                "quantity, or merge classes"
            )

    def concept(self) -> Concept:
        """What it is.

        Raises:
            InputError: If there is one class only.
        """
        if self.kind is None:
            raise InputError(f"{self._name} has no rows: there is nothing to learn from")
        classes = tuple(sorted(self._tally.classes))
        if self.kind == "categorical" and len(classes) < 2:
            raise InputError(f"{self._name} has one class only ({shortened(classes)}): there is nothing to erase")
        with warnings.catch_warnings():
            warnings.simplefilter("always", EffaceWarning)  # A command has nobody but its user to say it to.
            self._tally.check()
        return Concept(self._name, self.kind, classes, len(classes) or self._width)


Some = tuple[Sequence[Any], Index]
"""Labels of each concept in some rows, and the numbers of these."""


def learn(names: Sequence[str], kind: str, chunks: Iterable[Some]) -> tuple[Concept, ...]:
    """What the concepts are; reads labels only as far as that needs."""
    return concepts_of(learned(names, kind, chunks), names, kind)


def learned(names: Sequence[str], kind: str, chunks: Iterable[Some]) -> list[Learner]:
    """What labels tell of each concept, read as far as that needs: to the end only if one has classes."""
    learners = [Learner(name, kind) for name in names]
    for values, index in chunks:
        for learner, part in zip(learners, values, strict=True):
            learner.update(part, index)
        if not any(learner.kind == "categorical" for learner in learners):
            break
    return learners


def concepts_of(learners: Sequence[Learner], names: Sequence[str], kind: str) -> tuple[Concept, ...]:
    """What all labels together say that the concepts are."""
    concepts = tuple(learner.concept() for learner in learners)
    if kind == "continuous" and [concept.kind for concept in concepts] == ["categorical"]:
        raise InputError(f"{names[0]} holds text: leave out --kind continuous, or convert it to numbers")
    return concepts


def joint(concepts: Sequence[Concept], values: Sequence[Any], index: Index) -> Tensor:
    """Z of a chunk: labels of the only concept, or the columns of several side by side.

    Args:
        concepts: What the labels are.
        values: Labels of each.
        index: Numbers of the rows.
    """
    if len(concepts) == 1:
        return concepts[0].encode(values[0], index)
    return torch.cat([c.columns(v, index) for c, v in zip(concepts, values, strict=True)], dim=1)


def joint_kind(concepts: Sequence[Concept]) -> str:
    """The `kind` of the fitter that takes what `joint` gives."""
    return concepts[0].kind if len(concepts) == 1 and concepts[0].kind != "columns" else "auto"
