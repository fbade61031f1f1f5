"""Safe Latent Diffusion: guide away from a concept where, and as far as, the prediction turns towards it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from efface._errors import InputError, NothingErasedWarning
from efface._registry import Method, register
from efface.diffusion.erasure import Erasure
from efface.diffusion.spec import Concepts, ErasureSpec
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.steps import Step
from efface.pipelines.view import PipelineView

Preset = Literal["weak", "medium", "strong", "max"]


@dataclass(frozen=True)
class SafetyStrength:
    """The parameters of Safe Latent Diffusion, in the paper's symbols.

    Attributes:
        scale: s_S, above 0: how steeply an element is guided away once it turns towards the concept.
        warmup: delta: steps that are left alone, from 0.
        threshold: lambda: an element is guided where `e(prompt) - e(concept)` is under it.
        momentum_scale: s_m, from 0: how much of the momentum is added.
        momentum_beta: beta_m, in [0, 1): how much of the momentum is kept from step to step.

    Raises:
        InputError: If one is out of range.
    """

    scale: float
    warmup: int
    threshold: float
    momentum_scale: float
    momentum_beta: float

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{name}={value!r}: write a finite number")
        if self.scale <= 0:
            raise InputError(f"scale={self.scale}: write a number above 0, e.g. 1000")
        if self.warmup < 0 or self.warmup != int(self.warmup):
            raise InputError(f"warmup={self.warmup}: write a number of steps, from 0")
        if self.momentum_scale < 0:
            raise InputError(f"momentum_scale={self.momentum_scale}: write a number from 0")
        if not 0 <= self.momentum_beta < 1:
            raise InputError(f"momentum_beta={self.momentum_beta}: write a number from 0 to under 1")


PRESETS: Mapping[str, SafetyStrength] = {
    "weak": SafetyStrength(200, 15, 0.0, 0.0, 0.0),
    "medium": SafetyStrength(1000, 10, 0.01, 0.3, 0.4),
    "strong": SafetyStrength(2000, 7, 0.025, 0.5, 0.7),
    "max": SafetyStrength(5000, 0, 1.0, 0.5, 0.7),
}
"""The paper's four configurations (section 4), made for 50 steps and guidance 7.5 at 512 pixels."""


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
        strength: The parameters.
    """

    method = "sld"

    def __init__(self, specs: ErasureSpec | Sequence[ErasureSpec], text: str, strength: SafetyStrength) -> None:
        super().__init__(specs)
        self.text, self.strength = text, strength

    @classmethod
    def fit(
        cls, pipe: Any, spec: Concepts, *, preset: Preset = "medium", text: str | None = None, **own: float
    ) -> SafeLatentDiffusion:
        """Nothing is learnt.

        Args:
            pipe: A pipeline with classifier-free guidance.
            spec: The concept, or several, which are guided away from as one text.
            preset: `"weak"`, `"medium"`, `"strong"` or `"max"`.
            text: What to guide away from, if not all targets and synonyms with commas between them.
            **own: Fields of `SafetyStrength` in place of the preset's, e.g. `warmup=3`.

        Raises:
            InputError: If the pipeline has no guidance or does not know the words, or a parameter is out of range.
        """
        specs, view = ErasureSpec.each(spec), PipelineView.of(pipe)
        _check(view)
        if preset not in PRESETS:
            raise InputError(f"preset={preset!r}: choose one of {', '.join(map(repr, get_args(Preset)))}")
        known = [field.name for field in dataclasses.fields(SafetyStrength)]
        if unknown := sorted(set(own) - set(known)):
            raise InputError(f"method='sld' has no parameter {unknown[0]!r}: it has {', '.join(known)}")
        strength = dataclasses.replace(PRESETS[preset], **own)
        for each in specs:
            each.check(view)
        text = ", ".join(word for each in specs for word in each.concepts) if text is None else text
        view.check_prompts([text], allow_unknown=True)  # the words are known; commas need not be
        return cls(specs, text, strength)

    def _install(self, view: PipelineView) -> Callable[[], None]:
        _check(view)
        branch = _SafetyBranch(self, view)
        with ExitStack() as stack:
            stack.callback(view.install_edit(branch.encoded, once=False))
            stack.callback(view.install_rule(branch.guided))
            return stack.pop_all().close

    def config(self) -> dict[str, Any]:
        """The text and the parameters."""
        return {"text": self.text, "strength": dataclasses.asdict(self.strength)}

    @classmethod
    def _restore(
        cls, specs: Sequence[ErasureSpec], config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> SafeLatentDiffusion:
        return cls(specs, str(config["text"]), SafetyStrength(**config["strength"]))


class _SafetyBranch:
    """What one pipeline's sampling keeps from step to step: the concept as encoded for it, and the momentum."""

    def __init__(self, erasure: SafeLatentDiffusion, view: PipelineView) -> None:
        self.erasure, self.view, self.strength = erasure, view, erasure.strength
        self.concept: PromptEmbedding | None = None
        self.momentum: Tensor | None = None

    def encoded(self, embedding: PromptEmbedding) -> None:
        """Encode the concept with the options of the call, such as `max_sequence_length`."""
        self.momentum = None
        if embedding.negative is not None:
            self.concept = self.view.encode([self.erasure.text] * len(embedding), allow_unknown=True)
        else:
            self.concept = None
            self._warn(len(embedding))

    def guided(self, step: Step) -> Tensor | None:
        """The prompt's prediction less gamma, which guidance then multiplies as equation 3 says."""
        concept, negative = self.concept, step.embedding.negative
        if concept is None or negative is None:
            return None
        # Where one pass makes both branches, a pass for prompts alone is one without guidance.
        if step.uncond is None and not getattr(self.view.pipe, "do_classifier_free_guidance", False):
            if step.index == 0:
                self._warn(len(step.cond))
            return None
        if step.index == 0:
            self.erasure.count("prompts", len(step.cond))
        warm, s = step.index >= self.strength.warmup, self.strength
        if not warm and s.momentum_scale == 0:
            return None
        gamma = self._gamma(step, concept, negative)
        if not warm:
            return None
        self.erasure.count("steps guided", len(step.cond))
        return (step.cond.float() - gamma).to(step.cond.dtype)

    def _gamma(self, step: Step, concept: PromptEmbedding, negative: PromptEmbedding) -> Tensor:
        s = self.strength
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

    def _warn(self, n: int) -> None:
        self.erasure.count("prompts without guidance", n)
        warnings.warn(
            f"{self.erasure!r} erases nothing in a call without guidance: pass a guidance_scale above 1",
            NothingErasedWarning,
            stacklevel=2,
        )


def _check(view: PipelineView) -> None:
    if not view.guidance.negative:
        raise InputError(
            f"{type(view.pipe).__name__} has {view.guidance.mode} guidance and runs without a negative prompt, so that "
            "method='sld' has nothing to guide with: choose a method that edits text or weights"
        )


register(
    Method(
        name=SafeLatentDiffusion.method,
        kind="diffusion",
        paper="arXiv:2211.05105",
        summary="guide away from the concept where the prediction turns towards it",
        fitter=SafeLatentDiffusion,
        eraser=SafeLatentDiffusion,
        needs=("guidance",),
    )
)
