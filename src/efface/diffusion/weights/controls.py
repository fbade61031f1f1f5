"""The plainest ways to unlearn by tuning: what a method that is made for concepts is to be better than."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from efface._errors import InputError
from efface.core.concept import Concept
from efface.core.config import option
from efface.core.method import Method, register
from efface.diffusion.text.contexts import templates_of
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.passes import Aim
from efface.diffusion.weights.pictures import Pictures
from efface.diffusion.weights.student import Student, TunedWeights
from efface.diffusion.weights.tuning import LayersConfig, Plan, Tuning, ready
from efface.pipelines.view import PipelineView

ASCENT, VECTOR = "gradient-ascent", "task-vector"
_HELD = 1
"""Stream of what is drawn of the pictures that are retained."""


@dataclass(frozen=True, kw_only=True)
class PicturesConfig(LayersConfig):
    """Options of those that know nothing but pictures; there is no release for pipelines with defaults to be taken."""

    steps: int = option(100, "steps", least=1)
    learning_rate: float = option(1e-5, "of Adam", above=0)
    batch: int = option(4, "samples a step", least=1)
    pictures: int = option(100, "pictures of the concept that are drawn first", least=1)
    evaluate_every: int = option(5, "steps from one comparison of weights to the next: it goes astray soon", least=1)
    guidance: float | None = option(None, "scale of guidance of the pictures; none takes the pipeline's", above=0)

    @property
    def plan(self) -> Plan:
        """How many steps, how large."""
        return Plan(self.steps, self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class AscentConfig(PicturesConfig):
    """Options of gradient ascent."""

    bound: float | None = option(None, "mean loss on the concept's pictures at which the climb ends; or none", above=0)
    retain: float = option(0.0, "times the usual loss on pictures of preserved words, beside it (GradDiff)", least=0)


@dataclass(frozen=True, kw_only=True)
class VectorConfig(PicturesConfig):
    """Options of the task vector."""

    alpha: float = option(1.0, "how far the other way: times what tuning on the concept has changed", above=0)


def _aim(_concept: Concept, word: str, template: str) -> Aim:
    """What weights are compared by: that the concept's prompts say what the neutral prompt says."""
    return Aim(template.replace("{}", word), ((1.0, None),))


def _usual(tuning: Tuning, texts: Sequence[str], n: int, stream: int = 0) -> Callable[[int], Tensor]:
    """The denoiser's loss on n pictures that the pipeline draws of prompts, step by step."""
    pictures = Pictures(tuning, texts, n)

    def loss(step: int) -> Tensor:
        x, t, truth, which, _ = pictures.at(step, stream)
        return F.mse_loss(tuning.said(x, t, [texts[i] for i in which]), truth.float())

    return loss


def _tuned(
    name: str,
    of: Callable[[Tensor], Tensor],
    view: PipelineView,
    concepts: Sequence[Concept],
    config: PicturesConfig,
    checkpoint: str | os.PathLike[str] | None,
    seconds: float,
    call: Mapping[str, Any] | None,
    retain: float = 0.0,
    **more: Any,
) -> WeightErasure:
    """Descend what `of` makes of the loss on the concepts' pictures, and `retain` times that on preserved ones."""
    texts = [t.replace("{}", w) for e in concepts for t in templates_of(e) for w in e.words]
    others = [t.replace("{}", w) for e in concepts for t in templates_of(e) for w in e.preserve] if retain else []
    if retain and not others:
        raise InputError(f"retain={retain:g} holds pictures of preserved words: give the concept some, preserve=[...]")
    tuning = Tuning(view, concepts, config, name, _aim, texts=[*texts, *others], call=call, **more)
    climbed = _usual(tuning, texts, config.pictures)
    held = _usual(tuning, others, config.pictures, _HELD) if others else None

    def loss(step: int) -> Tensor:
        return of(climbed(step)) if held is None else of(climbed(step)) + retain * held(step)

    return tuning.run(loss, checkpoint, seconds)


@ready
def ascend(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: AscentConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    call: Mapping[str, Any] | None = None,
) -> WeightErasure:
    """Climb `|e'(x_t, c) - truth|^2` on pictures of the concept.

    Without `bound` nothing ends it, and without `retain` nothing holds the rest: what is kept are the weights that
    compare best (see `tuning`), which is soon. With `retain` it is gradient difference (GradDiff, arXiv:2203.12817):
    the usual loss on as many pictures of preserved words goes down beside it; `keep="last"` takes the last weights.

    Args:
        view: The pipeline.
        concepts: The concepts.
        config: The options.
        checkpoint: Folder for the state; a fit that was interrupted goes on from there, to the same bits.
        checkpoint_seconds: Least time between two writings.
        call: Further arguments of the pipeline's call, for the pictures.

    Raises:
        InputError: If the pipeline cannot read a word, has no such layers, or there is nothing to retain.
        DivergedError: If the loss is not finite; the weights before are in the checkpoint.
    """

    def climbed(loss: Tensor) -> Tensor:
        return -(loss if config.bound is None else loss.clamp(max=config.bound))

    return _tuned(ASCENT, climbed, view, concepts, config, checkpoint, checkpoint_seconds, call, config.retain)


@ready
def negate(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: VectorConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    call: Mapping[str, Any] | None = None,
) -> WeightErasure:
    """Tune on pictures of the concept, to W', and go the other way: `W - alpha (W' - W)` (arXiv:2212.04089).

    Weights are compared after going the other way, so that of all steps the best vector is kept.

    Args:
        view: The pipeline.
        concepts: The concepts.
        config: The options.
        checkpoint: Folder for the state; a fit that was interrupted goes on from there, to the same bits.
        checkpoint_seconds: Least time between two writings.
        call: Further arguments of the pipeline's call, for the pictures.

    Raises:
        InputError: If the pipeline cannot read a word, or has no such layers.
        DivergedError: If the loss is not finite; the weights before are in the checkpoint.
    """

    def turned(student: Student) -> list[Tensor]:
        assert isinstance(student, TunedWeights)
        pairs = zip(student.before, student.values(), strict=True)
        return [old.detach().to(new) - config.alpha * (new - old.detach().to(new)) for old, new in pairs]

    return _tuned(VECTOR, Tensor.clone, view, concepts, config, checkpoint, checkpoint_seconds, call, outcome=turned)


for _name, _fit, _config, _summary, _paper in (
    (ASCENT, ascend, AscentConfig, "climb the denoiser's usual loss on pictures of the concept: a control", "none"),
    (VECTOR, negate, VectorConfig, "tune on the concept and go the other way: a control", "arXiv:2212.04089"),
):
    register(
        Method(
            name=_name,
            subjects=("pipeline",),
            summary=_summary,
            paper=_paper,
            fit=_fit,
            erasure=WeightErasure,
            config=_config,
            reads=("synonyms", "preserve", "templates", "neutral"),
            access=("prompts", "latents", "gradients", "weights"),
            access_on=("weights",),
            guarantee="it is undone bit for bit; nothing but the chosen layers of the denoiser changes",
            no_guarantee="that the concept is gone, or that anything else stays: it is there to be compared with",
        )
    )
