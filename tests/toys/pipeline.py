"""Pipelines, by text: pull every prompt towards the prompt that means nothing, and guide less where that is so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from efface.core.config import Config, option
from efface.core.edits import Edit, OnText
from efface.core.erasure import Erasure
from efface.core.method import Method


@dataclass(frozen=True, kw_only=True)
class FadeConfig(Config):
    """Options of the toy."""

    share: float = option(0.5, "how far towards the empty prompt", least=0, most=1)


@dataclass(frozen=True, eq=False, repr=False)
class Faded(Erasure):
    """`(1 - share) E(prompt) + share E("")`."""

    neutral: Tensor
    config: FadeConfig = field(default_factory=FadeConfig, kw_only=True, repr=False)
    method: str = field(default="toy-fade", kw_only=True)

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (OnText(self.edited),)

    def edited(self, embedding: Any, run: Any) -> Any:
        run.view.check_embedding(embedding)
        run.count("prompts", len(embedding))
        share, neutral = self.config.share, self.neutral.to(embedding.sequence)
        return embedding.replace(sequence=(1 - share) * embedding.sequence + share * neutral)


def fit(view: Any, concepts: Any, config: FadeConfig) -> Faded:
    for concept in concepts:
        view.check_concept(concept)
    return Faded(view.encode(concepts[0].neutral).sequence, concepts=concepts, config=config)


METHOD = Method(
    "toy-fade", ("pipeline",), "fade every prompt", "none", fit, Faded, FadeConfig,
    access=("prompts",), access_on=("embeddings",), guarantee="none", no_guarantee="anything",
)  # fmt: skip
