"""MACE's adapters: of low rank beside keys and values, so that a concept's region is not attended to by its words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import shown
from efface.core.concept import Concept
from efface.core.config import option
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.layers import chosen_layers, denoiser_of
from efface.diffusion.weights.maps import Maps, cross_attentions, grid_of, masks_of, noted, resized, word_rows
from efface.diffusion.weights.passes import Aim, Passes
from efface.diffusion.weights.pictures import Pictures, drawn
from efface.diffusion.weights.refinement import told
from efface.diffusion.weights.rows import pairs_of
from efface.diffusion.weights.student import LowRankAdapters
from efface.diffusion.weights.tuning import Plan, Tuning, TuningConfig
from efface.pipelines.noising import Noising, noise_like
from efface.pipelines.view import PipelineView
from efface.training.seeds import generator

_FACTORS, _ASKED, _MASKED = 16, 17, 18
_FOCUS = (0.2, 0.4, 50.0)
"""Published: from timestep 200 to 400 of 1000, with a slope of .05 a timestep."""

Segment: TypeAlias = Callable[[Tensor, str], Tensor]
"""Pictures `(n, 3, height, width)` in [0, 1] and the concept's name -> where it is, `(n, height, width)`."""


@dataclass(frozen=True, kw_only=True)
class SuppressionConfig(TuningConfig):
    """Options of the adapters; a base, with the defaults of MACE's release for objects."""

    rank: int = option(1, "rank of the adapters", least=1)
    steps: int = option(50, "steps of each concept's adapters", least=1)
    learning_rate: float = option(1e-5, "of AdamW", above=0)
    weight_decay: float = option(0.01, "of AdamW", least=0)
    pictures: int = option(8, "pictures of each concept that are drawn first", least=1)
    guidance: float | None = option(None, "scale of guidance of the pictures; none takes the pipeline's", above=0)
    masks: Literal["attention", "none"] = option(
        "attention", "where the concept is: where the picture attends to its word, or (styles) everywhere"
    )
    threshold: float = option(0.5, "of attention, from 0 to 1: where it is as much, the concept is", least=0, most=1)
    mask_side: int = option(16, "masks are of the attentions with nearest to so many cells a side", least=1)
    times: Literal["focal", "even"] = option("focal", "timesteps: mostly a fifth to two of all, or all alike")
    squared: bool = option(False, "sum squares of attention, as the paper; the release has norms")
    keep: Literal["best", "last"] = option("last", "which weights: those of the least score, or the last ones")

    @property
    def plan(self) -> Plan:
        """How many steps, how large."""
        return Plan(self.steps, self.learning_rate, self.weight_decay)


def focal(u: Tensor, n: int) -> Tensor:
    """Numbers drawn evenly from 0 to 1 -> times of density `s(a (t - t1)) - s(a (t - t2))` with s the sigmoid.

    Args:
        u: The numbers.
        n: How many timesteps there are.

    >>> [round(float(x), 2) for x in focal(torch.tensor([0.1, 0.5, 0.9]), 1000)]
    [0.21, 0.3, 0.39]
    """
    first, last, slope = _FOCUS
    t = (torch.arange(n, dtype=torch.float64)) / n
    weight = torch.sigmoid(slope * (t - first)) - torch.sigmoid(slope * (t - last))
    steps = torch.searchsorted(weight.cumsum(0) / weight.sum(), u.double()).clamp(max=n - 1)
    return (steps + 0.5) / n


def attended(maps: Maps, rows: Sequence[Sequence[int]], masks: Tensor | None, latents: Tensor, squared: bool) -> Tensor:
    """How much regions of pictures attend to rows of their texts (arXiv:2403.06135, equation 4), mean over pictures.

    Of each picture the sum over layers of the Frobenius norm, or its square, of attention from the cells of the mask to
    the rows, in all heads.

    Args:
        maps: The attention.
        rows: Of each of n pictures.
        masks: (n, height, width) booleans; None is everywhere.
        latents: (n, ...) as the denoiser is given them.
        squared: Whether squares are summed.
    """
    found = torch.zeros((), device=latents.device)
    for x in maps.values():
        there = None if masks is None else resized(masks, grid_of(x.shape[2], latents))
        for i, own in enumerate(rows):
            part = x[i][:, :, list(own)]
            part = part if there is None else part[:, there[i]]
            found = found + (part.square().sum() if squared else torch.linalg.vector_norm(part))
    return found / len(rows)


