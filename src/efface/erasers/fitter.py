"""What every fitter on moments of (x, z) has in common: streaming, merging, state, and one solve when asked."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from efface._errors import EffaceWarning, FormatError, InputError
from efface._io import load_folder, reading, save_folder
from efface._text import shown
from efface._validate import check_device, check_positive_int, to_tensor
from efface.core.arrays import is_finite, is_plain
from efface.core.codec import decoded, dtype_of, fields_of, warn_unknown
from efface.core.collective import Group, same_in_all, warn_of_same
from efface.core.column_names import check_same_rows, columns_of, compare_columns, joint_columns
from efface.core.config import Config
from efface.core.doors import check_call
from efface.core.hashing import feed
from efface.core.labels import Kind, check_kind
from efface.core.row_labels import Labels, read_labels
from efface.erasers.base import Eraser, Report, eraser_dtype
from efface.moments.state import as_state
from efface.moments.streaming import Moments

_LEFT = 1e-2
"""A correlation with the concept that may be left without a word."""

ADVICE = "subtract the mean of each column and divide it by its spread first, or write dtype=torch.float64"
_DECISIONS = (None, "categorical", "continuous", "columns")


class Fitter:
    """Base of the fitters that stand on `Moments` of (x, z).

    Args:
        x_dim: Width of x.
        z_dim: Width of z: number of classes (1 will do for two classes 0/1), or of columns.
        kind: What z is: `"auto"` (integers and booleans are classes, floats are quantities),
            `"categorical"` or `"continuous"`.
        device: Where statistics live.
        dtype: Dtype of the erasers (float32 by default); float64 also forms all products in float64.

    Attributes:
        columns: Names of the columns of x, if it comes as tables; those of each batch must be the same.
        label_columns: The same of labels with several columns.
    """

    method: str
    config_type: ClassVar[type[Config]] = Config
    second: Literal["full", "diag"] = "full"
    by_class: ClassVar[bool] = False
    """Whether sums are kept for each class, so that nothing of them is the same for another concept."""

    of: str = "z"
    """What to call the concept in messages."""

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        kind: Kind = "auto",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.x_dim, self.z_dim = check_positive_int(x_dim, "x_dim"), check_positive_int(z_dim, "z_dim")
        self.kind: Kind = check_kind(kind)
        self.dtype = eraser_dtype(torch.get_default_dtype() if dtype is None else dtype)
        self.decided: str | None = None
        self.classes: tuple[Any, ...] = ()
        self.columns: tuple[str, ...] = ()
        self.label_columns: tuple[str, ...] = ()
        self.moments = self._new_moments(device, self._sums)
        self.unknown: dict[str, Any] = {}
        self._eraser: Eraser | None = None
        options = self.config
        for name in options.names():
            setattr(self, name, getattr(options, name))

    @property
    def _sums(self) -> torch.dtype:
        """In what sums are kept."""
        return torch.complex128 if self.dtype.is_complex else torch.float64

    def _new_moments(self, device: str | torch.device | None, dtype: torch.dtype) -> Any:
        least = torch.float64 if self.dtype in (torch.float64, torch.complex128) else torch.float32
        return Moments(self.x_dim, self.z_dim, second=self.second, device=device, dtype=dtype, least=least)

    def options(self) -> dict[str, Any]:
        """Constructor arguments beyond the dimensions, as plain data (but `dtype`)."""
        return {"kind": self.kind, "dtype": str(self.dtype)[6:]}

    @property
    def config(self) -> Config:
        """The options, as the erasers keep them."""
        own = {name: getattr(self, name) for name in self.config_type.names()}
        return self.config_type(**own, unknown=self.unknown)

    # ---------------------------------------------------------------------------------------- gathering

    @classmethod
    def fit(cls, x: Any, z: Any, *, mask: Any = None, weight: Any = None, **options: Any) -> Self:
        """Make a fitter for this data and update it once.

        Args:
            x: `(..., d)` numbers.
            z: `(...)` class labels or quantities, or `(..., k)` columns.
            mask: `(...)` booleans: rows to take.
            weight: `(...)` frequencies.
            options: Arguments of the constructor.
        """
        return cls._fitted(x, z, None, mask, weight, options)

    @classmethod
    def _fitted(cls, x: Any, z: Any, width: int | None, mask: Any, weight: Any, options: dict[str, Any]) -> Self:
        """`fit` with so many classes or columns; None takes as many as the labels make."""
        check_same_rows(x=x, z=z, mask=mask, weight=weight)
        columns = columns_of(x)
        x, mask, weight = to_tensors(x, mask, weight)
        if x.ndim == 0 or x.numel() == 0:
            raise InputError(f"x has shape {tuple(x.shape)}: there is nothing to fit on")
        labels = read_labels(z, tuple(x.shape[:-1]), kind=options.get("kind", "auto"), mask=mask)
        given = {"device": x.device, "dtype": eraser_dtype(x.dtype)} | options
        fitter = cls(x.shape[-1], labels.width if width is None else width, **given)
        fitter._take(x, labels, mask, weight)
        fitter.columns = columns
        if not isinstance(z, Labels):
            labels.check(fitter.kind, mask)
        return fitter

    def update(self, x: Any, z: Any, *, mask: Any = None, weight: Any = None) -> Self:
        """Take in a batch; on any error the statistics are as they were before the call.

        Args:
            x: `(..., d)` numbers on any device.
            z: `(...)` class labels or quantities, or `(..., k)` columns.
            mask: `(...)` booleans: rows to take.
            weight: `(...)` frequencies, not negative.
        """
        check_same_rows(x=x, z=z, mask=mask, weight=weight)
        columns = self._columns_with(x)
        x, mask, weight = to_tensors(x, mask, weight)
        labels = read_labels(z, tuple(x.shape[:-1]), kind=self.kind, mask=mask, classes=self.classes)
        first = self.decided is None
        self._take(x, labels, mask, weight)
        self.columns = columns
        if first and labels.kind == "continuous" and not isinstance(z, Labels):
            labels.check(self.kind, mask)
        return self

    def _columns_with(self, x: Any) -> tuple[str, ...]:
        """Names of the columns of x, this batch included."""
        return joint_columns(self.columns, x, first=self.decided is None)

    def _take(self, x: Tensor, labels: Labels, mask: Tensor | None, weight: Tensor | None) -> None:
        """Add rows whose labels are decided."""
        columns = labels.columns(self.z_dim)
        self._check_as_before(labels)
        self.moments.update_tensors(x, columns, mask, weight)
        self._remember(labels)

    def _check_as_before(self, labels: Labels) -> None:
        now = labels.kind
        if self.decided not in (None, now):
            raise InputError(
                f"{self.of} was {self.decided} in earlier batches and is {now} now: pass kind= to the fitter"
            )
        if self.decided is not None and labels.classes != self.classes:
            raise InputError(
                f"{self.of} holds text now and held class numbers in earlier batches: pass the same in all"
            )
        if self.label_columns and labels.column_names:
            advice = f"write {self.of}[list(fitter.label_columns)]"
            compare_columns(self.label_columns, labels.column_names, self.of, advice=advice)

    def _remember(self, labels: Labels) -> None:
        self.decided, self.classes, self._eraser = labels.kind, labels.classes, None
        self.label_columns = self.label_columns or labels.column_names

    def merge(self, other: Fitter) -> Self:
        """Take in all that `other`, a fitter of the same type and options, has seen."""
        self.check_merging(other)
        self.moments.merge(other.moments)
        self._told(other.decided, other.classes, other.columns, other.label_columns)
        return self

    def check_merging(self, other: Fitter) -> None:
        """Refuse a fitter of another type, with other options, or that took its concept or columns for others."""
        if type(other) is not type(self) or other.options() != self.options():
            said = f"{other!r}" if isinstance(other, Fitter) else shown(other)
            raise InputError(f"cannot merge {said} into {self!r}: type and options must agree")
        if None not in (self.decided, other.decided):
            if self.decided != other.decided:
                raise InputError(
                    f"{self.of} was {self.decided} here and {other.decided} there: pass kind= to both fitters"
                )
            if self.classes != other.classes:
                raise InputError(
                    f"{self.of} has the classes {self.classes} here and {other.classes} there: number them alike before"
                )
        for name in ("columns", "label_columns"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine and theirs:
                compare_columns(mine, theirs, "x of the other" if name == "columns" else f"{self.of} of the other")

    def _told(
        self, decided: str | None, classes: Sequence[Any], columns: Sequence[str], label_columns: Sequence[str]
    ) -> None:
        """Take over what another one knows of its labels and columns, where nothing is known here."""
        self.decided, self._eraser = self.decided or decided, None
        self.classes, self.columns = self.classes or tuple(classes), self.columns or tuple(columns)
        self.label_columns = self.label_columns or tuple(label_columns)

    def all_reduce(self, group: Any = None) -> Self:
        """Have what the fitters of all processes of a group have seen together, exactly, however the rows are spread.

        All processes call it, each with its own fitter of the same type and options; one that has seen no row counts as
        nothing. Afterwards each has the same statistics, bit for bit, and the same eraser; only one of them is to be
        merged or reduced again, or rows count twice.

        Args:
            group: Of torch.distributed; None is all processes.

        Raises:
            InputError: If there is no group, or fitters differ in what they are or in what they took z for; in each
                process alike, and nothing has changed.
            GroupError: If another process has died, or does not answer within the group's timeout; nothing has
                changed.
        """
        over = Group(group)
        about = {"type": type(self).__name__, "x_dim": self.x_dim, "z_dim": self.z_dim}
        told = over.told({**about, "options": self.options(), "seen": self._seen, **self.knows()})
        for name in (*about, "options"):
            same_in_all(told, name, "make the same fitter in all processes")
        known = agreed(told)
        warn_of_same([each["seen"] for each in told], "seen the same rows")
        state = over.merged(self.moments, self._blank_moments)
        self.load_state_dict(state | {"decided": torch.tensor(_DECISIONS.index(self.decided))})
        self._told(*known)
        return self

    @property
    def _seen(self) -> str:
        """A mark of the rows seen, that others hardly have; of none it is empty."""
        state, total = self.moments.state_dict(), hashlib.sha256()
        for name in ("n", "weight", "origin_x", "sum_x", "sum_z"):
            feed(total, state[name])
        return total.hexdigest() if bool(state["n"].any()) else ""

    def knows(self) -> dict[str, Any]:
        """What it took its labels and columns for, as plain data."""
        names = ("classes", "columns", "label_columns")
        return {"decided": self.decided, **{name: list(getattr(self, name)) for name in names}}

    def copy(self) -> Self:
        """An independent fitter with the same statistics."""
        new = self._blank().load_state_dict(self.state_dict())
        new.classes, new.unknown = self.classes, self.unknown
        new.columns, new.label_columns = self.columns, self.label_columns
        return new

    def __add__(self, other: Fitter) -> Self:
        return self.copy().merge(other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(x_dim={self.x_dim}, z_dim={self.z_dim}, n={self.moments.n}, {self.options()})"

    # ------------------------------------------------------------------------------------------ reading

    @property
    def n(self) -> Tensor:
        """Number of rows seen, an int64 scalar."""
        return torch.tensor(self.moments.n, device=self.moments.device)

    @property
    def mean_x(self) -> Tensor:
        """`(d,)` mean of x."""
        return self.moments.mean_x.to(self.dtype)

    @property
    def mean_z(self) -> Tensor:
        """`(k,)` mean of z."""
        return self.moments.mean_z.to(self.dtype)

    @property
    def sigma_xz(self) -> Tensor:
        """`(d, k)` unbiased cross-covariance."""
        return (self.moments.scatter_xz / self.moments.degrees_of_freedom()).to(self.dtype)

    @property
    def sigma_xz_(self) -> Tensor:
        """`(d, k)` cross-scatter: the cross-covariance times n - 1."""
        return self.moments.scatter_xz.to(self.dtype)

    @property
    def eraser(self) -> Any:
        """The eraser for what was seen so far; solved when first asked for, then kept until the next update."""
        if self._eraser is None:
            # Not in inference mode either: tensors made there could not serve in training.
            with torch.inference_mode(False), torch.no_grad():
                self._eraser = self._checked(self._with_names(self._solved()))
        return self._eraser

    def _solved(self) -> Eraser:
        try:
            return self._solve()
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise InputError(
                f"the sums have no solution ({f'{error}'.partition(':')[0]}): values are too large or too small beside "
                f"each other, {ADVICE}"
            ) from error

    def _checked(self, eraser: Eraser) -> Eraser:
        """The eraser, if its numbers can be used; what it leaves is said, and not left to whoever reads reports."""
        if bad := next((name for name, value in eraser.tensors().items() if not is_finite(value)), None):
            raise InputError(f"{bad} overflows {self.dtype}, as x varies by too little or too much: {ADVICE}")
        report, wanted = eraser.report, getattr(self, "svd_tol", None) or 0.0
        left = None if report is None or report.rank == 0 else report.residual
        concept = "the concept" if self.of == Fitter.of else self.of
        if left is not None and left > max(_LEFT, 2 * wanted) and not self._leaves_some:
            warnings.warn(
                f"a correlation of {left:.2g} with {concept} is left by the eraser as it is stored in {self.dtype}: "
                f"values lie too far from zero, or columns too far apart in size, {ADVICE}",
                EffaceWarning,
                stacklevel=3,
            )
        return eraser

    @property
    def _leaves_some(self) -> bool:
        """Whether some of the concept is left on purpose."""
        return False

    def note(self, provenance: Mapping[str, Any]) -> Self:
        """Have the eraser say where it comes from, until something is added to the fitter."""
        check_call(Fitter.note, locals())
        self._eraser = replace(self.eraser, provenance=dict(provenance))
        return self

    @property
    def decision(self) -> str:
        """What z was taken for: `"categorical"`, `"continuous"`, `"one-hot"` or `"columns"`."""
        if self.decided != "columns" or self.z_dim == 1:
            return self.decided or "columns"
        mean, n = self.moments.mean_z, max(self.moments.weight, 1e-300)
        second = self.moments.scatter_zz / n + torch.outer(mean.conj(), mean)
        # One-hot rows have z_i z_j = 0 and z_i^2 = z_i, and sum to one.
        exact = torch.allclose(second, torch.diag(mean), rtol=0, atol=1e-9)
        return "one-hot" if exact and abs(complex(mean.sum()) - 1) < 1e-9 else "columns"

    @property
    def report(self) -> Report:
        """What the fit found and did."""
        return self.eraser.report

    def _covariances(self) -> tuple[Tensor, Tensor, float]:
        """Unbiased `sigma_xz` and `sigma_zz` in float64, and their divisor; refuses a z that never varies."""
        freedom = self.moments.degrees_of_freedom()
        sigma_zz = self.moments.scatter_zz / freedom
        if not bool((sigma_zz.diagonal().real > 0).any()):
            raise InputError(
                f"{self.of} has the same value in all {self.moments.n} rows, so there is no concept to erase: "
                "fit on rows of at least two classes"
            )
        return self.moments.scatter_xz / freedom, sigma_zz, freedom

    def _with_names(self, eraser: Any) -> Any:
        """With the names of columns, and in its report those of the classes, if the fitter numbered them."""
        report = eraser.report
        if self.classes and report is not None:
            report = replace(report, classes=self.classes)
        return replace(eraser, report=report, columns=self.columns, label_columns=self.label_columns)

    def _solve(self) -> Eraser:
        raise TypeError(f"{type(self).__name__} does not define how it is solved")

    # -------------------------------------------------------------------------------------------- files

    def state_dict(self) -> dict[str, Tensor]:
        """All that was gathered, as tensors."""
        return self.moments.state_dict() | {"decided": torch.tensor(_DECISIONS.index(self.decided))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Go on from what `state_dict` returned, bit for bit.

        Raises:
            FormatError: If it is something else.
        """
        decided = _decided(state)
        self.moments.load_state_dict(state)
        self.decided, self._eraser = decided, None
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write statistics and options to a folder, atomically, to go on from later."""
        save_folder(path, *self.saved())

    def saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `save` writes: plain data and tensors."""
        config = {
            "type": type(self).__name__,
            "x_dim": self.x_dim,
            "z_dim": self.z_dim,
            "options": {**self.unknown, **self.options()},
            "classes": list(self.classes),
            "columns": list(self.columns),
            "label_columns": list(self.label_columns),
        }
        return config, self.state_dict()

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Self:
        """Read what `save` wrote; further updates give the same result as if there had been no interruption.

        Options that the file lacks take their default; those of a newer version are kept, with a warning.
        """
        config, tensors = load_folder(path, expect=cls.__name__)
        device = check_device(device)
        with reading(path):
            return cls._read(config, tensors, device, f"the fit in {os.fspath(path)}")

    @classmethod
    def _read(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device, where: str) -> Self:
        x_dim, z_dim, given = fields_of(config, x_dim=int, z_dim=int, options=dict[str, Any])
        hints = {**cls.config_type.hints(), "dtype": str, "kind": str, "method": str}
        names = cls(1, 1).options()
        options = {name: decoded(given[name], {}, hints.get(name, Any), name) for name in names if name in given}
        if "dtype" in options:
            options["dtype"] = dtype_of(options["dtype"])
        _check_size(tensors, x_dim, z_dim)
        new = cls(x_dim, z_dim, device=device, **options).load_state_dict(tensors)
        if unknown := {name: value for name, value in given.items() if name not in names}:
            warn_unknown(where, unknown, kept=True)
        new.classes, new.unknown = _names_of_classes(config.get("classes", [])), unknown
        for name in ("columns", "label_columns"):
            setattr(new, name, decoded(config.get(name, []), {}, tuple[str, ...], name))
        return new

    def _blank_moments(self) -> Any:
        return self._new_moments(self.moments.device, self._sums)

    def _blank(self) -> Self:
        options: dict[str, Any] = self.options() | {"dtype": self.dtype}
        return type(self)(self.x_dim, self.z_dim, device=self.moments.device, **options)


