"""Semantic Surgery on tiny pipelines of every make (what it computes), and on the shapes that ship (what it does)."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks._relaxed_gate import relaxed
from torch import Tensor

import efface
from efface import Concept, EffaceWarning, InputError, PipelineView, erase
from efface.core.run import Log
from efface.diffusion.text.semantic_surgery.biopsy import Direction, presence_score
from efface.diffusion.text.semantic_surgery.choosing import Sides, chosen
from efface.diffusion.text.semantic_surgery.erasure import SemanticSurgery
from efface.diffusion.text.semantic_surgery.feedback import seen_by
from efface.pipelines.embedding_parts import parts_of
from efface_worlds.shapes import load_judge, load_shapes_pipeline, prompts_for, siblings
from efface_worlds.shapes.concepts import FACTORS, concept
from tests.pipelines import run_of, small, tiny

PROMPTS = ["a red circle", "the small blue star"]


def erasing(pipe: Any, score: float, **options: Any) -> SemanticSurgery:
    """Everything that scores above is erased, as published."""
    concept = Concept("circle", synonyms=["ring"])
    return erase(pipe, concept, method="semantic-surgery", preset="published", threshold=score, **options)


def anchored(pipe: Any, score: float, **options: Any) -> SemanticSurgery:
    """Everything that scores above is erased, as recommended."""
    concept = Concept("circle", synonyms=["ring"], anchor="square", preserve=["star"])
    return erase(pipe, concept, method="semantic-surgery", threshold=score, **options)


ALL = ["sd1", "sdxl", "sd3", "flux", "pixart-alpha", "wan"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("order", ["listed", "present"])
def test_as_published_all_words_are_one_prompt_whose_direction_is_subtracted(name: str, order: Any) -> None:
    view = PipelineView.of(tiny(name))
    plain = view.encode(PROMPTS)
    erasure = erasing(view, -1.0, sharpness=0.05, order=order)  # all is active
    scores, rho = erasure.presence(plain)
    words = view.encode(["", "circle", "ring"])
    for j in (0, 1):
        expected = [presence_score(p.of(plain), (p.of(words)[j + 1] - p.of(words)[0]).float()) for p in parts_of(plain)]
        torch.testing.assert_close(scores[:, j], torch.stack(expected).amax(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rho, torch.sigmoid((scores + 1) / 0.05))
    after = erasure.edited(plain, run_of(view))
    for i in (0, 1):
        first = scores[i, 0] >= scores[i, 1] or order == "listed"
        both = view.encode(["", "circle, ring" if first else "ring, circle"], allow_unknown=True)
        for role, value in plain.tensors().items():
            if role == "mask":
                assert torch.equal(after.tensors()[role], value)
                continue
            delta = both.tensors()[role][1] - both.tensors()[role][0]
            expected = value[i] - rho[i].max() * delta
            torch.testing.assert_close(after.tensors()[role][i], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_as_recommended_a_word_becomes_its_anchor_in_every_part(name: str) -> None:
    view = PipelineView.of(tiny(name))
    erasure = anchored(view, -1.0, sharpness=0.01)
    assert erasure.anchors == ("square",)
    contrasts = erasure.contrasts[0]
    assert {c.part.name for c in contrasts} == {p.name for p in parts_of(view.encode("a"))}
    for contrast in contrasts:
        means = contrast.present, contrast.absent, contrast.anchor
        x = torch.stack(means, 1)  # as rows of their own kind: the word's mean row is moved to the anchor's
        kind, own, _ = contrast.amounts(x)
        assert torch.equal(kind[:, 0], torch.arange(len(x)))
        torch.testing.assert_close(own[:, 0], torch.ones(len(x)), atol=1e-4, rtol=1e-4)
        moved = x[:, 0] - own[:, :1] * (contrast.present - contrast.anchor)[kind[:, 0]]
        torch.testing.assert_close(moved, contrast.anchor, atol=1e-3, rtol=1e-3)
    plain = view.encode(["a circle", "a star"])
    after = erasure.operated(view, plain, [("circle",), ()], torch.ones(2, 2), every_row=True)
    for contrast in contrasts:
        part = contrast.part
        expected = part.of(plain)[0] - contrast.taken(plain, every_row=True)[0]
        torch.testing.assert_close(part.of(after)[0], expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(part.of(after)[1], part.of(plain)[1])
        assert not torch.equal(part.of(after)[0], part.of(plain)[0])


def test_the_first_row_and_words_before_the_concept_stay_bit_for_bit() -> None:
    view = PipelineView.of(load_shapes_pipeline())
    plain = view.encode("a big red star on a white background")
    after = fitted("star").edited(plain, run_of(view))
    (tokens,) = view.tokens("a big red star on a white background").values()
    (row,) = tokens.rows("star")
    assert torch.equal(after.sequence[0, :row], plain.sequence[0, :row])
    assert not torch.equal(after.sequence[0, row], plain.sequence[0, row])


@pytest.mark.parametrize("name", ["sd1", "sdxl", "wan"])
@pytest.mark.parametrize("make", [erasing, anchored])
def test_where_nothing_is_found_the_picture_is_the_same_bit_for_bit(name: str, make: Any) -> None:
    view = PipelineView.of(tiny(name))
    erasure = make(view, 1.0)
    plain = view.sample(PROMPTS, [0, 1], steps=2, **small(name))
    with erasure.on(view) as run:
        assert torch.equal(view.sample(PROMPTS, [0, 1], steps=2, **small(name)), plain)
    assert run.log.counts["prompts"] >= 2 and "prompts erased" not in run.log.counts


@pytest.mark.parametrize("make", [erasing, anchored])
def test_prompts_of_a_batch_do_not_touch_one_another(make: Any) -> None:
    view = PipelineView.of(tiny("sd1"))
    plain = view.encode(PROMPTS)
    scores, _ = make(view, 0.0).presence(plain)
    middle = float(scores.amax(dim=1).mean())
    after = make(view, middle, sharpness=1e-3).edited(plain, run_of(view))
    changed = [not torch.equal(after.sequence[i], plain.sequence[i]) for i in (0, 1)]
    assert changed == [bool(s > middle) for s in scores.amax(dim=1)] and sum(changed) == 1
    alone = make(view, middle, sharpness=1e-3).edited(plain[changed.index(True)], run_of(view))
    torch.testing.assert_close(alone.sequence[0], after.sequence[changed.index(True)], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "there is nothing to calibrate circle on"),
        ({"preset": "published"}, "there is nothing to calibrate circle on"),
        ({"preset": "old"}, "preset='old': choose one of 'recommended', 'published'"),
        ({"threshold": 0.1, "sharpness": 0.0}, "sharpness=0.0"),
        ({"threshold": 0.1, "active_from": 1.0}, "active_from=1.0"),
        ({"threshold": 0.1, "score": "max"}, "score='max'"),
    ],
)
def test_bad_input(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        erase(tiny("sd1"), "circle", method="semantic-surgery", **options)


def test_a_word_alone_with_a_threshold_is_taken_out_from_the_neutral_prompt() -> None:
    options: dict[str, Any] = {"method": "semantic-surgery", "threshold": 0.1}
    with pytest.warns(EffaceWarning, match="there is nothing to show in place of circle.*towards='neutral'"):
        bare = erase(tiny("sd1"), "circle", **options)
    assert bare == erase(tiny("sd1"), "circle", towards="neutral", **options) and not bare.contrasts


@pytest.mark.parametrize("make", [erasing, anchored])
def test_another_pipeline_is_refused(make: Any) -> None:
    with pytest.raises(InputError, match="fit it on this"):
        make(tiny("sd1"), 0.1).on(tiny("sdxl"))


@pytest.mark.parametrize("answer", [lambda x, c: torch.ones(1, 1), lambda x, c: torch.full((len(x),), 2.0)])
def test_a_detector_that_returns_something_else(answer: Any) -> None:
    with pytest.raises(InputError, match="expected one value in 0 to 1 each"):
        erasing(tiny("sd1"), 1.0).sample(tiny("sd1"), ["a circle"], [0], detector=answer, steps=1, **small("sd1"))


@pytest.mark.parametrize("make", [erasing, anchored])
def test_each_text_encoder_and_each_pooled_vector_has_a_gate_of_its_own(make: Any) -> None:
    view = PipelineView.of(tiny("sdxl"))
    erasure, plain = make(view, 0.9), view.encode("a circle")
    names = [part.name for part in parts_of(plain)]
    assert len(names) == 3
    assert [[gate.part.name for gate in gates] for gates in erasure.gates] == [names, names]
    assert erasure.edited(plain, run_of(view)) is plain
    for i in range(3):  # what one part alone says is enough
        gates = [replace(g, threshold=-0.99 if j == i else 0.99) for j, g in enumerate(erasure.gates[0])]
        only = replace(erasure, gates=(tuple(gates), erasure.gates[1]))
        assert float(only.reading(plain)[0, 0]) > 0 and only.edited(plain, run_of(view)) is not plain


def test_a_part_in_which_prompts_look_alike_has_no_gate() -> None:
    view = PipelineView.of(load_shapes_pipeline())
    there, gone = (view.encode([t.replace("{}", w) for t in TEMPLATES]) for w in ("star", "circle"))
    (part,) = parts_of(there)
    direction, given = Direction(there.sequence[0] - gone.sequence[0], gone.sequence[0]), Sides(there, gone)
    gate, found, _ = chosen(part, direction, "star", given, None, ("last",))
    assert gate.threshold == found.threshold and bool((gate.above(gate.scores(there)) > 0).all())
    blind = replace(direction, towards=direction.towards.clone())
    blind.towards[-1] = 0  # as where padding is rows of zeros: the last row says nothing
    assert chosen(part, blind, "star", given, None, ("last", "per-token"))[0].score == "per-token"
    with pytest.raises(InputError, match="prompts with 'star' do not score above"):
        chosen(part, blind, "star", given, None, ("last",))


# ------------------------------------------------------------------------------------------------------------ shapes

TEMPLATES = ["{}", "a red {} on a white background", "a striped {}", "a photo of a green {}", "a dotted {}"]


@cache
def shapes() -> Any:
    return load_shapes_pipeline()


@cache
def fitted(name: str, **fields: Any) -> SemanticSurgery:
    spec = Concept(name, **{"preserve": [*siblings(name), "square", "heart"], "templates": TEMPLATES, **fields})
    return erase(shapes(), spec, method="semantic-surgery")


@pytest.mark.parametrize("score", ["word", "centred last", None])
def test_what_a_gate_reads_and_what_it_was_chosen_from_are_in_the_file(score: Any, tmp_path: Path) -> None:
    spec = Concept("star", preserve=siblings("star")[:3])
    erasure = erase(shapes(), spec, method="semantic-surgery", score=score)
    (gate,), tried = erasure.gates[0], erasure.candidates["star"]["sequence.text_encoder"]
    assert [how.score for how in tried if how.chosen] == [gate.score] and (gate.score == score or score is None)
    assert (gate.neutral is not None) == (score == "centred last") and (len(tried) == 1) == (score is not None)
    erasure.save(tmp_path / "star")
    loaded = efface.load(tmp_path / "star")
    assert isinstance(loaded, SemanticSurgery) and loaded.candidates == erasure.candidates
    asked = PipelineView.of(shapes()).encode(["a red star", "a red circle"])
    assert torch.equal(loaded.reading(asked), erasure.reading(asked))
    assert erasure.reading(asked)[0] > erasure.reading(asked)[1]


def test_that_trials_do_not_fit_into_a_window_is_not_logged_as_if_a_prompt_were_cut() -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    libraries = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    view = PipelineView.of(shapes())
    for library in libraries:
        library.addHandler(handler)
    try:
        erasure = erase(view, Concept("star", preserve=siblings("star")[:3]), method="semantic-surgery")
        assert erasure.candidates["star"] and not said
        view.encode(["a star " * 20], truncate=True)  # what is drawn is still told
        assert any("truncated" in text for text in said)
    finally:
        for library in libraries:
            library.removeHandler(handler)


def test_a_calibrated_gate_erases_the_star_and_leaves_the_rest_bit_for_bit() -> None:
    erasure = fitted("star")
    ((part, calibration),) = erasure.report["star"].items()
    assert part == "sequence.text_encoder" and calibration.auroc > 0.95
    assert erasure.anchors == ("triangle",)
    spec = Concept("star", templates=["a cyan {} on a pink background", "a yellow dotted {} on a grey background"])
    options = {"others": ["triangle", "square"], "steps": 10, "guidance": 3.0, "batch_size": 12}
    audit = efface.audit.pipeline(shapes(), spec, judge=load_judge(), erasure=erasure, seeds=4, **options)
    assert audit.find("seen by the judge", "star", "before").value > 0.8
    assert audit.find("seen by the judge", "star", "after").value == 0
    assert audit.find("images of other prompts", "pixels moved", "change").value == 0


@pytest.mark.parametrize("name", ["star", "striped", "red"])
def test_default_templates_serve_things_and_attributes_and_the_rest_of_the_prompt_is_kept(name: str) -> None:
    others = [c.name for c in FACTORS[concept(name).factor] if c.name != name]
    erasure = erase(shapes(), Concept(name, preserve=others), method="semantic-surgery")
    view = PipelineView.of(shapes())
    assert {gate.score for gates in erasure.gates for gate in gates} == {"last"}
    held = [t for t in prompts_for(name, 40, seed=5151, templates="held_out").texts if name in t.split()]
    absent = [t for o in others for t in prompts_for(o, 6, seed=6161, templates="held_out").texts]
    absent = [t for t in absent if not {name, *concept(name).synonyms, concept(name).noun} & set(t.split())]
    assert bool((erasure.reading(view.encode(held)) > 0).all())
    assert float((erasure.reading(view.encode(absent)) > 0).float().mean()) < 0.03
    # Each prompt comes out near to the same prompt with the anchor in the concept's place.
    asked = prompts_for(name, 8, seed=900).texts
    plain, anchor = view.encode(asked), view.encode([t.replace(name, erasure.anchors[0]) for t in asked])
    after = erasure.edited(plain, run_of(view))
    before, left = ((e.sequence - anchor.sequence)[:, -1].norm(dim=1) for e in (plain, after))
    assert float((left / before).mean()) < 0.35


def test_the_concepts_anchor_is_what_it_is_moved_to_and_the_nearest_word_by_default() -> None:
    view, asked = PipelineView.of(shapes()), "a cyan star on a pink background"
    plain, after = view.encode(asked), {}
    for anchor in ("heart", "circle", None):
        erasure = fitted("star", anchor=anchor)
        after[anchor] = erasure.edited(plain, run_of(view)).sequence[0, -1]
    for anchor in ("heart", "circle"):
        target = {o: view.encode(asked.replace("star", o)).sequence[0, -1] for o in ("heart", "circle", "triangle")}
        assert min(target, key=lambda o: float((after[anchor] - target[o]).norm())) == anchor
    assert torch.equal(after[None], fitted("star", anchor="triangle").edited(plain, run_of(view)).sequence[0, -1])


@pytest.mark.parametrize("preset", ["recommended", "published"])
def test_concepts_in_another_order_give_the_same_unless_as_published(preset: Any) -> None:
    view, plain = PipelineView.of(shapes()), PipelineView.of(shapes()).encode("a striped star on a white background")
    star = Concept("star", preserve=["circle", "square", "triangle", "heart"], templates=TEMPLATES)
    striped = Concept("striped", preserve=["flat", "dotted", "shaded"])
    after = []
    for concepts in ([star, striped], [striped, star]):
        erasure = erase(view, concepts, method="semantic-surgery", preset=preset, score="last")
        run = run_of(view)
        after.append(erasure.edited(plain, run).sequence)
        assert set(run.log.last[0]["erased"]) == {"star", "striped"}
        if preset == "published":
            assert run.log.last[0]["erased"] == [c.name for c in concepts]
    assert torch.equal(*after) == (preset == "recommended")
    if preset == "recommended":
        assert erasure.anchors == ("dotted", "triangle")
        moved = view.encode("a dotted triangle on a white background").sequence
        assert (after[0] - moved)[:, -1].norm() < 0.3 * (plain.sequence - moved)[:, -1].norm()


def test_synonyms_are_taken_out_once() -> None:
    view = PipelineView.of(shapes())
    spec = Concept("star", synonyms=["sparkle"], preserve=["circle", "square", "triangle"], anchor="triangle")
    erasure = erase(view, spec, method="semantic-surgery")
    for asked in ("a red star on a white background", "a red sparkle on a white background"):
        run, plain = run_of(view), view.encode(asked)
        after = erasure.edited(plain, run).sequence
        assert set(run.log.last[0]["erased"]) == {"star", "sparkle"}
        anchor = view.encode("a red triangle on a white background").sequence
        assert (after - anchor)[0, -1].norm() < 0.4 * (plain.sequence - anchor)[0, -1].norm()


def test_the_last_row_reads_a_concept_wherever_it_stands_in_the_prompt() -> None:
    absent = prompts_for("circle", 20, seed=3, templates="train").texts
    present = [t for t in prompts_for("star", 60, seed=4, templates="train").texts if "star" in t.split()]
    found = {}
    for score in ("per-token", "last"):
        gate = erase(shapes(), "star", method="semantic-surgery", preset="published", threshold=0.0, score=score)
        gate = gate.calibrate(shapes(), present, absent)
        view = efface.PipelineView.of(shapes())
        early, late = ("a star in red with stripes on a white background", "on a white background , one can see a star")
        found[score] = gate.presence(view.encode([early, late]))[0][:, 0]
    (early, late), (soon, at_the_end) = (found[score].tolist() for score in ("per-token", "last"))
    assert late < 0.7 * early
    assert at_the_end > 0.9 * soon


def test_visual_feedback_erases_what_the_gate_missed() -> None:
    blind = erase(shapes(), Concept("star", preserve=["triangle"]), method="semantic-surgery", threshold=0.99)
    prompts, options, log = ["a cyan star on a pink background"] * 4, {"steps": 10, "guidance": 3.0}, Log()
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
    erasure = erase(view, ["circle", "star"], method="semantic-surgery", preset="published", threshold=-1.0)
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
    with pytest.raises(InputError, match="'star' is erased by one concept and the anchor of 'circle'"):
        erase(view, [Concept("circle", anchor="star"), "star"], method="semantic-surgery", threshold=0.1)


@pytest.mark.parametrize("make", [erasing, anchored])
def test_gradients_pass_the_relaxed_gate_where_the_true_one_hides_them(make: Any) -> None:
    view = PipelineView.of(tiny("sd1"))
    plain = view.encode(["a red circle"])
    score = float(make(view, 0.0).presence(plain)[0].max())
    erasure = make(view, score + 0.3, sharpness=1e-3)  # far above: nothing fires
    for straight in (False, True):
        x = plain.sequence.clone().requires_grad_()
        after = relaxed(erasure, view, plain.replace(sequence=x), widen=500.0, straight_through=straight)
        direction = (after.sequence - x).flatten()
        direction.sum().backward()
        assert x.grad is not None and float(x.grad.abs().max()) > 0
        moved = not torch.equal(after.sequence, x)
        assert moved != straight
    firing = make(view, score - 0.3, sharpness=1e-3)
    hard = firing.edited(plain, run_of(view))
    if make is erasing:  # the true one also asks each row
        straight_through = relaxed(firing, view, plain, widen=9.0, straight_through=True)
        torch.testing.assert_close(straight_through.sequence, hard.sequence)
        torch.testing.assert_close(relaxed(firing, view, plain).sequence, hard.sequence)
