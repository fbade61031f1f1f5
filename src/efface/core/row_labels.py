"""Labels of the rows that a fitter takes, on any device: what they are, decided once, and their columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface.core.arrays import Array, read_array, refuse_rows, shared
from efface.core.column_names import columns_of
from efface.core.labels import (
    COMPLETE,
    MANY_CLASSES,
    Column,
    Decided,
    Kind,
    Tally,
    check_complete,
    check_kind,
    decide,
    is_float,
    on_host,
    unknown_class,
)

_WIDEST_GUESS = 1000


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of rows, decided: what a fitter takes.

    Attributes:
        name: What to call them in messages.
        kind: `"categorical"` (one class a row), `"continuous"` (one number a row) or `"columns"` (several numbers a
            row: one-hot, multi-hot, or continuous).
        values: Classes or numbers `(...)`, or columns `(..., k)`. Classes are their own numbers, from 0.
        classes: What the numbers of the classes stand for, if they were numbered here.
        column_names: Names of the columns, where there are several and a table names them.
    """

    name: str
    kind: Decided
    values: Tensor
    classes: tuple[Any, ...] = ()
    column_names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def width(self) -> int:
        """How many columns they make: the number of classes, 1 for a quantity, or their own width.

        >>> Labels("z", "categorical", torch.tensor([0, 2, 1])).width
        3
        """
        if self.kind == "columns":
            return self.values.shape[-1]
        if self.kind == "continuous" or self.values.numel() == 0:
            return 1
        count = max(int(self.numbers.max()) + 1, 2, len(self.classes))
        if count > _WIDEST_GUESS and count > 10 * (found := len(self.numbers.unique())):
            raise InputError(
                f"{self.name} holds integers up to {count - 1} but only {found} distinct ones: number the classes with "
                f"numpy.unique({self.name}, return_inverse=True)[1], or pass kind='continuous'"
            )
        return count

    def columns(self, z_dim: int) -> Tensor:
        """Columns `(..., z_dim)`; classes become one-hot columns, or a single 0/1 column if `z_dim` is 1.

        Raises:
            InputError: If they do not go with `z_dim`; the text says what to write.

        >>> Labels("z", "categorical", torch.tensor([1, 0])).columns(2)
        tensor([[0, 1],
                [1, 0]])
        """
        if self.kind == "categorical":
            return _one_hot(self.numbers, z_dim, self.name)
        columns = self.values if self.kind == "columns" else self.values.unsqueeze(-1)
        if columns.shape[-1] != z_dim:
            raise InputError(
                f"{self.name} has {columns.shape[-1]} columns, expected {z_dim} (z_dim)"
                + (": pass integers if these are class labels" if self.kind == "continuous" else "")
            )
        return columns

    def check(self, kind: Kind, mask: Tensor | None = None) -> Labels:
        """The labels themselves, if they are what they look like; as `Column.check`.

        Args:
            kind: The user's word.
            mask: `(...)` booleans: labels that count.
        """
        few = self.kind == "categorical" and int(self.numbers.max() if self.values.numel() else 0) < MANY_CLASSES
        if self.kind == "columns" or self.classes or few or kind != "auto":
            return self
        values = self.values if self.kind == "continuous" else self.numbers
        tally = Tally(self.name, kind)
        tally.add(values.flatten() if mask is None else values[mask.to(values.device)], self.kind)
        tally.check()
        return self

    @cached_property
    def numbers(self) -> Tensor:
        """Classes as int64 `(...)`, checked."""
        values = self.values
        if values.is_complex():
            raise InputError(f"{self.name} holds complex numbers: pass integer class labels")
        if values.is_floating_point():
            check_complete(values.reshape(-1), self.name)
            if bool((values != values.round()).any()):
                raise InputError(f"kind='categorical', but {self.name} holds fractions: pass integer class labels")
        numbers = values.long()
        if numbers.numel() and int(numbers.min()) < 0:
            raise InputError(
                f"{self.name} has the negative class label {int(numbers.min())}: number classes from 0, and leave rows "
                "out by mask="
            )
        return numbers


