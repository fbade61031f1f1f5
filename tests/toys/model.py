"""Models: dampen what one block gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from efface import InputError
from efface.core.config import Config, option
from efface.core.edits import Edit, OnStates
from efface.core.erasure import Erasure
from efface.core.method import Method
from efface.core.site import Site


@dataclass(frozen=True, kw_only=True)
class DampConfig(Config):
    """Options of the toy."""

    site: str = option("model.layers.0", "what is dampened")
    factor: float = option(0.5, "by how much", least=0, most=1)


@dataclass(frozen=True, eq=False, repr=False)
class Damped(Erasure):
    """`factor x` at one site."""

    config: DampConfig = field(default_factory=DampConfig, kw_only=True, repr=False)
    method: str = field(default="toy-damp", kw_only=True)

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (OnStates({Site.parse(self.config.site): partial(_damped, self.config.factor)}),)


def _damped(factor: float, x: Tensor) -> Tensor:
    return factor * x


def fit(model: nn.Module, labels: Any, config: DampConfig, *, data: Any = None, sites: Any = None) -> Damped:
    if len(labels) != len(data["input_ids"]):
        raise InputError("labels and data are of other lengths")
    return Damped(config=config)


METHOD = Method(
    "toy-damp", ("model",), "dampen a block", "none", fit, Damped, DampConfig,
    access=("rows", "labels"), access_on=("rows",), guarantee="none", no_guarantee="anything",
)  # fmt: skip
