"""Labels as an audit sees them: classes or numbers, decided once and said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_finite, to_tensor

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
        """Read labels: integers, booleans and text are classes, floats are numbers; `kind` overrides.

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
        array = z.detach().cpu().numpy() if isinstance(z, Tensor) else np.asarray(z)
        decided = kind or ("continuous" if array.dtype.kind == "f" else "categorical")
        if decided == "categorical":
            return cls._categorical(array, name, classes)
        return cls._continuous(array, name)

    @classmethod
    def _categorical(cls, array: NDArray[Any], name: str, names: tuple[str, ...] | None) -> Labels:
        if array.ndim != 1:
            raise InputError(f"{name} has shape {array.shape}: classes must be one label a row, (n,)")
        if array.dtype.kind == "f":
            check_finite(torch.from_numpy(array.astype(np.float64)), name)
        found, codes = np.unique(array, return_inverse=True)
        if len(found) < _FEW:
            raise InputError(f"{name} has {len(found)} class(es): an audit needs rows of at least two")
        if names is not None and len(names) != len(found):
            raise InputError(f"{name} has {len(found)} classes, but {len(names)} names were given for them")
        return cls(name, "categorical", codes.astype(np.int64), names or tuple(str(v) for v in found))

    @classmethod
    def _continuous(cls, array: NDArray[Any], name: str) -> Labels:
        values = to_tensor(array, name).to(torch.float64)
        if values.ndim not in (1, 2):
            raise InputError(f"{name} has shape {array.shape}: numbers must be (n,) or (n, k)")
        values = values.reshape(len(values), -1)
        check_finite(values, name)
        if len(values) == 0 or bool((values == values[:1]).all(dim=0).any()):
            raise InputError(f"{name} has a constant column or no rows: there is nothing to read")
        return cls(name, "continuous", values.numpy())

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
        chosen = torch.from_numpy(self.values[rows])
        return chosen[:, 0] if chosen.ndim > 1 and chosen.shape[1] == 1 else chosen