class Scenes:
    """What adapters of one concept are trained on: its pictures as the pipeline draws them now, and where it is.

    Args:
        view: The pipeline, as it draws the concept.
        concept: The concept.
        config: The options.
        call: Further arguments of the pipeline's call.
        segment: Says where the concept is.
    """

    def __init__(
        self,
        view: PipelineView,
        concept: Concept,
        config: SuppressionConfig,
        call: Mapping[str, Any] | None,
        segment: Segment | None,
    ) -> None:
        (self.concept,) = told([concept])
        of = f" {concept.erase_from}" if concept.erase_from else ""
        words = [word for _ in self.concept.templates for word in concept.words]
        pairs = pairs_of([self.concept], in_templates=True)
        self.prompts = [pair.key.prompt for pair in pairs]
        self.shown = [pair.target.prompt for pair in pairs]
        self.bare = [word + of for word in concept.words]
        self.rows = [_suppressed(view, text, word) for text, word in zip(self.prompts, words, strict=True)]
        passes = Passes(
            view, [*self.bare, *self.prompts], call=call, guidance=config.guidance, precision=config.precision
        )
        self.clean = drawn(passes, config, self.bare, config.pictures)
        self.masks = self._masks(passes, config, segment)

    def _masks(self, passes: Passes, config: SuppressionConfig, segment: Segment | None) -> Tensor | None:
        if segment is not None:
            pixels = drawn(passes, config, self.bare, config.pictures, latent=False)
            return _checked(segment(pixels, self.concept.name), pixels).to(passes.device)
        if config.masks == "none":
            return None
        view, n = passes.view, len(self.clean)
        texts = [self.bare[i % len(self.bare)] for i in range(n)]
        words = [self.concept.words[i % len(self.bare)] for i in range(n)]
        noising, schedule = Noising(view.scheduler, view.prediction_type), passes.schedule(config.sampling_steps)
        noise = noise_like(self.clean, generator(config.seed, _MASKED))
        t = noising.drawn(schedule, _at(noising, torch.full((n,), sum(_FOCUS[:2]) / 2))).to(self.clean.device)
        x = noising.noised(self.clean, noise, t)
        found = []
        for i in range(0, n, config.at_once):
            part = slice(i, i + config.at_once)
            with torch.no_grad(), noted(view.denoiser, cross_attentions(view)) as maps:
                passes(view.denoiser, x[part], t[part], texts[part])
            rows = [word_rows(view, text, word) for text, word in zip(texts[part], words[part], strict=True)]
            found.append(masks_of(maps, rows, x[part], config.mask_side, config.threshold))
        return torch.cat(found)


def _at(noising: Noising, times: Tensor) -> Tensor:
    """Shares of the way from no noise to noise, as `Noising.drawn` takes them: schedules of flows begin with noise."""
    return 1 - times if noising.prediction == "flow" else times


def _checked(masks: Any, pixels: Tensor) -> Tensor:
    if not isinstance(masks, Tensor) or masks.ndim != 3 or len(masks) != len(pixels):
        raise InputError(
            f"segment gave {shown(masks)} for {len(pixels)} pictures: return a tensor (n, height, width), true where "
            "the concept is"
        )
    if not bool(masks.bool().flatten(1).any(1).all()):
        raise InputError("segment finds the concept nowhere in a picture: there is nothing to suppress in it")
    return masks.bool()


def _suppressed(view: PipelineView, prompt: str, word: str) -> tuple[int, ...]:
    """Rows of a word, and of the end of text and padding, which carry it too."""
    found = set(word_rows(view, prompt, word))
    for tokens in view.tokens(prompt).values():
        behind = [*range(*tokens.padding), *(() if tokens.eos is None else (tokens.eos,))]
        found |= {*tokens.sequence_rows([row for row in behind if row >= tokens.content[0]])}
    return tuple(sorted(found))


def suppressed(
    view: PipelineView,
    scenes: Scenes,
    config: SuppressionConfig,
    method: str,
    checkpoint: str | os.PathLike[str] | None,
    seconds: float,
    call: Mapping[str, Any] | None,
) -> WeightErasure:
    """Train one concept's adapters on the pipeline as it is now.

    Weights are compared, for the report, by how near what is said of the concept is to what is said of its anchor.

    Args:
        view: The pipeline.
        scenes: Pictures of the concept.
        config: The options.
        method: Name of the method.
        checkpoint: Folder for the state.
        seconds: Least time between two writings.
        call: Further arguments of the pipeline's call.
    """
    paths, layers = cross_attentions(view), tuple(chosen_layers(view, "x-strict"))
    student = LowRankAdapters(
        denoiser_of(view), layers, config.rank, generator(config.seed, _FACTORS), spread=1 / config.rank
    )
    shown = dict(zip(scenes.prompts, scenes.shown, strict=True))

    def aim(concept: Concept, word: str, template: str) -> Aim:
        asked = template.replace("{}", f"{word} {concept.erase_from}" if concept.erase_from else word)
        target = shown.get(asked, template.replace("{}", concept.anchor or concept.erase_from or ""))
        return Aim(asked, ((1.0, None if target == concept.neutral else target),))

    tuning = Tuning(view, [scenes.concept], config, method, aim, texts=scenes.prompts, call=call, student=student)
    noising = Noising(view.scheduler, view.prediction_type)
    times = (lambda u: _at(noising, focal(u, noising.times))) if config.times == "focal" else None
    pictures = Pictures(tuning, scenes.bare, config.pictures, clean=scenes.clean, times=times)

    def loss(step: int) -> Tensor:
        x, t, _, _, rows = pictures.at(step)
        source = generator(config.seed, _ASKED, step)
        asked = torch.randint(len(scenes.prompts), (len(x),), generator=source).tolist()
        with noted(student.module, paths) as maps:
            tuning.said(x, t, [scenes.prompts[i] for i in asked])
        masks = None if scenes.masks is None else scenes.masks[list(rows)]
        return attended(maps, [scenes.rows[i] for i in asked], masks, x, config.squared)

    share = None if scenes.masks is None else float(scenes.masks.float().mean())
    return tuning.run(loss, checkpoint, seconds, masked=share)
