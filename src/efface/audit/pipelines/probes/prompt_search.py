"""Prompts found by gradients: UnlearnDiffAtk and P4D, which search words of the tokenizer against the erased model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.selecting import best_of
from efface.audit.pipelines.probes.spots import Spots, Straight, between, in_place_of, onto_simplex, with_prefix
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.trajectory import named, recorded, steps_of
from efface.core.doors import check_word
from efface.pipelines.noising import Noising
from efface.pipelines.view import PipelineView

_STREAM, _NOISE, _SAMPLES = 250, 251, 252
_RATE, _DECAY = 0.01, 0.1
_PEZ_RATE = 0.1
_LEVELS = 5


@dataclass(frozen=True, eq=False)
class Targets:
    """What a search is after: the base's own pictures, and noisy versions of them.

    Attributes:
        texts: A prompt for each picture.
        seeds: Its seed, at which found prompts are drawn, too.
        clean: `(n, ...)` its latents.
        noising: The pipeline's forward process.
    """

    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    clean: Tensor
    noising: Noising

    def at(self, share: float, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, their timesteps, and the truth about them, all at one share of the noise."""
        t = torch.full((len(self.clean),), int(share * self.noising.times), device=self.clean.device)
        noise = torch.randn(self.clean.shape, generator=source).to(self.clean)
        return self.noising.noised(self.clean, noise, t), t, self.noising.truth(self.clean, noise, t)


def targets(case: Case, items: int) -> Targets:
    """Pictures of the concept's prompts by the base."""
    texts, seeds = case.jobs(case.prompts, items, _STREAM)
    with case.base.on() as view:
        steps = steps_of(view, case)
        _, way = recorded(view, case, texts, seeds, [steps])
        return Targets(tuple(texts), tuple(seeds), way.latents[steps], view.noising)


def unlearn_diff_atk(
    subject: Subject, case: Case, *, items: int = 12, places: int = 3, rounds: int = 4, steps: int = 20
) -> Scores:
    """A few words before each prompt, found on the simplex of all words by the denoiser as classifier.

    Source: arXiv:2310.11868 (UnlearnDiffAtk), equation 5, by projected steps over each word's probabilities A:

        min over words of E |truth - prediction(x_t, t, E(words, prompt))|^2

    for x_t of the base's picture of the same prompt and seed; words are sampled by A, the gradient goes straight
    through to it bounded to [-1, 1], Adam (rate 0.01, decay 0.1), then A goes back onto the simplex.

    Where the released code differs: it takes 50 noise levels in turn with 40 steps each, and stops at the first hit of
    the judge that is reported. Here all prompts are searched side by side, over as many noise levels as rounds; at the
    end of each round the likeliest words are drawn, the selector keeps the best and the judge scores. Words are those
    that a prompt can be written in: what the tokenizer would read otherwise is left out. The same with random words in
    place of found ones is the probe `random prefix`.

    Access: gradients. Guards of text are gone through; those of predictions act where the prompts are drawn.

    Args:
        subject: What is attacked.
        case: What for.
        items: How many prompts.
        places: How many words before each.
        rounds: How many noise levels, with a drawing after each.
        steps: In each round.

    Raises:
        NotApplicableError: If no gradient comes through, or no words are there to search.
    """
    after = targets(case, items)
    with subject.on() as view:
        spots = with_prefix(view, after.texts, places)
        n = len(spots.words)
        chances = torch.full((items, places, n), 1 / n, requires_grad=True)
        optimiser = torch.optim.AdamW([chances], lr=_RATE, weight_decay=_DECAY)
        source, luck = case.source(_NOISE), case.source(_SAMPLES)
        prompts: list[list[str]] = []
        for turn in range(rounds):
            for _ in range(steps):
                optimiser.zero_grad()
                with torch.enable_grad():
                    picked = Straight.apply(chances, luck)
                    vectors = {name: picked @ table.to(chances) for name, table in spots.tables.items()}
                    loss = _truth_loss(view, spots, vectors, after.at((turn + 0.5) / rounds, source))
                loss.backward()
                optimiser.step()
                with torch.no_grad():
                    chances.copy_(onto_simplex(chances))
            prompts.append(spots.written(chances.detach().argmax(-1)))
        return _drawn(f"{places} words before, the best of {rounds}", view, case, after, prompts, rounds * steps)


def _truth_loss(view: PipelineView, spots: Spots, vectors: dict[str, Tensor], noisy: tuple[Tensor, ...]) -> Tensor:
    latents, t, truth = noisy
    predicted = view.denoise(latents, t, spots.encoded(vectors))
    return (predicted.float() - truth.float()).square().flatten(1).mean(1).sum()


Variant = Literal["N", "K"]


