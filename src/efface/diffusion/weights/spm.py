"""SPM: an adapter of rank one beside each layer learns to erase, and to say the same of all other texts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from efface.core.concept import Concept
from efface.core.config import option
from efface.core.method import Method, register
from efface.diffusion.weights.draws import Draws
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.layers import Modules, chosen_layers, denoiser_of
from efface.diffusion.weights.passes import Aim
from efface.diffusion.weights.permeable import permeable
from efface.diffusion.weights.student import LowRankAdapters
from efface.diffusion.weights.tuning import LayersConfig, Plan, Tuning, ready
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView
from efface.training.seeds import generator

NAME = "spm"
_FACTORS, _TEXTS = 12, 13
_CYCLES, _WARM = 3, 6


@dataclass(frozen=True, kw_only=True)
class SpmConfig(LayersConfig):
    """Options of SPM, with the defaults of its release for SD 1.4."""

    modules: Modules = option("transformers", "which layers have an adapter beside them")
    rank: int = option(1, "rank of the adapters", least=1)
    steps: int = option(3000, "steps", least=1)
    learning_rate: float = option(1e-4, "largest of AdamW's: it rises for a sixth of the steps, then three cosines")
    eta: float = option(1.0, "how far beyond what is shown instead", least=0)
    keeping: float = option(1000.0, "weight of saying the same of other texts", least=0)
    others: int = option(4, "random texts a step of which the same is to be said", least=1)
    sampling_steps: int = option(30, "steps of the scheduler, of which a sampling takes some", least=1)
    transport: Literal["none", "cosine", "words", "both"] = option(
        "none",
        "let a prompt's share of the change in: by its cosine with the concept, words of its name, the larger",
    )

    @property
    def plan(self) -> Plan:
        """How many steps, how large; torch's weight decay, which the release leaves as it is."""
        return Plan(self.steps, self.learning_rate, 0.01)

    @property
    def rate(self) -> Callable[[int], float]:
        """Learning rate of each step."""
        return partial(_rate, self.steps, self.learning_rate)


def _rate(steps: int, most: float, step: int) -> float:
    """A rise, then cosines that start anew.

    >>> [round(_rate(600, 1.0, step), 2) for step in (0, 50, 100, 266, 267, 599)]
    [0.0, 0.5, 1.0, 0.0, 1.0, 0.0]
    """
    warm = steps // _WARM
    if step < warm:
        return most * step / warm
    return most * 0.5 * (1 + math.cos(math.pi * (_CYCLES * (step - warm) / max(1, steps - warm) % 1)))


def aim_of(eta: float, concept: Concept, word: str, template: str = "{}") -> Aim:
    """`e(s) - eta (e(c) - e(s))`, s being the anchor in the concept's place, or the neutral prompt."""
    shown = None if concept.anchor is None else template.replace("{}", concept.anchor)
    asked = template.replace("{}", word)
    return Aim(asked, ((1 + eta, shown), (-eta, asked)))


def other_texts(embedding: PromptEmbedding, n: int, source: Generator) -> PromptEmbedding:
    """N random texts as long as one that is given: Gaussian, 0.8 to 1.2 times its norm.

    Each is taken with a probability of 1 minus its cosine with it, so that none says what it says.
    """
    found: list[PromptEmbedding] = []
    while len(found) < n:
        size, chance = 0.8 + 0.4 * torch.rand(1, generator=source), torch.rand(1, generator=source)
        drawn = {role: _random(x, source) for role, x in embedding.tensors().items() if role != "mask"}
        cosine = F.cosine_similarity(drawn["sequence"].flatten(), embedding.sequence.flatten(), dim=0)
        if float(chance) <= 1 - float(cosine):
            found.append(embedding.replace(**{role: x * size.to(x) for role, x in drawn.items()}))
    return PromptEmbedding.cat(found)


def _random(x: Tensor, source: Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=source).to(x)
    return noise * (x.norm() / noise.norm())


@ready
def fit(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: SpmConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    call: Mapping[str, Any] | None = None,
) -> WeightErasure:
    """Train the adapters on latents that they draw themselves.

    A step descends (arXiv:2312.16145, equations 4 and 5)

        |e'(x_t, c) - (e(x_t, s) - eta (e(x_t, c) - e(x_t, s)))|^2 + keeping |e'(x_t, r) - e(x_t, r)|^2

    with s the anchor, or the neutral prompt, and r random texts (see `other_texts`). The result is one low-rank change
    of weights that is on for every prompt; with `transport` (facilitated transport; the release has `"both"`) one that
    leaves weights alone and is let in by each prompt as far as it is near the concept (`PermeableErasure`).

    Where ours differs from the released code: AdamW keeps its state in float32, not 8 bits; the warm-up is a sixth of
    the steps, as 500 are of 3000; transport is off by default, as with it a concept without its name is hardly erased.

    Args:
        view: The pipeline.
        concepts: The concepts; of several and their words one is drawn for each sample.
        config: The options.
        checkpoint: Folder for the state; a fit that was interrupted goes on from there, to the same bits.
        checkpoint_seconds: Least time between two writings.
        call: Further arguments of the pipeline's call, such as `height` and `width`, for the latents.

    Raises:
        InputError: If the pipeline cannot read a word, or has no such layers.
        DivergedError: If the loss is not finite; the weights before are in the checkpoint.
    """
    aims = [aim_of(config.eta, concept, word) for concept in concepts for word in concept.words]
    texts = [text for aim in aims for text in aim.texts]
    layers = tuple(chosen_layers(view, config.modules))
    student = LowRankAdapters(denoiser_of(view), layers, config.rank, generator(config.seed, _FACTORS))
    tuning = Tuning(view, concepts, config, NAME, partial(aim_of, config.eta), texts=texts, call=call, student=student)
    draws = Draws(tuning, aims, by_student=True)

    def loss(step: int) -> Tensor:
        x, t, asked = draws.at(step)
        target = tuning.passes.aimed(tuning.teacher, x, t, asked)
        found = F.mse_loss(tuning.said(x, t, [aim.asked for aim in asked]), target)
        if not config.keeping:
            return found
        source = generator(config.seed, _TEXTS, step)
        others = other_texts(tuning.passes.of([asked[0].asked]), config.others, source)
        there, times = x[:1].expand(config.others, *x.shape[1:]), t[:1].expand(config.others)
        with torch.no_grad():
            before = tuning.passes(tuning.teacher, there, times, others)
        return found + config.keeping * F.mse_loss(tuning.said(there, times, others), before)

    found = tuning.run(loss, checkpoint, checkpoint_seconds)
    return found if config.transport == "none" else permeable(view, found, concepts, config.transport)


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="train adapters of rank one that erase, and say the same of random other texts (SPM)",
        paper="arXiv:2312.16145",
        fit=fit,
        erasure=WeightErasure,
        config=SpmConfig,
        reads=("synonyms", "anchor", "preserve", "templates", "neutral"),
        access=("prompts", "latents", "gradients", "weights"),
        access_on=("weights",),
        guarantee="it is undone bit for bit; the change of each layer has the rank that was asked for",
        no_guarantee="that the concept is gone in other words, that real texts are said as before as random ones are, "
        "or anything against who leaves the change out",
    )
)
