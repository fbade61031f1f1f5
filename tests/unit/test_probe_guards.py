"""Attacks and what is on a pipeline at inference: gone through, or refused with the reason, never passed by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import efface.audit
from efface.audit.pipelines.probes import inversion, prompt_search
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.core.edits import Edit, OnPrediction, OnText
from efface.core.erasure import Erasure
from tests.attacked import case, other_pipe, subject
from tests.pipelines import small

GIVEN: dict[str, Any] = {"images": 2, "steps": 2, "batch": 2, "pictures": 2}


@dataclass(frozen=True, eq=False, repr=False)
class Shut(Erasure):
    """All prompts become the same, and no gradient comes through."""

    method: str = field(default="toy-shut", kw_only=True)

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (OnText(lambda embedding, run: embedding.replace(sequence=torch.zeros_like(embedding.sequence))),)


@dataclass(frozen=True, eq=False, repr=False)
class Dimmed(Erasure):
    """Half of what the prompt adds to the prediction."""

    method: str = field(default="toy-halved", kw_only=True)

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (OnPrediction(after=self.halved),)

    def halved(self, step: Any, run: Any) -> Any:
        run.count("steps", 1)
        return step.cond if step.uncond is None else step.uncond + (step.cond - step.uncond) / 2


def guarded(erasure: Erasure) -> Subject:
    return Subject("guarded", subject().view, erasure)


def test_a_guard_that_lets_no_gradient_through_is_not_applicable() -> None:
    asked = case()
    for run in (inversion.inversion, inversion.concept_inversion):
        with pytest.raises(NotApplicableError, match="no gradient"):
            run(guarded(Shut(concepts=())), asked, **GIVEN)
    with pytest.raises(NotApplicableError, match="no gradient"):
        prompt_search.unlearn_diff_atk(guarded(Shut(concepts=())), asked, items=2, rounds=1, steps=1)


def test_which_guards_there_are_and_beside_them() -> None:
    asked, guard = case(), guarded(Dimmed(concepts=()))
    assert inversion.guards(guard) == "guards" and inversion.guards(guarded(Shut(concepts=()))) == "guards"
    beside = inversion.beside_guards(guard, asked, **GIVEN)
    plain = inversion.inversion(subject(), asked, **GIVEN)
    assert torch.equal(beside.values, plain.values) and torch.equal(beside.images, plain.images)  # type: ignore[arg-type]
    assert "beside the guard" in beside.note and "through the guard" not in plain.note


def test_concept_inversion_goes_through_a_guard_of_predictions() -> None:
    asked, guard = case(), guarded(Dimmed(concepts=()))
    view, embedding = guard.view, guard.view.encode("a red circle")
    latents = view.prepare(embedding.replace(negative=None), **small("sd1")).latents
    given = {"steps": 4, "guidance": 3.0, **small("sd1")}
    plain = view.guided_prediction(latents, 2, embedding, **given)
    with guard.on():
        halved = view.guided_prediction(latents, 2, embedding, **given)
    negative = embedding.negative
    assert negative is not None
    t = torch.as_tensor(_time(view, 2))
    start = view.denoise(latents, t, negative)
    assert torch.allclose(halved - start, (plain - start) / 2, atol=1e-4)
    found = inversion.concept_inversion(guard, asked, **GIVEN)
    assert "through the guard: all guards" in found.note


def _time(view: Any, at: int) -> Any:
    times: list[Any] = []
    with view.stepped(lambda step: times.append(step.timestep)):
        view.sample("a", [0], steps=4, **small("sd1"))
    return times[at]


TINY: dict[str, dict[str, Any]] = {
    "direct prompt": {"images": 2},
    "wording": {"images": 2, "alike": 1},
    "diffusion completion": {"images": 2},
    "noise": {"items": 2, "etas": (1.0,), "variances": (1.0,)},
    "inpainting": {"images": 2},
    "classifier guidance": {"items": 2, "scales": (1.0,), "pictures": 4, "steps": 1},
    "textual inversion": GIVEN,
    "textual inversion beside the guard": GIVEN,
    "concept inversion": GIVEN,
    "UnlearnDiffAtk": {"items": 2, "rounds": 1, "steps": 1},
    "P4D-N": {"items": 2, "rounds": 1, "steps": 1, "words": 2},
    "P4D-K": {"items": 2, "rounds": 1, "steps": 1},
    "Ring-A-Bell": {"items": 2, "words": 2, "population": 4, "generations": 1},
    "redrawing": {"images": 2, "refine": 0},
}


@pytest.mark.slow
def test_all_attacks_by_the_one_door() -> None:
    asked = case()
    found = efface.audit.erasure(
        subject().view.pipe,
        asked.concept,
        erasure=Dimmed(concepts=()),
        gold=other_pipe(),
        judge=asked.judge,
        prompts=asked.prompts,
        others=asked.others,
        pictures=asked.pictures,
        suite="full",
        only=list(TINY),
        budgets=TINY,
        **asked.sampling,
    )
    measured = {(f.family, f.condition) for f in found.findings if f.is_scored}
    assert measured >= {(probe, model) for probe in TINY for model in ("erased", "base", "gold")}
    assert all(math.isfinite(f.value) for f in found.findings if f.is_scored)
    assert all(f.budget and f.access for f in found.findings if f.is_scored and f.family in TINY)