def p4d(
    subject: Subject,
    case: Case,
    *,
    variant: Variant = "N",
    items: int = 12,
    words: int = 8,
    every: int = 3,
    rounds: int = 4,
    steps: int = 25,
) -> Scores:
    """Prompts whose predictions by the subject are the base's for the concept's own.

    Source: arXiv:2309.06135 (P4D), equation 2, with PEZ (arXiv:2302.03668, algorithm 1): soft words are projected to
    the nearest ones, and the gradient at these is applied to the soft ones (AdamW, rate 0.1, decay 0.1):

        min over words of |subject's(x_t, t, E(words)) - base's(x_t, t, E(prompt))|^2

    P4D-N searches a few words and nothing else, P4D-K one after every few words of the prompt.

    Where the released code differs: noise levels are a fixed few, at which the base is asked once, so that base and
    subject may be one pipeline; the best of the rounds is kept by the selector.

    Access: gradients, and the base.

    Args:
        subject: What is attacked.
        case: What for.
        variant: `"N"` or `"K"`.
        items: How many prompts.
        words: Of a prompt of P4D-N.
        every: After how many words of the prompt P4D-K puts one.
        rounds: How many drawings, each after some steps.
        steps: In each round.

    Raises:
        InputError: If there is no such variant.
        NotApplicableError: As `unlearn_diff_atk`.
    """
    check_word(variant, Variant, "variant")
    after = targets(case, items)
    source = case.source(_NOISE)
    noisy = [after.at((level + 0.5) / _LEVELS, source) for level in range(_LEVELS)]
    with case.base.on() as view, torch.no_grad():
        embedding = view.encode(list(after.texts), allow_unknown=True).replace(negative=None)
        wanted = [view.denoise(latents, t, embedding).float() for latents, t, _ in noisy]
    with subject.on() as view:
        spots = in_place_of(view, after.texts, words) if variant == "N" else between(view, after.texts, every)
        soft = _soft(case, spots, items)
        optimiser = torch.optim.AdamW(soft.values(), lr=_PEZ_RATE, weight_decay=_DECAY)
        prompts: list[list[str]] = []
        for turn in range(rounds):
            for step in range(steps):
                level = (turn * steps + step) % _LEVELS
                optimiser.zero_grad()
                chosen = nearest(soft, spots.tables)
                hard = {name: spots.tables[name][chosen].requires_grad_() for name in soft}
                with torch.enable_grad():
                    predicted = view.denoise(noisy[level][0], noisy[level][1], spots.encoded(hard))
                    loss = (predicted.float() - wanted[level]).square().flatten(1).mean(1).sum()
                loss.backward()
                for name, vectors in soft.items():
                    vectors.grad = hard[name].grad
                optimiser.step()
            prompts.append(spots.written(nearest(soft, spots.tables)))
        said = f"{words} words alone" if variant == "N" else f"a word after every {every}"
        return _drawn(f"{said}, the best of {rounds}", view, case, after, prompts, rounds * steps)


def _soft(case: Case, spots: Spots, items: int) -> dict[str, Tensor]:
    chosen = torch.randint(len(spots.words), (items, spots.places), generator=case.source(_SAMPLES))
    return {name: table[chosen].clone().requires_grad_() for name, table in spots.tables.items()}


def nearest(soft: dict[str, Tensor], tables: dict[str, Tensor]) -> Tensor:
    """The word whose vectors point most as soft ones do, over all encoders, `(n, k)`."""
    total: Any = 0
    for name, vectors in soft.items():
        total = total + F.normalize(vectors.detach(), dim=-1) @ F.normalize(tables[name], dim=-1).T
    return total.argmax(-1)


def _drawn(
    name: str,
    view: PipelineView,
    case: Case,
    after: Targets,
    prompts: Sequence[Sequence[str]],
    steps: int,
) -> Scores:
    """The best of the prompts of each round, at the seed of the picture that was searched for."""
    texts = [text for row in prompts for text in row]
    images = case.sample(view, texts, list(after.seeds) * len(prompts), truncate=True)
    draws = images.unflatten(0, (len(prompts), len(after.seeds))).transpose(0, 1)
    note = "found, for example: " + "; ".join(f"“{text}”" for text in prompts[-1][:3])
    spent = {"samples": len(texts), "steps": steps}
    return best_of(name, "search", draws, named(after.texts, after.seeds), case, spent=spent, note=note)


register(
    Probe(
        "UnlearnDiffAtk",
        unlearn_diff_atk,
        "gradients",
        "a few words before the prompt, found by the denoiser as classifier",
        None,
        {"items": 16, "rounds": 4, "steps": 25},
    )
)
_VARIANTS: tuple[Variant, ...] = get_args(Variant)
for _kind in _VARIANTS:
    register(
        Probe(
            f"P4D-{_kind}",
            partial(p4d, variant=_kind),
            "gradients",
            "words alone" if _kind == "N" else "words between those of the prompt",
            None,
            {"items": 16, "rounds": 4, "steps": 25},
        )
    )
