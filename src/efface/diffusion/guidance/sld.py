"""Safe Latent Diffusion: guide away from a concept where, and as far as, the prediction turns towards it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.edits import Edit, OnPrediction, OnText
from efface.core.erasure import Erasure
from efface.core.method import Method, register
from efface.core.run import Run
from efface.diffusion.format_1 import rest_of, upgraded_erasure
from efface.diffusion.guidance.away import check_guided, tell_unguided, text_of
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.steps import Step
from efface.pipelines.view import PipelineView

NAME = "sld"
Preset = Literal["weak", "medium", "strong", "max"]


class Strength(NamedTuple):
    """The parameters in the paper's order; see `SldConfig`."""

    scale: float
    warmup: int
    threshold: float
    momentum_scale: float
    momentum_beta: float


PRESETS: Mapping[Preset, Strength] = {
    "weak": Strength(200, 15, 0.0, 0.0, 0.0),
    "medium": Strength(1000, 10, 0.01, 0.3, 0.4),
    "strong": Strength(2000, 7, 0.025, 0.5, 0.7),
    "max": Strength(5000, 0, 1.0, 0.5, 0.7),
}
"""The paper's four configurations (section 4), made for 50 steps and guidance 7.5 at 512 pixels."""


@dataclass(frozen=True, kw_only=True)
class SldConfig(Config):
    """Options of Safe Latent Diffusion, in the paper's symbols; where one is None, it is the preset's."""

    preset: Preset = option("medium", "one of the paper's four configurations")
    text: str | None = option(None, "what to guide away from; None takes all words with commas between them")
    scale: float | None = option(None, "s_S: how steeply an element is guided away once it turns there", above=0)
    warmup: int | None = option(None, "delta: steps that are left alone", least=0)
    threshold: float | None = option(None, "lambda: guided is where e(prompt) - e(concept) is under it")
    momentum_scale: float | None = option(None, "s_m: how much of the momentum is added", least=0)
    momentum_beta: float | None = option(None, "beta_m: how much of it is kept from step to step", least=0, below=1)

    @property
    def strength(self) -> Strength:
        """The parameters: the preset's, and those given in their place."""
        given = {name: value for name in Strength._fields if (value := getattr(self, name)) is not None}
        return PRESETS[self.preset]._replace(**given)