def read_labels(
    z: Any,
    lead: tuple[int, ...],
    *,
    name: str = "z",
    kind: Kind = "auto",
    mask: Tensor | None = None,
    classes: Sequence[Any] = (),
) -> Labels:
    """What labels are, for rows of shape `lead`; labels that were decided before are taken as they are.

    Args:
        z: `(...)` one label a row, or `(..., k)` columns: any array-like, or what was read or decided of one.
        lead: Shape `(...)` of the rows.
        name: What to call them.
        kind: `"auto"`, or the user's word.
        mask: `(...)` booleans: rows that count; the labels of others do not matter. One that does not fit is left to
            whoever uses it to refuse.
        classes: What the numbers of the classes stand for, where that was decided in an earlier batch.

    Raises:
        InputError: If labels do not go with the rows, or are missing; the text says what to write.

    >>> read_labels(["f", "m"], (2,))
    Labels(name='z', kind='categorical', values=tensor([0, 1]), classes=('f', 'm'))
    >>> read_labels([2, -100], (2,), mask=torch.tensor([True, False])).values
    tensor([2, 0])
    """
    fits = mask is not None and tuple(mask.shape) == lead and mask.dtype == torch.bool
    chosen = mask if fits else None
    if isinstance(z, Labels):
        _check_lead(z.values, lead, z.name)
        return replace(z, values=_hide(z.values, chosen, lead))
    check_kind(kind)
    read = z if isinstance(z, Array) else read_array(z, name)
    _check_lead(read.values, lead, name)
    if read.is_named or classes:
        return _numbered(read, lead, name, kind, chosen, classes)
    values = _hide(_complete(read, name, chosen, lead), chosen, lead)
    if tuple(values.shape) not in (lead, (*lead, 1)):
        columns = values.reshape(*lead, -1) if values.numel() else values
        return Labels(name, "columns", columns, column_names=columns_of(z))
    return Labels(name, decide(values, kind, declared=read.declared), values.reshape(lead))


def _check_lead(values: NDArray[Any] | Tensor, lead: tuple[int, ...], name: str) -> None:
    if tuple(values.shape[: len(lead)]) != lead:
        raise InputError(
            f"{name} has shape {tuple(values.shape)}, expected {lead} or {(*lead, 'k')} to go with x of shape "
            f"{(*lead, 'd')}: give one label (or one row of columns) for each row of x"
        )


def _complete(read: Array, name: str, mask: Tensor | None, lead: tuple[int, ...]) -> Tensor:
    """The numbers, if none is missing in a row that counts."""
    values, missing = Array(read.values).tensor(name), read.missing
    # NaN and infinity show in the sum, in one pass.
    if missing is not None or (is_float(values) and not bool(values.sum().isfinite())):
        gaps = ~values.isfinite() if missing is None else shared(missing) | ~values.isfinite()
        rows = gaps.reshape(math.prod(lead), -1).any(1)
        counted = rows if mask is None else rows & mask.to(rows.device).flatten()
        refuse_rows(counted, f"{name} is missing, NaN or infinite (inf)", COMPLETE)
    return values


def _numbered(
    read: Array, lead: tuple[int, ...], name: str, kind: Kind, mask: Tensor | None, classes: Sequence[Any]
) -> Labels:
    """Text (or what earlier batches had numbered) as numbers of classes in sorted order."""
    values = on_host(read.values)
    if kind == "continuous":
        return Labels(name, kind, _complete(read, name, mask, lead).reshape(lead))
    if tuple(values.shape) not in (lead, (*lead, 1)):
        raise InputError(f"{name} has names of classes in shape {values.shape}, expected one a row, {lead}")
    values = values.reshape(lead)
    used = np.ones(lead, bool) if mask is None else mask.cpu().numpy()
    check_complete(values[used], name, None if read.missing is None else read.missing.reshape(lead)[used])
    column = Column(None, name, values[used], "categorical", kind)
    known = tuple(classes) or column.check().classes()
    codes = column.codes(known)
    if (codes < 0).any():
        raise InputError(unknown_class(column, codes, known))
    numbers = np.zeros(lead, np.int64)
    numbers[used] = codes
    return Labels(name, "categorical", shared(numbers), known)


def _hide(z: Tensor, mask: Tensor | None, lead: tuple[int, ...]) -> Tensor:
    """Labels with those of rows that the mask leaves out set to 0, so that an ignore index is no error."""
    if mask is None or is_float(z):
        return z
    return torch.where(mask.to(z.device).reshape(*lead, *(1,) * (z.ndim - len(lead))), z, torch.zeros_like(z))


def _one_hot(labels: Tensor, z_dim: int, name: str) -> Tensor:
    highest = int(labels.max()) if labels.numel() else 0
    if highest >= max(z_dim, 2):
        raise InputError(
            f"{name} has the class label {highest}, but there is room for {max(z_dim, 2)} classes (z_dim={z_dim}): "
            f"make the fitter with z_dim={highest + 1}, or pass kind='continuous' if {name} is a quantity"
        )
    if z_dim == 1:
        return labels.unsqueeze(-1)
    return torch.nn.functional.one_hot(labels, z_dim)
