"""What weights are compared on while a denoiser is tuned: latents that no step is taken on, and what is said there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.concept import Concept
from efface.diffusion.text.contexts import templates_of
from efface.diffusion.weights.passes import Aim, Passes
from efface.training.loop import DivergedError
from efface.training.seeds import generator, seeds_of

SMALLER = "write a smaller learning_rate"
"""What to do where a fit diverges."""

_STREAM = 1
"""Of random numbers; that of `draws` is 2, those of methods are from 10 on."""

_AT_ONCE = 8


class Sampling(NamedTuple):
    """How latents are drawn: from which seed, in how many steps, how many at once."""

    seed: int
    steps: int
    at_once: int


Said = Callable[[Tensor, Tensor, Sequence["str | None"]], Tensor]
"""Latents, timesteps and prompts -> what is predicted of them."""


class Probes:
    """Latents that nothing is trained on, with what the original says there."""

    def __init__(
        self, passes: Passes, teacher: nn.Module, aims: Sequence[Aim], kept: Sequence[str | None], sampling: Sampling
    ) -> None:
        self._aims, self._kept = aims, kept
        said = partial(passes, teacher)
        asked = [aim.asked for aim in aims]
        self._there = _latents(passes, asked, teacher, sampling, 0)
        self._others = _latents(passes, kept, teacher, sampling, 1)
        self._aim = torch.cat([passes.aimed(teacher, *part, aims) for part, aims in _split(self._there, self._aims)])
        self._stay = _all_said(said, self._others, self._kept)
        before = _all_said(said, self._there, asked)
        self._unit = _rms(before - _all_said(said, self._there, [None] * len(asked)))
        self._far = _rms(before - self._aim)
        if not math.isfinite(self._unit + self._far):
            raise InputError("the denoiser's predictions are not finite before anything is tuned: load it in float32")
        if not min(self._unit, self._far) > 0:
            raise InputError(
                f"the denoiser says the same of {asked[0]!r} as it is to say of it: there is nothing to erase"
            )

    def compared(self, said: Said) -> tuple[float, float]:
        """Miss and drift of what is said.

        Raises:
            DivergedError: If that is not finite.
        """
        there = _all_said(said, self._there, [aim.asked for aim in self._aims])
        stay = _all_said(said, self._others, self._kept)
        miss, drift = _rms(there - self._aim) / self._far, _rms(stay - self._stay) / self._unit
        if not math.isfinite(miss + drift):
            raise DivergedError(f"predictions of the tuned denoiser are not finite: {SMALLER}")
        return miss, drift


def probed(concepts: Sequence[Concept], n: int, aims: Callable[[Concept, str, str], Aim]) -> list[Aim]:
    """N aims that weights are compared by, at least one a concept: its templates with its words, the bare word last."""
    each = []
    for concept in concepts:
        templates = sorted(templates_of(concept), key=lambda template: template == "{}")
        each.append([aims(concept, word, template) for template in templates for word in concept.words])
    return [each[i % len(each)][i // len(each) % len(each[i % len(each)])] for i in range(max(n, len(each)))]


def kept_of(concepts: Sequence[Concept], n: int) -> list[str | None]:
    """N prompts of which the same is to be said as before: with words to preserve, every fourth the neutral one."""
    words = [(c, word) for c in concepts for word in c.preserve]
    if not words:
        return [None] * n
    found: list[str | None] = []
    for i in range(n):
        concept, word = words[i % len(words)]
        templates = templates_of(concept)
        found.append(None if i % 4 == 3 else templates[i % len(templates)].replace("{}", word))
    return found


@torch.no_grad()
def _all_said(said: Said, latents: tuple[Tensor, Tensor], texts: Sequence[str | None]) -> Tensor:
    return torch.cat([said(*part, each) for part, each in _split(latents, texts)])


def _split(latents: tuple[Tensor, Tensor], items: Sequence[Any]) -> list[tuple[tuple[Tensor, Tensor], Sequence[Any]]]:
    (x, t), n = latents, _AT_ONCE
    return [((x[i : i + n], t[i : i + n]), items[i : i + n]) for i in range(0, len(items), n)]


def _latents(
    passes: Passes, texts: Sequence[str | None], model: nn.Module, sampling: Sampling, stream: int
) -> tuple[Tensor, Tensor]:
    """A latent of each prompt, at steps spread evenly over the sampling."""
    n, steps = len(texts), sampling.steps
    seeds = seeds_of(n, generator(sampling.seed, _STREAM, stream))
    stops = [int((i + 0.5) / n * steps) for i in range(n)]
    parts = [slice(i, i + sampling.at_once) for i in range(0, n, sampling.at_once)]
    found = [passes.on_their_way(texts[p], seeds[p], stops[p], steps, model) for p in parts]
    return torch.cat([x for x, _ in found]), torch.cat([t for _, t in found])


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
