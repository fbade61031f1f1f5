"""The models of an audit: the one before, the one after, and where the concept never was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.audit.pipelines.probes.subject import Subject
from efface.pipelines.view import PipelineView
from efface.training.seeds import generator

BASE, ERASED, GOLD, SHAM = "base", "erased", "gold", "sham"
_SHAM = 160


@dataclass(frozen=True, eq=False)
class Panel:
    """Base, erased and gold.

    Attributes:
        base: Before erasure.
        erased: After it.
        gold: Never saw the concept; None where there is no such model.
    """

    base: Subject
    erased: Subject
    gold: Subject | None = None

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where the models are."""
        return tuple(each.view.device for each in (self.base, self.erased, self.gold) if each is not None)

    @cached_property
    def moved(self) -> Mapping[str, float]:
        """Name -> norm of what the erasure changed of a weight; those that are as they were are left out."""
        with self.base.on() as view:
            before = {name: value.detach().clone() for name, value in weights_of(view).items()}
        with self.erased.on() as view:
            after = weights_of(view)
            norms = {name: float((after[name].detach().to(old) - old).norm()) for name, old in before.items()}
        return {name: norm for name, norm in norms.items() if norm > 0}

    def __post_init__(self) -> None:
        for other in (self.erased, self.gold):
            if other is not None:
                check_alike(self.base, other)


def check_alike(base: Subject, other: Subject) -> None:
    """Refuse a model whose losses cannot be compared with the base's.

    Raises:
        InputError: If its denoiser has other weights by name or shape, or its scheduler another process of noise.
    """
    own, theirs = ({n: tuple(p.shape) for n, p in weights_of(s.view).items()} for s in (base, other))
    if own != theirs:
        odd = next(n for n in (*own, *theirs) if own.get(n) != theirs.get(n))
        raise InputError(
            f"{other.name} has another architecture than the base ({odd}: {theirs.get(odd)} and {own.get(odd)}): give "
            "a pipeline of the same one, or none"
        )
    kinds = [s.view.prediction_type for s in (base, other)]
    own_noise, their_noise = (_amounts(s.view) for s in (base, other))
    if kinds[0] != kinds[1] or own_noise.shape != their_noise.shape or not torch.allclose(own_noise, their_noise):
        raise InputError(
            f"{other.name} predicts {kinds[1]} with {type(other.view.scheduler).__name__}, the base {kinds[0]} with "
            f"{type(base.view.scheduler).__name__}: their losses cannot be compared"
        )


def alike(one: Subject, other: Subject) -> bool:
    """Whether two models of one architecture have the same weights, bit for bit, with what is on them."""
    with other.on() as view:
        known = {name: value.detach() for name, value in weights_of(view).items()}
    with one.on() as view:
        own = weights_of(view)
        return own.keys() == known.keys() and all(torch.equal(own[n].detach().to(v), v) for n, v in known.items())


def _amounts(view: PipelineView) -> Tensor:
    found = getattr(view.scheduler, "alphas_cumprod", None)
    return found if isinstance(found, Tensor) else torch.zeros(())


def weights_of(view: PipelineView) -> dict[str, nn.Parameter]:
    """Every weight of text encoders and denoisers, by the part's name and its own."""
    parts: Mapping[str, Any] = {**view.text_encoders, **view.components.denoisers}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}


@dataclass(frozen=True, eq=False)
class ShamEdit:
    """A random change of the same weights, each by as much as an erasure changed it: what any edit of this size does.

    Attributes:
        norms: Name of a weight -> norm of its change.
        seed: Of the directions.
    """

    norms: Mapping[str, float]
    seed: int = 0

    @contextmanager
    def on(self, subject: Any, /) -> Iterator[None]:
        """Put it on, until the block ends; what it replaced is then there again bit for bit."""
        values = weights_of(PipelineView.of(subject))
        kept = {name: values[name].data for name in self.norms}
        try:
            for i, (name, norm) in enumerate(self.norms.items()):
                values[name].data = kept[name] + _direction(kept[name], self.seed, i) * norm
            yield
        finally:
            for name, value in kept.items():
                values[name].data = value


def _direction(like: Tensor, seed: int, stream: int) -> Tensor:
    drawn = torch.randn(like.shape, generator=generator(seed, _SHAM, stream))
    return (drawn / drawn.norm().clamp_min(1e-30)).to(like)


def sham_of(panel: Panel, seed: int) -> Subject | None:
    """The base with a sham edit; None where the erasure changes no weight."""
    norms = panel.moved
    return Subject(SHAM, panel.base.view, ShamEdit(norms, seed), panel.base.reach) if norms else None
