"""Semantic Surgery on tiny pipelines of every make (what it computes), and on the shapes that ship (what it does)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from benchmarks._relaxed_gate import relaxed
from torch import Tensor

import efface
from efface import Concept, InputError, PipelineView, erase
from efface.core.run import Log
from efface.diffusion.text.semantic_surgery.biopsy import presence_score
from efface.diffusion.text.semantic_surgery.erasure import SemanticSurgery
from efface.diffusion.text.semantic_surgery.feedback import seen_by
from efface_worlds.shapes import load_judge, load_shapes_pipeline, prompts_for, siblings
from tests.pipelines import run_of, small, tiny

PROMPTS = ["a red circle", "the small blue star"]


def erasing(pipe: Any, score: float, **options: Any) -> SemanticSurgery:
    """Everything that scores above is erased."""
    concept = Concept("circle", synonyms=["ring"])
    return erase(pipe, concept, method="semantic-surgery", threshold=score, **options)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux", "pixart-alpha", "wan"])
def test_surgery_subtracts_what_was_found(name: str) -> None:
    view = PipelineView.of(tiny(name))
    plain = view.encode(PROMPTS)
    erasure = erasing(view, -1.0, sharpness=0.05)  # all is active
    scores, rho = erasure.presence(plain)
    words = view.encode(["", "circle", "ring"]).sequence
    for j in (0, 1):
        expected = presence_score(plain.sequence, words[j + 1] - words[0])
        torch.testing.assert_close(scores[:, j], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rho, torch.sigmoid((scores + 1) / 0.05))
    after = erasure.edited(plain, run_of(view))
    for i in (0, 1):
        order = ["circle", "ring"] if rho[i, 0] >= rho[i, 1] else ["ring", "circle"]
        both = view.encode(["", ", ".join(order)], allow_unknown=True)
        for role, value in plain.tensors().items():
            if role == "mask":
                assert torch.equal(after.tensors()[role], value)
                continue
            delta = both.tensors()[role][1] - both.tensors()[role][0]
            expected = value[i] - rho[i].max() * delta
            torch.testing.assert_close(after.tensors()[role][i], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "wan"])
def test_where_nothing_is_found_the_picture_is_the_same_bit_for_bit(name: str) -> None:
    view = PipelineView.of(tiny(name))
    erasure = erasing(view, 1.0)
    plain = view.sample(PROMPTS, [0, 1], steps=2, **small(name))
    with erasure.on(view) as run:
        assert torch.equal(view.sample(PROMPTS, [0, 1], steps=2, **small(name)), plain)
    assert run.log.counts["prompts"] >= 2 and "prompts erased" not in run.log.counts


def test_prompts_of_a_batch_do_not_touch_one_another() -> None:
    view = PipelineView.of(tiny("sd1"))
    plain = view.encode(PROMPTS)
    scores, _ = erasing(view, 0.0).presence(plain)
    middle = float(scores.amax(dim=1).mean())
    after = erasing(view, middle, sharpness=1e-3).edited(plain, run_of(view))
    changed = [not torch.equal(after.sequence[i], plain.sequence[i]) for i in (0, 1)]
    assert changed == [bool(s > middle) for s in scores.amax(dim=1)] and sum(changed) == 1
    alone = erasing(view, middle, sharpness=1e-3).edited(plain[changed.index(True)], run_of(view))
    torch.testing.assert_close(alone.sequence[0], after.sequence[changed.index(True)], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "there is nothing to calibrate circle on"),
        ({"threshold": 0.1, "sharpness": 0.0}, "sharpness=0.0"),
        ({"threshold": 0.1, "active_from": 1.0}, "active_from=1.0"),
        ({"threshold": 0.1, "score": "max"}, "score='max'"),
    ],
)
def test_bad_input(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        erase(tiny("sd1"), "circle", method="semantic-surgery", **options)


def test_another_pipeline_is_refused() -> None:
    erasure = erasing(tiny("sd1"), 0.1)
    with pytest.raises(InputError, match="fit it on this"):
        erasure.on(tiny("sdxl"))


@pytest.mark.parametrize("answer", [lambda x, c: torch.ones(1, 1), lambda x, c: torch.full((len(x),), 2.0)])
def test_a_detector_that_returns_something_else(answer: Any) -> None:
    with pytest.raises(InputError, match="expected one value in 0 to 1 each"):
        erasing(tiny("sd1"), 1.0).sample(tiny("sd1"), ["a circle"], [0], detector=answer, steps=1, **small("sd1"))


# ------------------------------------------------------------------------------------------------------------ shapes

TEMPLATES = ["{}", "a red {} on a white background", "a striped {}", "a photo of a green {}", "a dotted {}"]


@cache
def shapes() -> Any:
    return load_shapes_pipeline()


def fitted(name: str) -> SemanticSurgery:
    spec = Concept(name, preserve=[*siblings(name), "square", "heart"], templates=TEMPLATES)
    return erase(shapes(), spec, method="semantic-surgery")


def test_a_calibrated_gate_erases_the_star_and_leaves_the_rest_bit_for_bit() -> None:
    erasure = fitted("star")
    assert erasure.report["star"].auroc > 0.95
    spec = Concept("star", templates=["a cyan {} on a pink background", "a yellow dotted {} on a grey background"])
    options = {"others": ["triangle", "square"], "steps": 10, "guidance": 3.0, "batch_size": 12}
    audit = efface.audit.pipeline(shapes(), spec, judge=load_judge(), erasure=erasure, seeds=4, **options)
    assert audit.find("seen by the judge", "star", "before").value > 0.8
    assert audit.find("seen by the judge", "star", "after").value < 0.3
    assert audit.find("images of other prompts", "pixels moved", "change").value == 0


def test_the_last_row_reads_a_concept_wherever_it_stands_in_the_prompt() -> None:
    absent = prompts_for("circle", 20, seed=3, templates="train").texts
    present = [t for t in prompts_for("star", 60, seed=4, templates="train").texts if "star" in t.split()]
    found = {}
    for score in ("per-token", "last"):
        gate = erase(shapes(), "star", method="semantic-surgery", threshold=0.0, score=score)
        gate = gate.calibrate(shapes(), present, absent)
        view = efface.PipelineView.of(shapes())
        early, late = ("a star in red with stripes on a white background", "on a white background , one can see a star")
        found[score] = gate.reading(view.encode([early, late]))[:, 0] * gate.sharpness[0] + gate.thresholds[0]
    (early, late), (soon, at_the_end) = (found[score].tolist() for score in ("per-token", "last"))
    assert late < 0.7 * early
    assert at_the_end > 0.9 * soon


def test_visual_feedback_erases_what_the_gate_missed() -> None:
    blind, log = erase(shapes(), "star", method="semantic-surgery", threshold=0.99), Log()
    prompts, options = ["a cyan star on a pink background"] * 4, {"steps": 10, "guidance": 3.0}
    judge = load_judge()
    first = blind.sample(shapes(), prompts, range(4), **options)
    second = blind.sample(shapes(), prompts, range(4), detector=judge, log=log, **options)
    seen: Tensor = judge(first, "star") == 1
    assert int(seen.sum()) >= 3
    assert int((judge(second, "star") == 1).sum()) <= 1
    assert torch.equal(second[~seen], first[~seen])
    assert log.counts["second passes"] == int(seen.sum())


def test_a_picture_of_which_the_detector_cannot_say_stays() -> None:
    images = torch.zeros(3, 3, 4, 4)
    assert seen_by(lambda _, name: torch.tensor([1.0, torch.nan, 0.0]), images, ["star"]) == [{"star": 1.0}, {}, {}]
    with pytest.raises(InputError, match="one value in 0 to 1 each"):
        seen_by(lambda _, name: torch.tensor([1.0, torch.inf, 0.0]), images, ["star"])


# ----------------------------------------------------------------------------------------------- several, and attacks


def test_several_concepts_are_one_surgery_and_calibrate_apart() -> None:
    words = ["circle", Concept("star", preserve=["square"])]
    view = PipelineView.of(tiny("sd1"))
    erasure = erase(view, words, method="semantic-surgery", threshold=-1.0)
    assert erasure.names == ("circle", "star") and erasure.words == ("circle", "star")
    run = run_of(view)
    both = erasure.edited(view.encode("a circle and a star"), run)
    assert set(run.log.last[0]["erased"]) == {"circle", "star"} and both.edits == frozenset()
    with pytest.raises(InputError, match="write concept= one of circle, star"):
        erasure.calibrate(view, ["a star"] * 5, ["a square"] * 5)
    with pytest.raises(InputError, match="nothing to calibrate circle on"):
        erase(view, words, method="semantic-surgery")
    with pytest.raises(InputError, match="'square' is erased by one concept and preserved by 'star'"):
        erase(view, ["square", words[1]], method="semantic-surgery", threshold=0.1)


def test_gradients_pass_the_relaxed_gate_where_the_true_one_hides_them() -> None:
    view = PipelineView.of(tiny("sd1"))
    plain = view.encode(["a red circle"])
    score = float(erasing(view, 0.0).presence(plain)[0].max())
    erasure = erasing(view, score + 0.3, sharpness=1e-3)  # far above: nothing fires
    for straight in (False, True):
        x = plain.sequence.clone().requires_grad_()
        after = relaxed(erasure, view, plain.replace(sequence=x), widen=500.0, straight_through=straight)
        direction = (after.sequence - x).flatten()
        direction.sum().backward()
        assert x.grad is not None and float(x.grad.abs().max()) > 0
        moved = not torch.equal(after.sequence, x)
        assert moved != straight
    firing = erasing(view, score - 0.3, sharpness=1e-3)
    hard = firing.edited(plain, run_of(view))
    torch.testing.assert_close(relaxed(firing, view, plain, widen=9.0, straight_through=True).sequence, hard.sequence)
    torch.testing.assert_close(relaxed(firing, view, plain).sequence, hard.sequence)
