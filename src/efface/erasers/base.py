"""What every eraser has in common: a frozen value made of tensors, with files, modules and a report."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import shown
from efface._validate import to_tensor
from efface.core.arrays import check_real, dense, is_reckoned, refuse_class
from efface.core.column_names import check_columns, check_same_rows
from efface.core.doors import check_call
from efface.core.edits import Edit, OnRows
from efface.core.erasure import Erasure
from efface.core.row_labels import read_labels
from efface.core.saved_types import saved


@saved
@dataclass(frozen=True)
class Report:
    """What a fit found and did, as plain data.

    Attributes:
        method: Name in the registry.
        kind: What z was taken for: `"categorical"`, `"continuous"`, `"one-hot"` or other `"columns"`.
        n: Rows seen.
        rank: Rank of the edit; 0 means that nothing is erased.
        correlations: Canonical correlations of x and z that were erased, descending.
        dropped: Those left alone because they are within rounding (or under `svd_tol`).
        residual: Largest correlation of any feature with any concept column left after the edit, as stored, in the
            rows of the fit. What is left in others is what an audit of them measures.
        edit: Relative size of the edit, `E|x' - x|^2` of the rows seen over their total variance; None if sigma_xx was
            not kept.
        x_rank: Numerical rank of sigma_xx; None if it was not kept.
        route: How sigma_xx was factored: `"cholesky"` or `"eigh"` (singular); None if it was not.
        shrinkage: Weight of the target in the shrunk covariance, 0 to 1.
        classes: What the numbers of the classes stand for, where z was text.
    """

    method: str
    kind: str
    n: int
    rank: int
    correlations: tuple[float, ...] = ()
    dropped: tuple[float, ...] = ()
    residual: float | None = None
    edit: float | None = None
    x_rank: int | None = None
    route: str | None = None
    shrinkage: float = 0.0
    classes: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Eraser(Erasure):
    """Base of all erasers of rows: a frozen dataclass whose fields are tensors, and a report. It is called.

    `on(module)` erases from what a module gives, until it is taken off again.

    Attributes:
        columns: Names of the columns of x in the fit; empty if it had none. A table with others, or with the same in
            another order, is refused.
        label_columns: The same of labels with several columns.
    """

    report: Report | None = field(default=None, kw_only=True, repr=False)
    columns: tuple[str, ...] = field(default=(), kw_only=True, repr=False)
    label_columns: tuple[str, ...] = field(default=(), kw_only=True, repr=False)

    takes_labels: ClassVar[bool] = False
    """Whether it is called as `eraser(x, z)`."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors it is made of, by name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in values.items() if isinstance(v, Tensor)}

    def __call__(self, x: Any, *z: Any) -> Any:
        """Erase; see the subclass."""
        raise TypeError(f"{type(self).__name__} does not define how it is applied")

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The rows that a module gives."""
        if self.takes_labels:
            raise InputError(
                f"{type(self).__name__} needs the labels of the rows that it erases from, which a module does not "
                "have: call it, erased = eraser(x, z)"
            )
        return (OnRows(self),)

    def erased(self, apply: Callable[[Tensor], Tensor], x: Any, z: Any = None) -> Any:
        """What a function of a tensor makes of rows, in the same sort of container: a tensor, or an array.

        Args:
            apply: The function.
            x: Rows `(..., d)`.
            z: Their labels, for erasers that take them.

        Raises:
            InputError: If x or z have other columns than in the fit, or are not of the same rows.
        """
        if not callable(apply) or isinstance(apply, type):
            raise InputError(f"apply is {shown(apply)}: write a function of a tensor")
        refuse_class(z, "z")
        if getattr(z, "ndim", 0) > 1:
            check_columns(self.label_columns, z, "z", whose="eraser.label_columns")
        if isinstance(x, Tensor):
            self._check_beside(x)
            return apply(x if is_reckoned(x) or x.is_meta else dense(x, "x"))
        check_columns(self.columns, x)
        check_same_rows(x=x, z=z)
        return np.asarray(apply(to_tensor(x, "x")))

    def _check_beside(self, x: Tensor) -> None:
        """Refuse rows that are elsewhere than the eraser, or stand-ins where it is none."""
        if torch.compiler.is_compiling():
            return
        for own in self.tensors().values():
            if own.device != x.device:
                raise InputError(
                    f"x is on {x.device}, the eraser on {own.device}: write eraser.to({str(x.device)!r}), "
                    f"or x.to({str(own.device)!r})"
                )
            if type(own) is Tensor and not getattr(getattr(x, "fake_mode", None), "allow_non_fake_inputs", True):
                check_real(x, "x")

    def class_numbers(self, x: Tensor, z: Any) -> Any:
        """Labels z of rows x `(..., d)` as they are, or as numbers of the classes that the fit found in text."""
        if self.report is None or not self.report.classes:
            return z
        return read_labels(z, tuple(x.shape[:-1]), classes=self.report.classes)

    def to_module(self) -> EraserModule:
        """An `nn.Module` with the tensors as buffers, to put inside a network."""
        return EraserModule(self)

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A file of format 1: tensors by the names of their fields, optional ones left out."""
        plain, tensors = super().upgraded(plain, tensors)
        names = {f.name for f in dataclasses.fields(cls) if not f.kw_only}
        report = plain.get("report") or {}
        method = {"method": report["method"]} if isinstance(report, Mapping) and "method" in report else {}
        return {**{name: None for name in names if name not in plain}, **method, **plain}, tensors


