"""Pipelines, by weights: take the concept's direction out of what every key and value layer reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from efface.core.config import Config, option
from efface.core.edits import Edit, OnWeights
from efface.core.erasure import Erasure
from efface.core.fingerprint import fingerprint
from efface.core.method import Method
from efface.core.weights import LowRank, WeightDelta


@dataclass(frozen=True, kw_only=True)
class DeafConfig(Config):
    """Options of the toy."""

    strength: float = option(1.0, "how much of the direction is taken out", above=0, most=1)


@dataclass(frozen=True, eq=False, repr=False)
class Deaf(Erasure):
    """`W <- W - strength W u u^T`."""

    delta: WeightDelta
    part: str
    config: DeafConfig = field(default_factory=DeafConfig, kw_only=True, repr=False)
    method: str = field(default="toy-deaf", kw_only=True)

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (OnWeights(self.delta, part=self.part),)


def fit(view: Any, concepts: Any, config: DeafConfig) -> Deaf:
    view.check_concept(concepts[0])
    rows = view.encode([concepts[0].neutral, concepts[0].name]).sequence.mean(1)
    unit = ((rows[1] - rows[0]) / (rows[1] - rows[0]).norm())[:, None]
    changes = {}
    for layer in view.key_value_layers():
        weight = layer.module.weight.detach()
        changes[f"{layer.path}.weight"] = (LowRank(-config.strength * weight @ unit, unit.mT),)
    delta = WeightDelta(changes, fingerprint(view.denoiser))
    part = next(iter(view.components.denoisers))
    return Deaf(delta, part, concepts=concepts, config=config)


METHOD = Method(
    "toy-deaf", ("pipeline",), "make the denoiser deaf to one direction", "none", fit, Deaf, DeafConfig,
    access=("prompts", "weights"), access_on=("weights",), guarantee="none", no_guarantee="anything", single=True,
)  # fmt: skip
