"""Erased Stable Diffusion: a denoiser is tuned to say of a concept the opposite of what guidance would follow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from efface.core.concept import Concept
from efface.core.config import option
from efface.core.method import Method, register
from efface.diffusion.weights.draws import Draws
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.passes import Aim
from efface.diffusion.weights.tuning import LayersConfig, Plan, Tuning, ready
from efface.pipelines.view import PipelineView

NAME = "esd"
Preset = Literal["today", "paper"]
Base = Literal["concept", "neutral"]
Sampler = Literal["teacher", "student"]
Time = Literal["step", "within"]


class Recipe(NamedTuple):
    """What the releases differ in."""

    steps: int
    learning_rate: float
    eta: float
    base: Base
    sampler: Sampler
    time: Time


RECIPES: Mapping[Preset, Recipe] = {
    "today": Recipe(200, 5e-5, 2.0, "concept", "teacher", "step"),
    "paper": Recipe(1000, 1e-5, 1.0, "neutral", "student", "within"),
}
"""Of SD 1.4. Today's release has for SDXL a rate of 2e-4 (of `"u"` 1e-5) and guidance 2; both sample with DDIM-50."""


@dataclass(frozen=True, kw_only=True)
class EsdConfig(LayersConfig):
    """Options of ESD; where one is None, it is the preset's."""

    preset: Preset = option("today", "the published settings of today's release, or of the paper's")
    steps: int | None = option(None, "steps: 200 today, 1000 in the paper", least=1)
    learning_rate: float | None = option(None, "of Adam: 5e-5 today, 1e-5 in the paper", above=0)
    eta: float | None = option(None, "how far away from the concept: 2 today, 1 in the paper", above=0)
    base: Base | None = option(None, "from where: what is said of the concept (today), or of the neutral prompt")
    sampler: Sampler | None = option(None, "who draws the latents: the original (today), or the model being tuned")
    time: Time | None = option(None, "when: at the sampler's step (today), or anywhere up to the one before it")

    @property
    def recipe(self) -> Recipe:
        """The preset's, and what was given in its place."""
        given = {name: value for name in Recipe._fields if (value := getattr(self, name)) is not None}
        return RECIPES[self.preset]._replace(**given)

    @property
    def plan(self) -> Plan:
        """How many steps, how large."""
        return Plan(self.recipe.steps, self.recipe.learning_rate)


def aim_of(recipe: Recipe, concept: Concept, word: str, template: str = "{}") -> Aim:
    """What is to be said of a prompt with a word of the concept in it.

    `base - eta (e(prompt) - e(neutral))` with the base `e(from)` or `e(neutral)`, which is that of arXiv:2303.07345;
    with `erase_from`, from and what is asked are that.
    """
    text = template.replace("{}", word)
    start = concept.erase_from or text
    terms: dict[str | None, float] = dict.fromkeys((start if recipe.base == "concept" else None,), 1.0)
    for number, part in ((-recipe.eta, text), (recipe.eta, None)):
        terms[part] = terms.get(part, 0.0) + number
    return Aim(start, tuple((number, part) for part, number in terms.items()))


@ready
def fit(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: EsdConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    call: Mapping[str, Any] | None = None,
) -> WeightErasure:
    """Tune the denoiser; of several concepts and words, one is drawn for each sample.

    With `c` the concept, `0` the neutral prompt, `e` the original and `e'` the tuned denoiser, a step descends

        |e'(x_t, c) - (base - eta (e(x_t, c) - e(x_t, 0)))|^2

    in the mean over elements, `x_t` being latents that guided sampling of `c` comes by at a step drawn evenly. What is
    in `e` is the denoiser's own prediction (noise, velocity or flow), which guidance acts on.

    Where ours differs from the released code: layers are told apart by what they read (`modules`); what is trained is
    float32 whatever the pipeline is loaded as (today's release trains in bfloat16); the neutral prompt is what the
    pipeline's guidance starts from (zeros in SDXL, where the release encodes ""); pictures have the pipeline's own size
    (the release draws 1024 x 1024 also of SD 1.4); `"u"` is all that is not `"x"`, as today (the paper's leaves out
    the time embedding and the last layer).

    Args:
        view: The pipeline.
        concepts: The concepts.
        config: The options.
        checkpoint: Folder for the state; a fit that was interrupted goes on from there, to the same bits.
        checkpoint_seconds: Least time between two writings.
        call: Further arguments of the pipeline's call, such as `height` and `width`, for the latents.

    Raises:
        InputError: If the pipeline cannot read a word, or has no such layers.
        DivergedError: If the loss is not finite; the weights before are in the checkpoint.
    """
    recipe = config.recipe
    aims = [aim_of(recipe, concept, word) for concept in concepts for word in concept.words]
    texts = [text for aim in aims for text in aim.texts]
    tuning = Tuning(view, concepts, config, NAME, partial(aim_of, recipe), texts=texts, call=call)
    draws = Draws(tuning, aims, by_student=recipe.sampler == "student", within=recipe.time == "within")

    def loss(step: int) -> Tensor:
        x, t, asked = draws.at(step)
        target = tuning.passes.aimed(tuning.teacher, x, t, asked)
        return F.mse_loss(tuning.said(x, t, [aim.asked for aim in asked]), target)

    return tuning.run(loss, checkpoint, checkpoint_seconds)


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="tune the denoiser to say of the concept the opposite of what guidance would follow (ESD)",
        paper="arXiv:2303.07345",
        fit=fit,
        erasure=WeightErasure,
        config=EsdConfig,
        reads=("synonyms", "erase_from", "preserve", "templates", "neutral"),
        access=("prompts", "latents", "gradients", "weights"),
        access_on=("weights",),
        guarantee="it is undone bit for bit; nothing but the chosen layers of the denoiser changes",
        no_guarantee="that the concept is gone, in other words above all ('x' leaks there), that siblings are left "
        "alone ('u' moves everything), or anything against who tunes it back",
    )
)