def check_shapes(eraser: Eraser, **shapes: tuple[str, ...]) -> None:
    """Refuse tensors that do not go together.

    Args:
        eraser: Whose.
        **shapes: Field -> the letters of its dimensions; a letter stands for one number.

    Raises:
        InputError: If two fields disagree about a letter.
    """
    found: dict[str, int] = {}
    for name, letters in shapes.items():
        value = getattr(eraser, name)
        if value is None:
            continue
        if value.ndim != len(letters) or any(
            found.setdefault(k, n) != n for k, n in zip(letters, value.shape, strict=True)
        ):
            raise InputError(
                f"{name} has shape {tuple(value.shape)}, expected ({', '.join(letters)}) with "
                f"{', '.join(f'{k} = {n}' for k, n in found.items()) or 'any numbers'}"
            )
        if value.itemsize == 1 or not (value.is_floating_point() or value.is_complex()):
            raise InputError(f"{name} holds {value.dtype}, expected real or complex numbers")


class EraserModule(nn.Module):
    """An eraser inside a network: its tensors are buffers, `forward` applies it."""

    def __init__(self, eraser: Eraser) -> None:
        check_call(EraserModule.__init__, locals())
        super().__init__()
        self._type = type(eraser)
        kinds = [each.kind for each in inspect.signature(eraser).parameters.values()]
        self._taken = None if inspect.Parameter.VAR_POSITIONAL in kinds else len(kinds)
        self._names = tuple(eraser.tensors())
        rest = (f.name for f in dataclasses.fields(eraser) if f.name not in self._names)
        self._rest: dict[str, Any] = {name: getattr(eraser, name) for name in rest}
        for name, tensor in eraser.tensors().items():
            self.register_buffer(name, tensor.clone())

    @property
    def eraser(self) -> Eraser:
        """The eraser as a value, with the present buffers."""
        return self._type(**self._rest, **{name: getattr(self, name) for name in self._names})

    def forward(self, x: Tensor, *z: Tensor) -> Tensor:
        """Erase the concept from `x` `(..., d)`; oracle-type erasers take `z` too."""
        if self._taken not in (None, 1 + len(z)):
            raise InputError(f"{self._type.__name__} takes {self._taken} values, x first: {1 + len(z)} were given")
        return self.eraser(x, *z)

    def extra_repr(self) -> str:
        """The type of eraser and the shapes of its tensors."""
        shapes = ", ".join(f"{n}={tuple(getattr(self, n).shape)}" for n in self._names)
        return f"{self._type.__name__}({shapes})"


def eraser_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the tensors of an eraser for data of that dtype: at least float32."""
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"dtype={shown(dtype)}: write a dtype of torch, such as torch.float32")
    if dtype.is_floating_point or dtype.is_complex:
        return torch.promote_types(dtype, torch.float32)
    return torch.float32
