"""Diffusion completion: the base draws the first steps, and the erased model finishes the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Role, Scores
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.audit.pipelines.probes.trajectory import Way, changed, named, recorded, step_after, steps_of, unasked
from efface.pipelines.stepping import SchedulerStep
from efface.pipelines.view import PipelineView

_STREAM = 200


def completion(
    subject: Subject,
    case: Case,
    *,
    images: int = 32,
    hand_over: Sequence[float] = (0.1, 0.2, 0.3),
    unprompted: Sequence[float] = (0.2,),
    first: int = 0,
) -> list[Scores]:
    """Pictures that the base begins and the subject ends, with the concept's prompt and with the empty one.

    Source: arXiv:2505.17013 (Lu et al.), section 3 and appendix C, "diffusion completion": the base with the prompt
    for k of T steps, then the erased model from the latents `x_{t_k}`. At k = 0 it is plain sampling by the subject,
    at k = T the base's picture, both bit for bit.

    Where the released code differs: there the patched call is set on an instance, where Python does not look for it,
    so that the whole schedule begins again from the interrupted latents; its pictures lie in a folder that is not
    scored. Here the subject goes through its own call with its scheduler led along the base's way for k steps, so
    that guards that count steps count right. What the latents complete by themselves is told apart by finishing with
    the empty prompt, unguided; what is luck, by the same of the gold model.

    Access: latents. Both must have the same steps and shape of latents.

    Args:
        subject: What finishes.
        case: What is asked.
        images: How many.
        hand_over: After which shares of the steps the prompted pictures are handed over.
        unprompted: The same of those that are finished with the empty prompt.
        first: Pictures before this one are left out.

    Raises:
        NotApplicableError: If the two do not have the same steps.
    """
    texts, seeds = case.jobs(case.prompts, images, _STREAM, first=first)
    with case.base.on() as view:
        steps = steps_of(view, case)
        prompted, empty = ([step_after(share, steps) for share in shares] for shares in (hand_over, unprompted))
        _, way = recorded(view, case, texts, seeds, {*prompted, *empty})
    rows: list[Scores] = []
    with subject.on() as view:
        for k in prompted:
            rows.append(_row(f"from step {k} of {steps}", "search", k, view, case, texts, seeds, way, {}))
        for k in empty:
            name = f"from step {k} of {steps}, empty prompt"
            rows.append(_row(name, "unprompted", k, view, case, texts, seeds, way, unasked(view)))
    return rows


def _row(
    name: str,
    role: Role,
    k: int,
    view: PipelineView,
    case: Case,
    texts: Sequence[str],
    seeds: Sequence[int],
    way: Way,
    more: dict[str, Any],
) -> Scores:
    asked = list(texts) if role == "search" else [case.concept.neutral] * len(texts)
    images = completed(view, case, asked, seeds, way, k, **more)
    note = "the base drew the steps before with the concept's prompt"
    return Scores(name, role, case.seen(images), named(texts, seeds), images, spent={"samples": len(seeds)}, note=note)


def completed(
    view: PipelineView, case: Case, texts: Sequence[str], seeds: Sequence[int], way: Way, k: int, **more: Any
) -> Tensor:
    """Pictures that go on from where others were after k steps.

    Raises:
        NotApplicableError: If the timesteps or the latents are others.
    """

    def hand_over(step: SchedulerStep, part: slice) -> Tensor | None:
        if step.count != len(way.times) or abs(float(step.timestep) - way.times[step.index]) > _SAME:
            raise NotApplicableError("the base and the subject do not take the same timesteps: give both one scheduler")
        if step.index + 1 != k:
            return None
        latents = way.latents[k][part].to(step.latents)
        if latents.shape != step.latents.shape:
            raise NotApplicableError(
                f"the base's latents are {tuple(latents.shape[1:])}, the subject's {tuple(step.latents.shape[1:])}"
            )
        return latents

    return changed(view, case, texts, seeds, hand_over, **more)


_SAME = 1e-3

register(
    Probe(
        "diffusion completion",
        completion,
        "latents",
        "the base draws the first steps, the model finishes, with the prompt and with the empty one",
        {"images": 16, "hand_over": (0.1, 0.3), "unprompted": (0.2,)},
        {"images": 64, "hand_over": (0.1, 0.2, 0.3), "unprompted": (0.1, 0.2, 0.3)},
        "images",
    )
)
