"""Rows: off the line between the means of the first class and of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from efface import InputError
from efface.core.config import Config, option
from efface.core.method import Method
from efface.erasers.base import Eraser


@dataclass(frozen=True, kw_only=True)
class LineConfig(Config):
    """Options of the toy."""

    strength: float = option(1.0, "how much of the line is taken out", least=0, most=1)


@dataclass(frozen=True, eq=False, repr=False)
class LineEraser(Eraser):
    """`x - strength u u^T (x - mean)`."""

    unit: Tensor
    mean: Tensor
    config: LineConfig = field(default_factory=LineConfig, kw_only=True, repr=False)
    method: str = field(default="toy-line", kw_only=True)

    def __call__(self, x: Tensor) -> Tensor:
        along = (x - self.mean.to(x)) @ self.unit.to(x)
        return x - self.config.strength * along[..., None] * self.unit.to(x)


def fit(x: Tensor, z: Any, config: LineConfig) -> LineEraser:
    if len(z) != len(x):
        raise InputError(f"{len(z)} labels for {len(x)} rows: give one a row")
    gap = x[z == 0].mean(0) - x[z != 0].mean(0)
    return LineEraser(gap / gap.norm(), x.mean(0), config=config)


METHOD = Method(
    name="toy-line",
    subjects=("rows",),
    summary="project off the line between the first class and the others",
    paper="none",
    fit=fit,
    erasure=LineEraser,
    config=LineConfig,
    access=("rows", "labels"),
    access_on=("rows",),
    guarantee="the first class and the others have one mean along the line",
    no_guarantee="anything of other classes",
)
