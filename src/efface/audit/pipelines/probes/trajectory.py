"""Sampling that is watched or changed on its way, through all that is on a pipeline; batch by batch, as cases draw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.subject import NotApplicableError
from efface.pipelines.stepping import SchedulerStep
from efface.pipelines.view import PipelineView

Changing = Callable[[SchedulerStep, slice], "Tensor | None"]
"""Takes a step and which of the samples it is of; gives the next latents, or None."""


@dataclass(frozen=True)
class Way:
    """Where samples were on their way.

    Attributes:
        latents: After how many steps -> `(n, ...)` latents.
        times: The timestep of each step.
    """

    latents: dict[int, Tensor]
    times: tuple[float, ...]


def named(texts: Sequence[str], seeds: Sequence[int]) -> tuple[str, ...]:
    """What each sample is, in words."""
    return tuple(f"“{text}”, seed {seed}" for text, seed in zip(texts, seeds, strict=True))


def unasked(view: PipelineView) -> dict[str, Any]:
    """Arguments of a sampling without a prompt: nothing is guided."""
    return {"guidance": 1.0} if view.guidance.negative else {}


def changed(
    view: PipelineView, case: Case, texts: Sequence[str], seeds: Sequence[int], change: Changing, **more: Any
) -> Tensor:
    """Pictures `(n, 3, h, w)` whose way is changed.

    Raises:
        NotApplicableError: If the change asks for what the pipeline's scheduler does not say.
    """
    found: list[Tensor] = []
    for part in _parts(len(seeds), case.batch_size):
        failed: list[InputError] = []

        def step(given: SchedulerStep, part: slice = part, failed: list[InputError] = failed) -> Tensor | None:
            try:
                return change(given, part)
            except InputError as error:
                failed.append(error)
                raise

        try:
            with view.stepped(step):
                found.append(case.sample(view, list(texts[part]), seeds[part], **more))
        except InputError as error:
            if error in failed:
                raise NotApplicableError(str(error)) from error
            raise
    return torch.cat(found)


def recorded(
    view: PipelineView, case: Case, texts: Sequence[str], seeds: Sequence[int], at: Collection[int], **more: Any
) -> tuple[Tensor, Way]:
    """Pictures, and where they were after some numbers of steps; latents before the first step are after 0."""
    kept: dict[int, list[Tensor]] = {k: [] for k in at}
    times: list[float] = []

    def watch(step: SchedulerStep, part: slice) -> Tensor:
        if part.start == 0:
            times.append(float(step.timestep))
        if step.index == 0 and 0 in kept:
            kept[0].append(step.latents.clone())
        after = step.taken()
        if step.index + 1 in kept:
            kept[step.index + 1].append(after.clone())
        return after

    images = changed(view, case, texts, seeds, watch, **more)
    return images, Way({k: torch.cat(each) for k, each in kept.items() if each}, tuple(times))


def step_after(share: float, steps: int) -> int:
    """After how many of the steps a share of a sampling is over; at least one, if it is any.

    >>> step_after(0.1, 30), step_after(0.0, 30), step_after(0.01, 30)
    (3, 0, 1)
    """
    return max(round(share * steps), int(share > 0))


def steps_of(view: PipelineView, case: Case) -> int:
    """How many steps a sampling of the case takes."""
    seen: list[int] = []
    if "steps" in case.sampling:
        return int(case.sampling["steps"])
    with view.stepped(lambda step: seen.append(step.count)):
        case.sample(view, [""], [0])
    return seen[0]


def _parts(n: int, size: int) -> Iterator[slice]:
    yield from (slice(start, min(start + size, n)) for start in range(0, n, size))
