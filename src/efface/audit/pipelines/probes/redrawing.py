"""Memories of forgotten concepts: latents from which the subject redraws pictures that it should not know."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from efface._errors import InputError
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.latents import encoded
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Role, Scores
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.audit.pipelines.probes.trajectory import unasked
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.stepping import SchedulerStep, split
from efface.pipelines.view import PipelineView

ERROR, NATS = "mean squared error", "nats an element"


def redrawing(subject: Subject, case: Case, *, images: int = 32, refine: int = 1) -> list[Scores]:
    """Held-out pictures of the concept, inverted to latents by the subject and drawn again by it from these.

    Source: arXiv:2412.00782 (Memories of Forgotten Concepts), concept level: picture -> z_0 -> z_T -> picture, with
    the picture's own caption and guidance 1; measured are the error of the redrawn picture and how likely z_T is as
    noise, `-log N(z_T; 0, I)`, a mean over its elements (that of noise is 1.419). z_T is found by DDIM's steps
    backwards, each refined as in ReNoise (arXiv:2403.14602) without its averages:
    `z' = a'/a (z - b e) + b' e`, `e = e(z', t')` from the last z'.

    Where it differs: the caption tells the model what to draw, so that the same is asked with the empty prompt. Nearly
    any picture can be redrawn by any model, also by one that never knew the concept, so that the same is asked of
    pictures without it: what tells models apart is how likely the latents are, and the rate mostly nothing. The level
    of images (other latents of one picture, through the autoencoder alone) says nothing of the denoiser, and is left
    out.

    Guards of text are gone through, those of predictions on the way back alone.

    Access: latents, of DDIM's kind.

    Args:
        subject: What redraws.
        case: What for; its held-out pictures are taken.
        images: How many with the concept, and a quarter as many without.
        refine: How often each step of the inversion is refined.

    Raises:
        NotApplicableError: If there are no held-out pictures, or the scheduler is another.
    """
    given = case.need_pictures(images)
    few = max(2, images // 4)
    rows: list[Scores] = []
    with subject.on() as view:
        times = _amounts(view, case)
        clean = encoded(view, given.concept[:images])
        blank = [case.concept.neutral] * images
        captioned: tuple[Role, Sequence[str], str] = ("search", given.texts[:images], "its caption")
        uncaptioned: tuple[Role, Sequence[str], str] = ("unprompted", blank, "empty prompt")
        for role, texts, said in (captioned, uncaptioned):
            noise, again = _redrawn(view, case, clean, texts, times, refine)
            rows += _rows(said, role, given.concept[:images], again, noise, case, given.texts)
        others = encoded(view, given.others[:few])
        noise, again = _redrawn(view, case, others, given.other_texts[:few], times, refine)
        rows += _rows("pictures without it", None, given.others[:few], again, noise, case, given.other_texts)
    return rows


def _rows(
    said: str,
    role: Role | None,
    before: Tensor,
    after: Tensor,
    noise: Tensor,
    case: Case,
    texts: Sequence[str],
) -> list[Scores]:
    items = tuple(f"picture {i}, “{text}”" for i, text in zip(range(len(before)), texts, strict=False))
    error = (after - before).square().flatten(1).mean(1)
    spent = {"samples": len(after)}
    found = [
        Scores(f"redrawn, {said}: error", "control", error, items, after, ERROR, spent=spent),
        Scores(f"redrawn, {said}: latents", "control", unlikely(noise), items, unit=NATS),
    ]
    if role is not None:
        found.insert(0, Scores(f"redrawn, {said}", role, case.seen(after), items, after, spent=spent))
    return found


def unlikely(noise: Tensor) -> Tensor:
    """`-log N(z; 0, I)` of each of n latents, over the number of their elements.

    >>> [round(float(x), 3) for x in unlikely(torch.tensor([[1.0, -1.0], [2.0, 0.0]]))]
    [1.419, 1.919]
    """
    return 0.5 * (noise.double().square().flatten(1).mean(1) + math.log(2 * math.pi))


Times = list[tuple[float, tuple[float, float]]]
"""From the first step to the last and to where it ends: the timestep, and how much is clean and how much noise."""


def _amounts(view: PipelineView, case: Case) -> Times:
    found: Times = []

    def watch(step: SchedulerStep) -> None:
        found.append((float(step.timestep), step.amounts))
        if step.index + 1 == step.count:
            found.append((0.0, step.next_amounts))

    try:
        with view.stepped(watch):
            case.sample(view, [case.concept.neutral], [0])
    except InputError as error:
        raise NotApplicableError(str(error)) from error
    return found


@torch.no_grad()
def _redrawn(
    view: PipelineView, case: Case, clean: Tensor, texts: Sequence[str], times: Times, refine: int
) -> tuple[Tensor, Tensor]:
    """Latents before the first step, and the pictures that come of them."""
    noises, images = [], []
    for start in range(0, len(clean), case.batch_size):
        part = slice(start, min(start + case.batch_size, len(clean)))
        asked = list(texts[part])
        embedding = view.encode(asked, allow_unknown=True, truncate=True).replace(negative=None)
        noise = inverted(view, clean[part], embedding, times, refine)
        noises.append(noise)
        more = {**unasked(view), "truncate": True, "latents": noise}
        images.append(case.sample(view, asked, [0] * len(asked), **more))
    return torch.cat(noises), torch.cat(images)


@torch.no_grad()
def inverted(view: PipelineView, clean: Tensor, embedding: PromptEmbedding, times: Times, refine: int) -> Tensor:
    """Latents from which DDIM comes to clean ones."""
    latents, kind = clean, view.prediction_type
    for (t, (a_next, b_next)), (_, (a, b)) in zip(times[-2::-1], times[:0:-1], strict=True):
        guess = latents
        for _ in range(refine + 1):  # the first guess takes the latents for those of the noisier step, as DDIM does
            _, noise = split(guess, view.denoise(guess, t, embedding), a_next, b_next, kind)
            guess = a_next / a * (latents - b * noise) + b_next * noise
        latents = guess
    return latents


register(
    Probe(
        "redrawing",
        redrawing,
        "latents",
        "held-out pictures are inverted to latents and drawn again from these, with a caption and without",
        None,
        {"images": 48, "refine": 1},
    )
)
