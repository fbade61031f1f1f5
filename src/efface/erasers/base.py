"""What every eraser has in common: a frozen value made of tensors, with files, modules and a report."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from efface._errors import FormatError
from efface._io import load_folder, save_folder
from efface._registry import methods
from efface._validate import to_tensor


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
        save_folder(path, *self.parts())

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What it is made of, as plain data (its type and report) and tensors: what `from_parts` takes."""
        report = None if self.report is None else dataclasses.asdict(self.report)
        return {"type": type(self).__name__, "report": report}, self.tensors()

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            FormatError: If the folder holds something else, is truncated, or was written by a newer efface.
        """
        config, tensors = load_folder(path, expect=cls.__name__)
        return cls.from_parts(config, tensors, path)

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: dict[str, Tensor], path: Any) -> Self:
        """Put together what `parts` took apart; `path` is named in errors."""
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
    return types[config["type"]].from_parts(config, tensors, path)


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