@dataclass(frozen=True, eq=False, repr=False)
class SafeLatentDiffusion(Erasure):
    """Safe Latent Diffusion (arXiv:2211.05105), a third branch of classifier-free guidance for the concept.

    With `e_p`, `e_0`, `e_S` the predictions for the prompt, the negative prompt and the concept, at each step and in
    each element: `mu = min(1, s_S |e_p - e_S|)` where `e_p - e_S < lambda`, else 0 (equations 5 and 6);
    `gamma = mu (e_S - e_0) + s_m nu` (4 and 7); `nu <- beta_m nu + (1 - beta_m) gamma` (8). From step `warmup` on the
    guided prediction is `e_0 + s (e_p - e_0 - gamma)` (3). The momentum `nu` starts at zero in every sampling.

    What the denoiser predicts (noise, velocity, flow) is guided as it is; the parameters were chosen for noise. It
    costs one more pass a step, and one memory of the size of the latents. The pass is left out during warm-up where
    there is no momentum to build up. Wan makes its negative prediction after the prompt's, so it is made twice there.

    The presets are the paper's. `SafetyConfig.WEAK` of diffusers has `s_S` = 20 where the paper has 200; write
    `scale=20` for that one. Own scales up to 1, which diffusers takes for "off", are applied here.

    Does not guarantee: anything where there is no guidance (scale 1 or less, distilled models), which is warned of or
    refused; that a preset made for 50 steps does as much in fewer (a warm-up of 15 steps leaves 15 alone); nor that the
    concept is unknown to the model: a user of the weights can leave this out.

    Attributes:
        text: What is guided away from.
    """

    text: str
    config: SldConfig = field(default=SldConfig(), kw_only=True, repr=False)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """It listens to what a call encodes, and changes the prediction of each step."""
        listening = OnText(self.heard, listens=True, suits=partial(check_guided, method=NAME))
        return (listening, OnPrediction(after=self.guided))

    def _kept(self, run: Run) -> _Kept:
        return run.memory.setdefault(id(self), _Kept())

    def heard(self, embedding: PromptEmbedding, run: Run) -> None:
        """Encode the concept with the options of the call, such as `max_sequence_length`."""
        kept = self._kept(run)
        kept.concept = kept.momentum = None
        if embedding.negative is None:
            return tell_unguided(self, run, len(embedding))
        kept.concept = run.view.encode([self.text] * len(embedding), allow_unknown=True)

    def guided(self, step: Step, run: Run) -> Tensor | None:
        """The prompt's prediction less gamma, which guidance then multiplies as equation 3 says."""
        kept, negative, s = self._kept(run), step.embedding.negative, self.config.strength
        if kept.concept is None or negative is None:
            return None
        # Where one pass makes both branches, a pass for prompts alone is one without guidance.
        if step.uncond is None and not getattr(run.view.pipe, "do_classifier_free_guidance", False):
            return tell_unguided(self, run, len(step.cond)) if step.index == 0 else None
        if step.index == 0:
            run.count("prompts", len(step.cond))
        warm = step.index >= s.warmup
        if not warm and s.momentum_scale == 0:
            return None
        gamma = kept.gamma(step, s, kept.concept, negative)
        if not warm:
            return None
        run.count("steps guided", len(step.cond))
        return (step.cond.float() - gamma).to(step.cond.dtype)

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Data of format 1 as those of today."""
        strength = {**plain["strength"], "warmup": int(plain["strength"]["warmup"])}
        config = {"text": plain["text"], **strength, **rest_of(plain, "text", "strength")}
        return upgraded_erasure(plain, config, text=plain["text"]), tensors


class _Kept:
    """What one thread's sampling keeps from step to step.

    Attributes:
        concept: The concept, as encoded for it; None without guidance.
        momentum: nu; None at the start, where it is zero.
    """

    concept: PromptEmbedding | None = None
    momentum: Tensor | None = None

    def gamma(self, step: Step, s: Strength, concept: PromptEmbedding, negative: PromptEmbedding) -> Tensor:
        """What is guided away from at a step; the momentum goes on."""
        safety = step.predict(concept).float()
        uncond = step.predict(negative) if step.uncond is None else step.uncond
        away = step.cond.float() - safety
        mu = torch.where(away < s.threshold, (s.scale * away.abs()).clamp(max=1), 0)  # equations 5 and 6
        gamma = mu * (safety - uncond.float())  # equation 4
        if self.momentum is not None:
            gamma = gamma + s.momentum_scale * self.momentum  # equation 7
        kept = 0 if self.momentum is None else s.momentum_beta * self.momentum
        self.momentum = kept + (1 - s.momentum_beta) * gamma  # equation 8
        return gamma


def fit(view: PipelineView, concepts: Sequence[Concept], config: SldConfig) -> SafeLatentDiffusion:
    """Nothing is learnt; several concepts are guided away from as one text.

    Raises:
        InputError: If the pipeline has no guidance or does not know the words.
    """
    check_guided(view, NAME)
    text = text_of(view, concepts, config.text)
    return SafeLatentDiffusion(text, method=NAME, concepts=tuple(concepts), config=config)


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="guide away from the concept where the prediction turns towards it",
        paper="arXiv:2211.05105",
        fit=fit,
        erasure=SafeLatentDiffusion,
        config=SldConfig,
        reads=("synonyms",),
        reads_with=lambda config, data: () if config.text is not None else ("synonyms",),
        access=("prompts",),
        access_on=("prompts", "latents"),
        guarantee="the formulas of the paper, element by element and step by step",
        no_guarantee="anything without guidance, as much in fewer steps than 50, or against who leaves this out",
    )
)
