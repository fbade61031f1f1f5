"""Classifiers: scale what the last layer reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from efface import Concept
from efface.core.config import Config, option
from efface.core.edits import Edit, OnWeights
from efface.core.erasure import Erasure
from efface.core.fingerprint import fingerprint
from efface.core.method import Method
from efface.core.weights import Multiply, WeightDelta


@dataclass(frozen=True, kw_only=True)
class HalfConfig(Config):
    """Options of the toy."""

    first: int = option(8, "how many features are kept", least=1)


@dataclass(frozen=True, eq=False, repr=False)
class Halved(Erasure):
    """`W <- W M` with M zero beyond the first features."""

    delta: WeightDelta
    config: HalfConfig = field(default_factory=HalfConfig, kw_only=True, repr=False)
    method: str = field(default="toy-half", kw_only=True)

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (OnWeights(self.delta),)


def fit(model: nn.Module, concept: Any, config: HalfConfig, *, x: Any = None) -> Halved:
    name, layer = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    kept = (torch.arange(layer.in_features) < config.first).to(layer.weight)
    delta = WeightDelta({f"{name}.weight": (Multiply(right=torch.diag(kept)),)}, fingerprint(model))
    made = Halved(delta, config=config)
    return made if concept is None else replace(made, concepts=(Concept.of(concept),))


METHOD = Method(
    "toy-half", ("classifier",), "keep the first features only", "none", fit, Halved, HalfConfig,
    access=("weights",), access_on=("weights",), guarantee="none", no_guarantee="anything",
)  # fmt: skip
