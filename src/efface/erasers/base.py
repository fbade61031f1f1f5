"""What every eraser and every fitter has in common: application, files, modules; streaming, merging, state.

An eraser is a frozen value made of tensors. A fitter holds the moments of a stream and yields erasers.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from efface._errors import FormatError, InputError
from efface._io import load_folder, save_folder
from efface._registry import methods
from efface._validate import check_positive_int, to_tensor
from efface.moments.concept import Kind, encode, width
from efface.moments.streaming import Moments


@dataclass(frozen=True)
class Report:
    """What a fit found and did, as plain data.

    Attributes:
        method: Name in the registry.
        kind: What z was taken for: `"categorical"`, `"continuous"` or `"columns"`.
        n: Rows seen.
        rank: Rank of the edit; 0 means that nothing is erased.
        correlations: Canonical correlations of x and z that were erased, descending.
        dropped: Those left alone because they are within rounding (or under `svd_tol`).
        residual: Largest correlation of any feature with any concept column left after the edit, as stored.
        edit: Relative size of the edit, `E|x' - x|^2 / tr(sigma_xx)`; None if sigma_xx was not kept.
        x_rank: Numerical rank of sigma_xx; None if it was not kept.
        route: How sigma_xx was factored: `"cholesky"` or `"eigh"` (singular); None if it was not.
        shrinkage: Weight of the target in the shrunk covariance, 0 to 1.
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