def agreed(told: Sequence[Mapping[str, Any]]) -> tuple[str | None, list[Any], list[str], list[str]]:
    """What the fitters of all processes took labels and columns for, of what each `knows`.

    Raises:
        InputError: If two differ, in every process alike.
    """
    decided = same_in_all(told, "decided", "pass kind= to the fitters", some=True)
    classes = same_in_all(told, "classes", "number them alike before", some=True)
    columns, labels = (
        same_in_all(told, name, "pass the same columns in the same order in all processes", some=True)
        for name in ("columns", "label_columns")
    )
    return decided, classes, columns, labels


def _decided(state: Any) -> str | None:
    value = as_state(state).get("decided")
    if not (isinstance(value, Tensor) and is_plain(value) and value.shape == () and not value.is_complex()):
        raise FormatError("state lacks decided: expected what state_dict() returned")
    if value not in range(len(_DECISIONS)):
        raise FormatError(f"state has {value.item()} for decided, which stands for nothing")
    return _DECISIONS[int(value)]


def _check_size(tensors: Mapping[str, Tensor], x_dim: int, z_dim: int) -> None:
    """Refuse a size that a file claims and its sums do not have, before anything is made of it."""
    sums = tensors.get("sum_x"), tensors.get("sum_z"), tensors.get("n")
    if any(value is None for value in sums):
        raise FormatError("it lacks sum_x, sum_z or n: expected what save wrote")
    found = [tuple(value.shape) for value in sums if value is not None]
    if found not in ([(x_dim,), (z_dim,), ()], [(z_dim, x_dim), (z_dim, 0), (z_dim,)]):
        raise FormatError(f"its sums have shapes {found}, which do not go with x_dim={x_dim}, z_dim={z_dim}")


def _names_of_classes(given: Any) -> tuple[Any, ...]:
    """What a file says that the numbers of classes stand for."""
    return decoded(given, {}, tuple[str | int | float | bool, ...], "classes")


def fit_of(fitter: type[Fitter]) -> Callable[..., Any]:
    """What a method of rows registers as its fit."""

    def fit(x: Any, z: Any, config: Config, *, mask: Any = None, weight: Any = None) -> Any:
        options = {name: getattr(config, name) for name in config.names()}
        return fitter.fit(x, z, mask=mask, weight=weight, **options).eraser

    return fit


def to_tensors(x: Any, mask: Any, weight: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What goes with the rows of x, as tensors."""
    mask, weight = (None if v is None else to_tensor(v, k) for k, v in (("mask", mask), ("weight", weight)))
    return to_tensor(x, "x"), mask, weight
