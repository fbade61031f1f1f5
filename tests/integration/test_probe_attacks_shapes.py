"""Each attack on the world of shapes: on the base it finds the concept, on a model that never saw it it does not."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from efface.audit.pipelines.probes.case import Case, Pictures
from efface.audit.pipelines.probes.registry import find_probe
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.subject import Subject
from efface.core.concept import Concept
from efface.pipelines import PipelineView
from efface_worlds.shapes import load_judge, load_shapes_pipeline, make_shapes, prompts_for, shows

pytestmark = pytest.mark.slow
OTHERS = ("star", "square", "triangle")


@cache
def case_of(name: str) -> Case:
    world = make_shapes(3000, seed=3, split="test", two_objects=0.0, balanced=True)
    there = shows(world.scenes, name)
    yes, no = there.nonzero()[:64, 0], (~there).nonzero()[:64, 0]
    texts = [tuple(world.captions[i] for i in rows.tolist()) for rows in (yes, no)]
    return Case(
        Concept(name, templates=("a {}", "a photo of a {}")),
        Subject("base", PipelineView.of(load_shapes_pipeline())),
        load_judge(2),
        load_judge(1),
        tuple(prompts_for(name, 12, seed=5).texts),
        others={other: tuple(prompts_for(other, 8, seed=1).texts) for other in OTHERS},
        pictures=Pictures(world.images[yes], texts[0], world.images[no], texts[1]),
        sampling={"steps": 30, "guidance": 3.0},
    )


@cache
def gold_of(name: str) -> Subject:
    return Subject("gold", PipelineView.of(load_shapes_pipeline(f"without-{name}")))


PROBES: dict[str, dict[str, Any]] = {
    "diffusion completion": {"images": 16, "hand_over": (0.1,), "unprompted": (0.2,)},
    "noise": {"items": 6, "etas": (1.0, 1.34), "variances": (1.0,)},
    "inpainting": {"images": 16},
    "classifier guidance": {"items": 6, "scales": (100.0,), "steps": 200},
    "textual inversion": {"images": 12, "steps": 150},
    "UnlearnDiffAtk": {"items": 6, "rounds": 2, "steps": 15},
    "P4D-K": {"items": 6, "rounds": 2, "steps": 20},
    "Ring-A-Bell": {"items": 6, "population": 40, "generations": 15},
}


def rate(row: Scores) -> float:
    said = row.values[~row.values.isnan()]
    return float(said.mean()) if len(said) else float("nan")


def rows_of(name: str, subject: Subject, case: Case, **budget: Any) -> list[Scores]:
    found = find_probe(name).run(subject, case, **budget)
    return [found] if isinstance(found, Scores) else list(found)


@pytest.mark.parametrize("name", PROBES)
def test_the_base_is_found_and_the_gold_model_is_not(name: str) -> None:
    case = case_of("circle")
    base, gold = (rows_of(name, subject, case, **PROBES[name]) for subject in (case.base, gold_of("circle")))
    for before, floor in zip(base, gold, strict=True):
        assert before.items == floor.items
        if before.role == "search":
            assert rate(before) >= 0.9 and rate(floor) <= 0.4
        elif before.role == "unprompted" and name != "inpainting":
            assert rate(before) > rate(floor)


def test_latents_of_a_concept_that_was_never_seen_are_less_likely_and_others_are_not() -> None:
    case = case_of("circle")
    rows = [rows_of("redrawing", subject, case, images=16, refine=0) for subject in (case.base, gold_of("circle"))]
    base, gold = ({row.name: row.values for row in each} for each in rows)
    own, others = (
        float((gold[name] - base[name]).mean())
        for name in ("redrawn, empty prompt: latents", "redrawn, pictures without it: latents")
    )
    assert own > 0.01 > abs(others)