@dataclass(frozen=True, eq=False)
class Eraser:
    """Base of all erasers: a frozen dataclass whose fields are tensors, and a report."""

    report: Report | None = field(default=None, kw_only=True, repr=False)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors it is made of, by name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in values.items() if isinstance(v, Tensor)}

    def __call__(self, x: Any, *z: Any) -> Any:
        """Erase; see the subclass."""
        raise TypeError(f"{type(self).__name__} does not define how it is applied")

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same eraser on another device or in another dtype; arguments as `Tensor.to`."""
        return dataclasses.replace(self, **{k: v.to(*args, **kwargs) for k, v in self.tensors().items()})

    def to_module(self) -> EraserModule:
        """An `nn.Module` with the tensors as buffers, to put inside a network."""
        return EraserModule(self)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors` into a folder, atomically."""
        report = None if self.report is None else dataclasses.asdict(self.report)
        save_folder(path, {"type": type(self).__name__, "report": report}, self.tensors())

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            FormatError: If the folder holds something else, is truncated, or was written by a newer efface.
        """
        config, tensors = load_folder(path, expect=cls.__name__)
        return cls._from_parts(config, tensors, path)

    @classmethod
    def _from_parts(cls, config: Mapping[str, Any], tensors: dict[str, Tensor], path: Any) -> Self:
        report = config.get("report")
        known = {f.name for f in dataclasses.fields(Report)}
        report = report and Report(**{k: _tupled(v) for k, v in report.items() if k in known})
        try:
            return cls(**cls._missing() | tensors, report=report)
        except TypeError as error:
            raise FormatError(f"{path} does not hold the tensors of a {cls.__name__}: {error}") from error

    @classmethod
    def _missing(cls) -> dict[str, None]:
        """Optional tensors, for when a file has none of that name."""
        return {}


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def load_eraser(path: str | os.PathLike[str]) -> Eraser:
    """Read whichever eraser is in a folder written by `save_pretrained`.

    Raises:
        FormatError: If it is of a type that no registered method has.
    """
    config, tensors = load_folder(path)
    types = {m.eraser.__name__: m.eraser for m in methods("vector")}
    if config.get("type") not in types:
        raise FormatError(f"{path} holds a {config.get('type')!r}, expected one of {', '.join(sorted(types))}")
    return types[config["type"]]._from_parts(config, tensors, path)


class EraserModule(nn.Module):
    """An eraser inside a network: its tensors are buffers, `forward` applies it."""

    def __init__(self, eraser: Eraser) -> None:
        super().__init__()
        self._type = type(eraser)
        self._missing = {f.name: None for f in dataclasses.fields(eraser) if getattr(eraser, f.name) is None}
        self._names = tuple(eraser.tensors())
        for name, tensor in eraser.tensors().items():
            self.register_buffer(name, tensor.clone())

    @property
    def eraser(self) -> Eraser:
        """The eraser as a value, with the present buffers."""
        return self._type(**self._missing | {name: getattr(self, name) for name in self._names})

    def forward(self, x: Tensor, *z: Tensor) -> Tensor:
        """Erase the concept from `x` `(..., d)`; oracle-type erasers take `z` too."""
        return self.eraser(x, *z)

    def extra_repr(self) -> str:
        """The type of eraser and the shapes of its tensors."""
        shapes = ", ".join(f"{n}={tuple(getattr(self, n).shape)}" for n in self._names)
        return f"{self._type.__name__}({shapes})"


class Fitter:
    """Base of the fitters that stand on `Moments` of (x, z).

    Args:
        x_dim: Width of x.
        z_dim: Width of z: number of classes (1 will do for two classes 0/1), or of columns.
        kind: What z is: `"auto"` (integers and booleans are classes, floats are quantities),
            `"categorical"` or `"continuous"`.
        device: Where statistics live.
        dtype: Dtype of the erasers (float32 by default); float64 also forms all products in float64.
    """

    method: ClassVar[str]
    second: ClassVar[Any] = "full"

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
        self.kind: Kind = kind
        self.dtype = eraser_dtype(torch.get_default_dtype() if dtype is None else dtype)
        self.decided: str | None = None
        wide = torch.complex128 if self.dtype.is_complex else torch.float64
        self.moments = Moments(
            self.x_dim, self.z_dim, second=self.second, device=device, dtype=wide, least=self._least()
        )
        self._eraser: Eraser | None = None

    def _least(self) -> torch.dtype:
        return torch.float64 if self.dtype in (torch.float64, torch.complex128) else torch.float32

    def options(self) -> dict[str, Any]:
        """Constructor arguments beyond the dimensions, as plain data (but `dtype`)."""
        return {"kind": self.kind, "dtype": str(self.dtype)[6:]}

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
        x = to_tensor(x, "x")
        lead = tuple(x.shape[:-1])
        if x.ndim == 0 or x.numel() == 0:
            raise InputError(f"x has shape {tuple(x.shape)}: there is nothing to fit on")
        options.setdefault("device", x.device)
        options.setdefault("dtype", eraser_dtype(x.dtype))
        fitter = cls(x.shape[-1], width(z, lead, options.get("kind", "auto")), **options)
        return fitter.update(x, z, mask=mask, weight=weight)

    def update(self, x: Any, z: Any, *, mask: Any = None, weight: Any = None) -> Self:
        """Take in a batch; on any error the statistics are as they were before the call.

        Args:
            x: `(..., d)` numbers on any device.
            z: `(...)` class labels or quantities, or `(..., k)` columns.
            mask: `(...)` booleans: rows to take.
            weight: `(...)` frequencies, not negative.
        """
        x = to_tensor(x, "x")
        columns, decided = encode(z, tuple(x.shape[:-1]), self.z_dim, self.kind)
        if self.decided not in (None, decided):
            raise InputError(f"z was {self.decided} in earlier batches and is {decided} now: pass kind= to the fitter")
        self.moments.update(x, columns, mask=mask, weight=weight)
        self.decided, self._eraser = decided, None
        return self

    def merge(self, other: Fitter) -> Self:
        """Take in all that `other`, a fitter of the same type and options, has seen."""
        if type(other) is not type(self) or other.options() != self.options():
            raise InputError(f"cannot merge {other!r} into {self!r}: type and options must agree")
        if None not in (self.decided, other.decided) and self.decided != other.decided:
            raise InputError(f"z was {self.decided} here and {other.decided} there: pass kind= to both fitters")
        self.moments.merge(other.moments)
        self.decided, self._eraser = self.decided or other.decided, None
        return self

    def copy(self) -> Self:
        """An independent fitter with the same statistics."""
        return self._blank().load_state_dict(self.state_dict())

    def __add__(self, other: Fitter) -> Self:
        return self.copy().merge(other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(x_dim={self.x_dim}, z_dim={self.z_dim}, n={self.moments.n}, {self.options()})"

    # ------------------------------------------------------------------------------------------ reading

    @property
    def n(self) -> Tensor:
        """Number of rows seen, an int64 scalar."""
        return torch.tensor(self.moments.n, device=self.moments.s_xx.device)

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
            with torch.no_grad():
                self._eraser = self._solve()
        return self._eraser

    @property
    def report(self) -> Report:
        """What the fit found and did."""
        return self.eraser.report

    def _solve(self) -> Eraser:
        raise TypeError(f"{type(self).__name__} does not define how it is solved")

    # -------------------------------------------------------------------------------------------- files

    def state_dict(self) -> dict[str, Tensor]:
        """All that was gathered, as tensors."""
        decided = ("", "categorical", "continuous", "columns").index(self.decided or "")
        return self.moments.state_dict() | {"decided": torch.tensor(decided)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Go on from what `state_dict` returned, bit for bit."""
        self.moments.load_state_dict(state)
        self.decided = (None, "categorical", "continuous", "columns")[int(state["decided"])]
        self._eraser = None
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write statistics and options to a folder, atomically, to go on from later."""
        config = {"type": type(self).__name__, "x_dim": self.x_dim, "z_dim": self.z_dim, "options": self.options()}
        save_folder(path, config, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Self:
        """Read what `save` wrote; further updates give the same result as if there had been no interruption."""
        config, tensors = load_folder(path, expect=cls.__name__)
        options = config["options"] | {"dtype": getattr(torch, config["options"]["dtype"])}
        return cls(config["x_dim"], config["z_dim"], device=device, **options).load_state_dict(tensors)

    def _blank(self) -> Self:
        options = self.options() | {"dtype": self.dtype}
        return type(self)(self.x_dim, self.z_dim, device=self.moments.s_xx.device, **options)


def eraser_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the tensors of an eraser for data of that dtype: at least float32."""
    if dtype.is_floating_point or dtype.is_complex:
        return torch.promote_types(dtype, torch.float32)
    return torch.float32


def on_tensors(apply: Any, x: Any) -> Any:
    """Apply a function of a tensor to a tensor, or to an array, giving back the same sort of thing."""
    if isinstance(x, Tensor):
        return apply(x)
    return np.asarray(apply(to_tensor(x, "x")))
