"""Concept ablation: a denoiser is tuned to say of a concept, in pictures of its anchor, what it says of the anchor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from efface.core.concept import Concept
from efface.core.config import option
from efface.core.method import Method, register
from efface.diffusion.text.contexts import check_others, templates_of
from efface.diffusion.text.contrast import Contexts
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.layers import Modules
from efface.diffusion.weights.passes import Aim
from efface.diffusion.weights.pictures import Pictures
from efface.diffusion.weights.tuning import LayersConfig, Plan, Tuning, ready
from efface.pipelines.view import PipelineView

NAME = "concept-ablation"


@dataclass(frozen=True, kw_only=True)
class AblationConfig(LayersConfig):
    """Options of concept ablation, with the defaults of its release for SD 1.4."""

    kind: Literal["model", "noise"] = option("model", "what is to be said: what is said of the anchor, or the noise")
    teacher: Literal["itself", "original"] = option(
        "itself", "who says it of the anchor: the model as it is by then, as published, or as it was"
    )
    modules: Modules = option("x-strict", "which layers are tuned: keys and values of text; 'attention', 'all'")
    steps: int = option(100, "steps; 100 in the release, 400 for memorised pictures", least=1)
    learning_rate: float = option(8e-6, "of AdamW: 2e-6 times the batch in the release", above=0)
    weight_decay: float = option(0.01, "of AdamW", least=0)
    batch: int = option(4, "samples a step", least=1)
    prior: float = option(1.0, "weight of the usual loss on pictures of the anchor; 0 leaves it out", least=0)
    pictures: int = option(200, "pictures of the anchor that are drawn first", least=1)
    guidance: float | None = option(None, "scale of guidance of the pictures; none takes the pipeline's", above=0)
    # As published. The usual loss on pictures moves what is said of everything, which the rule counts as drift.
    keep: Literal["best", "last"] = option("last", "which weights: those of the least score, or the last ones")

    @property
    def plan(self) -> Plan:
        """How many steps, how large."""
        return Plan(self.steps, self.learning_rate, self.weight_decay)


def anchors_of(view: PipelineView, concepts: Sequence[Concept]) -> list[str]:
    """What each concept is to become: its anchor, or the word of `preserve` that is nearest to it.

    Raises:
        InputError: If one names neither.
    """
    check_others(concepts, "show in place of {}", "choose method='esd', which needs no anchor")
    return [each.anchor or Contexts.of(view, each).nearest() for each in concepts]


@ready
def fit(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: AblationConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    call: Mapping[str, Any] | None = None,
) -> WeightErasure:
    """Draw pictures of the anchors, then tune.

    With pictures x of an anchor's prompt a (the templates with the anchor in them), and c the same prompt with the
    concept in its place, a step descends (arXiv:2303.13516, equations 5 and 6)

        |e'(x_t, c) - stop_gradient(e'(x_t, a))|^2   (kind="model"; with teacher="original" e in place of e')
        |e'(x_t, c) - truth|^2                       (kind="noise")

    and `prior |e'(x_t, a) - truth|^2` on a draw of its own. `truth` is what the denoiser would predict if it knew
    picture and noise: the noise, or the velocity or flow that they make.

    Where ours differs from the released code: no pictures are mirrored (latents cannot be exactly); prompts are
    templates, not texts of a language model; where the concept names no anchor, the nearest of what it preserves is
    taken and reported; embeddings of tokens are not tuned (`"embedding"` of the release).

    Args:
        view: The pipeline.
        concepts: The concepts, each with an anchor, or with words to preserve.
        config: The options.
        checkpoint: Folder for the state; a fit that was interrupted goes on from there, to the same bits.
        checkpoint_seconds: Least time between two writings.
        call: Further arguments of the pipeline's call, such as `height` and `width`, for the pictures.

    Raises:
        InputError: If the pipeline cannot read a word, there is no anchor, or there are no such layers.
        DivergedError: If the loss is not finite; the weights before are in the checkpoint.
    """
    for each in concepts:
        view.check_concept(each)
    anchors = dict(zip(concepts, anchors_of(view, concepts), strict=True))

    def aim(concept: Concept, word: str, template: str) -> Aim:
        return Aim(template.replace("{}", word), ((1.0, template.replace("{}", anchors[concept])),))

    pairs = [(e, w, t) for e in concepts for t in templates_of(e) for w in e.words]
    asked = [aim(*pair) for pair in pairs]
    texts = [text for each in asked for text in each.texts]
    tuning = Tuning(view, concepts, config, NAME, aim, texts=texts, call=call)
    of_anchor = [str(each.terms[0][1]) for each in asked]
    pictures = Pictures(tuning, of_anchor, config.pictures)

    def loss(step: int) -> Tensor:
        x, t, truth, which, _ = pictures.at(step)
        aims = [asked[i] for i in which]
        said = tuning.said(x, t, [each.asked for each in aims])
        if config.kind == "model":
            teacher = tuning.student.module if config.teacher == "itself" else tuning.teacher
            truth = tuning.passes.aimed(teacher, x, t, aims)
        found = F.mse_loss(said, truth.float())
        if config.prior:
            x, t, truth, which, _ = pictures.at(step, 1)
            found = found + config.prior * F.mse_loss(tuning.said(x, t, [of_anchor[i] for i in which]), truth.float())
        return found

    shown = {concept.name: anchor for concept, anchor in anchors.items()}
    return tuning.run(loss, checkpoint, checkpoint_seconds, anchors=shown)


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="tune the denoiser to say of the concept what it says of an anchor, in pictures of the anchor",
        paper="arXiv:2303.13516",
        fit=fit,
        erasure=WeightErasure,
        config=AblationConfig,
        reads=("synonyms", "anchor", "preserve", "templates", "neutral"),
        access=("prompts", "latents", "gradients", "weights"),
        access_on=("weights",),
        guarantee="it is undone bit for bit; nothing but the chosen layers of the denoiser changes",
        no_guarantee="that the concept is gone in other words, that the anchor and siblings stay as they were, or "
        "anything against who tunes it back",
    )
)
