"""AdvUnlearn: text encoders are tuned to erase, against tokens that bring the concept back, and to keep the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import InputError
from efface._validate import did_you_mean
from efface.core.concept import Concept
from efface.core.config import option
from efface.core.method import Method, register
from efface.core.subjects import unwrapped
from efface.diffusion.text.contexts import filled, templates_of
from efface.diffusion.weights.draws import Draws
from efface.diffusion.weights.encoders import Prefixes, TunedEncoders
from efface.diffusion.weights.erasure import WeightErasure, delta_of
from efface.diffusion.weights.passes import Aim
from efface.diffusion.weights.rows import texts_of
from efface.diffusion.weights.tuning import Plan, Tuning, TuningConfig, ready
from efface.pipelines.view import PipelineView
from efface.training.seeds import generator

NAME = "adv-unlearn"
_ATTACKED, _RETAINED = 19, 20


@dataclass(frozen=True, kw_only=True)
class AdvUnlearnConfig(TuningConfig):
    """Options of AdvUnlearn, with the defaults of its release for SD 1.4."""

    encoder: str = option("all", "which text encoder is tuned, by its name in the pipeline; all takes each")
    blocks: int | None = option(None, "only the first so many blocks of it; none tunes all but the embeddings", least=1)
    steps: int = option(1000, "steps", least=1)
    learning_rate: float = option(1e-5, "of Adam", above=0)
    eta: float = option(1.0, "how far away from the concept", least=0)
    warm_up: int = option(200, "steps before the first attack", least=0)
    attack: Literal["pgd", "fast", "none"] = option("pgd", "by gradients, by their signs (fast), or none")
    attack_steps: int = option(30, "steps of each attack; 1 with attack=fast is the one-step attack", least=1)
    attack_rate: float = option(1e-3, "of the attack's Adam", above=0)
    attack_tokens: int = option(1, "tokens before the word that are the attack's", least=1)
    keeping: float = option(1.0, "weight of saying the same of prompts to retain; .3 published for nudity", least=0)
    retained: int = option(5, "prompts to retain a step", least=1)
    keep: Literal["best", "last"] = option("last", "which weights: those of the least score, or the last ones")

    @property
    def plan(self) -> Plan:
        """How many steps, how large."""
        return Plan(self.steps, self.learning_rate)


@ready
def fit(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: AdvUnlearnConfig,
    *,
    retain: Sequence[str] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    call: Mapping[str, Any] | None = None,
) -> WeightErasure:
    """Tune text encoders, each step against an attack on them as they are (arXiv:2405.15234).

    With `c` a word of the concept, `0` the neutral prompt, `r` prompts to retain, `e(x_t, c)` what the denoiser says of
    a prompt as the original text encoder reads it, and `e'` the same as the tuned one does, a step descends

        |e'(x_t, c*) - (e(x_t, 0) - eta (e(x_t, c) - e(x_t, 0)))|^2 + keeping |e'(x_s, r) - e(x_s, r)|^2

    with `c*` the word behind `attack_tokens` tokens, whose embeddings begin as those of tokens drawn from the
    vocabulary and take `attack_steps` steps of Adam down `|e'(x_t, c*) - e(x_t, c)|^2`; in the first `warm_up` steps
    `c* = c`. `x_t` and `x_s` are latents that guided sampling of `c` and `r` comes by, at times of their own.

    The result is a change of weights of text encoders: the denoiser stays, and so do prompts that were encoded before.

    Where ours differs from the released code: all steps of an attack are at the latents of the step, which are new for
    each (there each step of an attack samples anew); an attack always begins at random, as in its commands; prompts to
    retain are `retain`, or the words to preserve in templates, as no data set is shipped; every text encoder of a
    pipeline is tuned unless `encoder` names one, with tokens of its own; the neutral prompt is what guidance starts
    from.

    Args:
        view: The pipeline.
        concepts: The concepts; of several and their words one is drawn for each sample.
        config: The options.
        retain: Prompts of which the same is to be said as before.
        checkpoint: Folder for the state; a fit that was interrupted goes on from there, to the same bits.
        checkpoint_seconds: Least time between two writings.
        call: Further arguments of the pipeline's call, such as `height` and `width`, for the latents.

    Raises:
        InputError: If the pipeline cannot read a word, there is nothing to retain, or no such text encoder.
        DivergedError: If the loss is not finite; the weights before are in the checkpoint.
    """
    for each in concepts:
        view.check_concept(each)
    kept = _retained(view, concepts, retain) if config.keeping else []
    words = [word for concept in concepts for word in concept.words]
    aims = [Aim.away(word, config.eta) for word in words]
    student = TunedEncoders(view, _named(view, config.encoder), config.blocks, concepts[0].neutral)
    prefixes = None if config.attack == "none" else Prefixes(view, student, words, config.attack_tokens)
    tuning = Tuning(
        view,
        concepts,
        config,
        NAME,
        lambda _concept, word, template: Aim.away(template.replace("{}", word), config.eta),
        texts=[*kept, *(text for aim in aims for text in aim.texts)],
        call=call,
        student=student,
    )
    draws = Draws(tuning, aims, within=True)
    others = [Aim(text, ((1.0, text),)) for text in kept]
    retained = Draws(tuning, others, within=True, batch=config.retained, stream=_RETAINED) if others else None

    def loss(step: int) -> Tensor:
        x, t, asked = draws.at(step)
        texts = [str(aim.asked) for aim in asked]
        target = tuning.passes.aimed(tuning.teacher, x, t, asked)
        if prefixes is None or step < config.warm_up:
            said = tuning.said(x, t, texts)
        else:
            said = _attacked(tuning, prefixes, student, config, step, x, t, texts)
        found = F.mse_loss(said, target)
        if retained is None:
            return found
        x, t, asked = retained.at(step)
        before = tuning.passes.aimed(tuning.teacher, x, t, asked)
        return found + config.keeping * F.mse_loss(tuning.said(x, t, [aim.asked for aim in asked]), before)

    found = tuning.tuned(loss, checkpoint, checkpoint_seconds, encoders=list(student.encoders), retained=len(kept))
    changes = student.changes(found.values)
    deltas = {name: delta_of(unwrapped(view.text_encoders[name]), own) for name, own in changes.items()}
    return WeightErasure.made(deltas, method=NAME, concepts=concepts, config=config, report=found.report)


def _attacked(
    tuning: Tuning,
    prefixes: Prefixes,
    student: TunedEncoders,
    config: AdvUnlearnConfig,
    step: int,
    x: Tensor,
    t: Tensor,
    texts: Sequence[str],
) -> Tensor:
    """What is said of words behind tokens that most nearly have it say what was said of the words."""
    before = tuning.passes.aimed(tuning.teacher, x, t, [Aim(text, ((1.0, text),)) for text in texts])
    drawn = prefixes.drawn(generator(config.seed, _ATTACKED, step))
    values = {at: value.requires_grad_() for at, value in drawn.items() if at[0] in texts}
    adam = torch.optim.Adam(values.values(), lr=config.attack_rate)
    asked = [prefixes.text[text] for text in texts]
    for _ in range(config.attack_steps):
        with student.putting(prefixes.put(values)):
            near = F.mse_loss(tuning.said(x, t, asked), before)
        for value, gradient in zip(values.values(), torch.autograd.grad(near, [*values.values()]), strict=True):
            value.grad = gradient.sign() if config.attack == "fast" else gradient
        adam.step()
    with student.putting(prefixes.put({at: value.detach() for at, value in values.items()})):
        return tuning.said(x, t, asked)


def _named(view: PipelineView, encoder: str) -> list[str]:
    names = list(view.text_encoders)
    if encoder != "all" and encoder not in names:
        near = did_you_mean(encoder, names)
        raise InputError(f"{type(view.pipe).__name__} has no text encoder {encoder!r}{near}: it has {', '.join(names)}")
    return names if encoder == "all" else [encoder]


def _retained(view: PipelineView, concepts: Sequence[Concept], retain: Sequence[str]) -> list[str]:
    """Prompts of which the same is to be said as before.

    Raises:
        InputError: If there are none, or the pipeline cannot read one.
    """
    given = texts_of(retain, "retain")
    if given:
        view.check_prompts(given)
    found = [*given, *(text for c in concepts for text in filled(templates_of(c), c.preserve))]
    if not found:
        raise InputError(
            "there is nothing to retain: name words, Concept(..., preserve=[...]), or prompts, retain=[...], or write "
            "keeping=0"
        )
    return list(dict.fromkeys(found))


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="tune text encoders against adversarial tokens, and to retain other prompts (AdvUnlearn)",
        paper="arXiv:2405.15234",
        fit=fit,
        erasure=WeightErasure,
        config=AdvUnlearnConfig,
        reads=("synonyms", "preserve", "templates", "neutral"),
        access=("prompts", "embeddings", "latents", "gradients", "weights"),
        access_on=("weights",),
        guarantee="it is undone bit for bit; the denoiser stays as it is",
        no_guarantee="that the concept is gone in other words or for stronger attacks, that siblings that are not "
        "retained stay, or anything against who has the text encoder of before, or embeddings that it made",
    )
)
