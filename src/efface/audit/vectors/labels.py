"""Labels as an audit sees them: classes or numbers, decided once and said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface.core.doors import check_call
from efface.core.labels import Column, read_column

Kind = Literal["categorical", "continuous"]
_FEW = 2


@dataclass(frozen=True)
class Labels:
    """Labels of `n` rows.

    Attributes:
        name: What to call them on the page.
        kind: `"categorical"` or `"continuous"`.
        values: Class indices `(n,)` int64, or numbers `(n, k)` float64.
        classes: Names of the classes; empty if continuous.
    """

    name: str
    kind: Kind
    values: NDArray[Any]
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, z: Any, name: str, *, kind: Kind | None = None, classes: tuple[str, ...] | None = None) -> Labels:
        """Read labels: integers, booleans, text and categories are classes, floats are numbers; `kind` overrides.

        Args:
            z: Classes `(n,)`, or numbers `(n,)` or `(n, k)`: array, tensor or sequence.
            name: What to call them.
            kind: To override what the dtype says.
            classes: Names of the classes in the order of their sorted labels.

        Raises:
            InputError: If there is one class only, a constant, NaN, or more than one column of classes.

        >>> Labels.of(["nurse", "poet", "nurse"], "job")
        Labels(name='job', kind='categorical', values=array([0, 1, 0]), classes=('nurse', 'poet'))
        """
        check_call(Labels.of, locals())
        column = read_column(z, name, kind=kind or "auto")
        return cls._categorical(column, classes) if column.kind == "categorical" else cls._continuous(column)

    @classmethod
    def _categorical(cls, column: Column, names: tuple[str, ...] | None) -> Labels:
        name = column.label
        if column.values.ndim != 1:
            raise InputError(f"{name} has shape {column.values.shape}: classes must be one label a row, (n,)")
        found = column.classes()
        if len(found) < _FEW:
            raise InputError(f"{name} has {len(found)} class(es): an audit needs rows of at least two")
        if names is not None and len(names) != len(found):
            raise InputError(f"{name} has {len(found)} classes, but {len(names)} names were given for them")
        codes = column.check().codes(found)
        return cls(name, "categorical", codes, names or tuple(str(v) for v in found))

    @classmethod
    def _continuous(cls, column: Column) -> Labels:
        name, values = column.label, column.numbers()
        if values.ndim not in (1, 2):
            raise InputError(f"{name} has shape {values.shape}: numbers must be (n,) or (n, k)")
        if values.ndim == 1:
            column.check()
        values = values[:, None] if values.ndim == 1 else values
        if len(values) == 0 or bool((values == values[:1]).all(axis=0).any()):
            raise InputError(f"{name} has a constant column or no rows: there is nothing to read")
        return cls(name, "continuous", values)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_categorical(self) -> bool:
        """Whether the labels are classes."""
        return self.kind == "categorical"

    def columns(self) -> NDArray[np.float64]:
        """One-hot columns `(n, classes)`, or the numbers `(n, k)`."""
        return np.eye(len(self.classes))[self.values] if self.is_categorical else self.values

    def tensor(self, rows: NDArray[np.int64]) -> Tensor:
        """What a fitter is given: classes `(m,)` int64, numbers `(m,)` or `(m, k)` float64."""
        check_call(Labels.tensor, locals())
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or not ((rows >= 0) & (rows < len(self))).all():
            raise InputError(f"rows are {rows.dtype} of shape {rows.shape}: expected numbers of rows below {len(self)}")
        chosen = torch.from_numpy(self.values[rows])
        return chosen[:, 0] if chosen.ndim > 1 and chosen.shape[1] == 1 else chosen
