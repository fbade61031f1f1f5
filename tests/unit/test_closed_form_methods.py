"""RECE, SPEED, OCE and MACE's closed forms agree with naive solves, and keep what they promise to keep."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Concept, EffaceWarning, InputError, NothingErasedWarning, PipelineView
from efface.diffusion.weights.fusion import fused
from efface.diffusion.weights.null_spaces import Spectrum, fixed_rows, guarded
from efface.diffusion.weights.oce import OceConfig, rotation
from efface.diffusion.weights.speed import WAYS, SpeedConfig, ways_of
from tests.pipelines import BUILDERS, build
from tests.references import closed_form as naive
from tests.unit.test_closed_form import CIRCLE, CLOSE, double, draws, keys_and_values, naive_rows, rows_of

WORDS = ("square", "ring")


# ------------------------------------------------------------------------------------------------------ RECE


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_rece(rounds: int) -> None:
    pipe = double()
    before = keys_and_values(pipe)
    with efface.erase(pipe, CIRCLE, "rece", rounds=rounds, regularisation=0.2, preserve_weight=0.5).on(pipe):
        after = keys_and_values(pipe)
    keys, targets, kept = naive_rows(pipe, "last_to_end")
    edited = {n: naive.uce(w, keys, targets, kept, 0.1, 1.0, 0.5) for n, w in before.items()}
    circle, star = rows_of(pipe, "circle", "star")
    for _ in range(rounds):
        olds, news = list(before.values()), list(edited.values())
        found = torch.stack([naive.bringing_back(news, olds, row, 0.2) for row in circle])
        edited = {n: naive.uce(w, found, star, kept, 0.1, 1.0, 0.5) for n, w in edited.items()}
    for name, w in after.items():
        torch.testing.assert_close(w, edited[name], **CLOSE)


def test_what_rece_finds_does_bring_the_concept_back() -> None:
    """Before it is erased, c* has the edited matrices say what the unedited ones said of c, as far as they can."""
    pipe = double()
    before = list(keys_and_values(pipe).values())
    with efface.erase(pipe, CIRCLE, "uce").on(pipe):
        edited = list(keys_and_values(pipe).values())
    row = rows_of(pipe, "circle")[0][2]
    found = naive.bringing_back(edited, before, row, 1e-6)
    far = [
        sum((new @ x - old @ row).norm() ** 2 for new, old in zip(edited, before, strict=True)) for x in (row, found)
    ]
    assert far[1] < 0.5 * far[0]


# ----------------------------------------------------------------------------------------------------- SPEED


BELOW: dict[str, Any] = {"null_below": 0.5, "filtered": True}
EACH: dict[str, Any] = {"null_share": 0.05, "null_of": "each", "least_free": 0.0}


@pytest.mark.parametrize(
    ("space", "fixed_ridge", "span"),
    [  # each value with each other one
        (BELOW, 0.0, "last"),
        (BELOW, 0.5, "last_to_end"),
        (EACH | {"filtered": False}, 0.5, "last"),
        (EACH | {"filtered": False}, 0.0, "last_to_end"),
        (EACH | {"filtered": True}, 0.0, "last"),
        (EACH | {"filtered": True}, 0.5, "last_to_end"),
    ],
)
def test_speed(span: Any, fixed_ridge: float, space: dict[str, Any]) -> None:
    pipe = double()
    values = keys_and_values(pipe, ("to_v",))
    options: dict[str, Any] = {"ridge": 0.7, "augment": 4, "fixed_ridge": fixed_ridge, **space}
    erasure = efface.erase(pipe, CIRCLE, "speed", key_span=span, **options)
    with erasure.on(pipe):
        after = keys_and_values(pipe, ("to_v",))
        assert all(torch.equal(w, pipe.unet.state_dict()[n]) for n, w in keys_and_values(pipe, ("to_k",)).items())
    keys, targets, _ = naive_rows(pipe, span)
    square, ring, empty = rows_of(pipe, *WORDS, "")
    retain = torch.stack([square[1], ring[1]]) if span == "last" else torch.cat([square[1:], ring[1:]])
    fixed = fixed_rows(empty, 3, 0)
    for i, (name, w) in enumerate(values.items()):
        noise = torch.randn(len(retain), 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        ways = []
        for sign in (1, -1):  # of the direction along which rows are drawn, which is arbitrary
            given: dict[str, Any] = {"ridge": 0.7, "fixed_ridge": fixed_ridge, "noise": sign * noise}
            given |= {"below": space.get("null_below"), "each": space.get("null_share"), "filtered": space["filtered"]}
            ways.append(naive.speed(w, keys, targets, retain, fixed, **given))
        assert min(float((after[name] - way).abs().max()) for way in ways) < 1e-8, name


@pytest.mark.parametrize("below", [None, 0.3])
def test_speed_keeps_what_it_promises(below: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(40, 6, generator=generator, dtype=torch.float64) @ draws(1, (6, 16))[0]
    keys, fixed, w = draws(2, (5, 16), (3, 16), (9, 16))
    space = Spectrum.of(few.mT @ few / 40, few).free(1e-9, below=below)
    by = guarded(keys.mT @ keys / 5, space, fixed, 0.1, 0.0)
    change = w @ draws(3, (16, 16))[0] @ by
    assert space.shape[1] >= 10 and change.norm() > 0.1
    torch.testing.assert_close(change @ fixed.mT, torch.zeros(9, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    if below is None:
        torch.testing.assert_close(change @ few.mT, torch.zeros(9, 40, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_start_of_text_stays_as_it_is() -> None:
    pipe = double()
    empty, circle = rows_of(pipe, "", "circle")
    before = keys_and_values(pipe, ("to_v",))
    with efface.erase(pipe, CIRCLE, "speed", null_share=0.05).on(pipe):
        for name, w in keys_and_values(pipe, ("to_v",)).items():
            change = w - before[name]
            assert (change @ circle[2]).norm() > 1e-3
            assert (change @ fixed_rows(empty, 3, 0).mT).abs().max() < 1e-12


def test_the_null_space_by_its_share() -> None:
    gram = torch.diag(torch.tensor([5.0, 1.0, 3.0, 0.5, 0.5], dtype=torch.float64))
    none = torch.zeros(0, 5, dtype=torch.float64)
    alike = Spectrum.of(gram, none)
    assert [alike.free(share).shape[1] for share in (0, 0.05, 0.1, 0.2, 1)] == [0, 1, 2, 3, 5]
    assert [Spectrum.of(0 * gram, none).free(0, of).shape[1] for of in ("each", "all")] == [5, 5]
    assert alike.free(0, below=0.6).shape[1] == 2
    assert alike.free(0, least=0.5).shape[1] == 3
    rows = torch.tensor([[9.0, 0, 0, 0, 1], [9, 3, 0, 0, 0]], dtype=torch.float64)  # 1 / 82 in the least; 1 / 10 in 3
    of_rows = Spectrum.of(gram, rows)
    assert [of_rows.free(share, "each").shape[1] for share in (0.012, 0.013, 0.099, 0.11, 1)] in (
        [0, 2, 2, 4, 5],
        [1, 2, 2, 4, 5],  # of two equal eigenvalues either may be the first
    )


def test_a_row_among_many_others_is_held_as_they_are() -> None:
    """A word's own row differs from those behind it where all rows together have next to nothing."""
    rows = torch.zeros(21, 8, dtype=torch.float64)
    rows[:, 0], rows[-1, 5] = 10, 1
    gram = rows.mT @ rows / len(rows)
    spectrum = Spectrum.of(gram, rows)
    alike, each = spectrum.free(0.001), spectrum.free(0.001, "each")
    assert alike.shape[1] == 7 and float((rows[-1] @ alike).norm()) > 0.9
    assert each.shape[1] == 6 and float((rows @ each).abs().max()) < 1e-12


def test_what_is_preserved_stays_where_no_row_is_left_out() -> None:
    pipe = double()
    circle, *kept = rows_of(pipe, "circle", "ring", "square")
    before = keys_and_values(pipe, ("to_v",))
    for options, most in (({"filtered": False}, 1e-9), ({"filtered": True}, 1.0)):
        given: dict[str, Any] = {"null_share": 1e-12, "least_free": 0.0, "key_span": "last", "augment": 0, **options}
        with efface.erase(pipe, CIRCLE, "speed", **given).on(pipe):
            for name, w in keys_and_values(pipe, ("to_v",)).items():
                change = w - before[name]
                held = torch.stack([rows[1] for rows in kept])
                assert float((held @ change.mT).abs().max()) < most and float((circle[2] @ change.mT).norm()) > 0.01


def test_rows_to_retain_that_fill_everything_are_told_of() -> None:
    pipe = build("sd1")
    with pytest.warns(EffaceWarning, match=r"directions left to change \(least_free=0.9\) hold up to"):
        efface.erase(pipe, CIRCLE, "speed", key_span="last_to_end", null_of="each", least_free=0.9)


CROWD = Concept("circle", anchor="star", preserve=["a circle", "the circle", "circles", "big circle"])
CAREFUL: dict[str, Any] = {"key_span": "last_to_end", "null_of": "each"}


def test_concepts_that_are_held_with_what_is_retained_are_told_of() -> None:
    pipe = double()
    free = efface.erase(pipe, Concept("circle", anchor="star"), "speed", least_free=1.0, fixed_ridge=1e9)
    assert all(fact["reached"] == pytest.approx(1.0, abs=0.02) for fact in free.report["layers"].values())
    with pytest.warns(EffaceWarning, match="move by .* of what they move where nothing is held"):
        held = efface.erase(pipe, CROWD, "speed", null_share=1e-6, least_free=0.1, filtered=False, **CAREFUL)
    assert max(fact["reached"] for fact in held.report["layers"].values()) < 0.5


def reached(erasure: Any) -> list[float]:
    return [fact["reached"] for fact in erasure.report["layers"].values()]


@pytest.mark.filterwarnings("ignore::efface.EffaceWarning")
def test_what_is_retained_is_held_as_carefully_as_lets_the_concept_move() -> None:
    pipe = double()
    careful = efface.erase(pipe, CROWD, "speed", reach=0)
    assert careful.report["way"] == asdict(WAYS[0]) and max(reached(careful)) < 0.5
    erasure = efface.erase(pipe, CROWD, "speed")
    tried = [each["reached"] for each in erasure.report["tried"]]
    assert min(reached(erasure)) >= 0.75 > max(tried[:-1]) and tried[-1] >= 0.75
    way = erasure.report["way"]
    assert erasure.report["tried"][-1] == way | {"reached": tried[-1]} and way == asdict(WAYS[len(tried) - 1])
    assert "at least 75%" in erasure.report["why"]
    written = efface.erase(pipe, CROWD, "speed", **way)
    assert written.report["layers"] == erasure.report["layers"] and written.report["why"] == "all of it was written"
    alone = efface.erase(pipe, Concept("circle", anchor="star"), "speed", fixed_ridge=1e9)
    assert alone.report["way"] == asdict(WAYS[0]) and len(alone.report["tried"]) == 1


@pytest.mark.filterwarnings("ignore::efface.EffaceWarning")
@pytest.mark.parametrize("written", [{"key_span": "last_to_end"}, {"null_of": "each", "filtered": True}, CAREFUL])
def test_what_was_written_is_never_overridden(written: dict[str, Any]) -> None:
    """Where no way that is left moves the concept enough, it is the one that moves it most."""
    report = efface.erase(double(), CROWD, "speed", reach=1.0, **written).report
    tried = report["tried"]
    assert len(tried) > 1 and all(written.items() <= each.items() for each in (report["way"], *tried))
    assert report["way"].items() <= max(tried, key=lambda each: each["reached"]).items()
    assert "by none do they move by 100%" in report["why"]


def test_ways_that_come_to_the_same_are_tried_once() -> None:
    assert ways_of(SpeedConfig()) == list(WAYS)
    assert [ways_of(SpeedConfig(**asdict(way))) for way in WAYS] == [[way] for way in WAYS]
    assert ways_of(SpeedConfig(key_span="last", filtered=True, null_of="all", least_free=0.0)) == [WAYS[-1]]
    below = ways_of(SpeedConfig(null_below=0.1))
    assert [(way.key_span, way.filtered) for way in below] == [
        ("last_to_end", "crowded"),
        ("last", False),
        ("last", True),
    ]


def test_centres_are_means_of_the_rows_near_them() -> None:
    rows = torch.cat([draws(0, (1, 4))[0], *(10 * k + 0.1 * draws(k, (6, 4))[0] for k in range(1, 4))])
    found = fixed_rows(rows, 3, 0)
    assert torch.equal(found[0], rows[0]) and len(found) == 4
    means = {tuple(rows[1 + 6 * k : 7 + 6 * k].mean(0).round(decimals=6).tolist()) for k in range(3)}
    assert {tuple(row.round(decimals=6).tolist()) for row in found[1:]} == means
    assert torch.equal(fixed_rows(rows, None, 0), rows)


def test_retaining_everything_is_refused() -> None:
    with pytest.raises(InputError, match="leaves no direction in which .* may change: preserve fewer words"):
        efface.erase(build("sd1"), CIRCLE, "speed", null_share=0.0, least_free=0.0, **CAREFUL)


# ------------------------------------------------------------------------------------------------------- OCE


def test_oce() -> None:
    pipe = double()
    values = keys_and_values(pipe, ("to_v",))
    given: dict[str, Any] = {"erase_weight": 90.0, "retain_weight": 0.2, "preserve_weight": 0.4, "ridge": 1.5}
    with efface.erase(pipe, CIRCLE, "oce", retain=["a red square"], **given).on(pipe):
        after = keys_and_values(pipe, ("to_v",))
    circle, star, square, ring, empty, red = rows_of(pipe, "circle", "star", *WORDS, "", "a red square")
    texts = torch.cat([square[:3], ring[:3], empty[:2], red[:5]])
    words = torch.stack([square[1], ring[1]])
    mean = texts.mT @ texts / len(texts)
    for name, w in values.items():
        r = naive.oce(w, circle[2:3], star[1:2], words, mean, 90.0, 0.4, 0.2, 1.5)
        torch.testing.assert_close(after[name], r @ w, **CLOSE)
        assert not torch.allclose(after[name], w)


@pytest.mark.parametrize("out", [6, 8, 20])
def test_a_rotation_keeps_all_inner_products_of_values(out: int) -> None:
    w, keys, targets, words = draws(0, (out, 8), (2, 8), (2, 8), (3, 8))
    r = rotation(w, keys, targets, words, torch.eye(8, dtype=torch.float64), OceConfig())
    torch.testing.assert_close(r.mT @ r, torch.eye(out, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close((r @ w).mT @ (r @ w), w.mT @ w, **CLOSE)
    outside = torch.eye(out, dtype=torch.float64) - w @ torch.linalg.pinv(w)
    torch.testing.assert_close(r @ outside, outside, **CLOSE)
    assert (r - torch.eye(out, dtype=torch.float64)).norm() > 0.5


def test_values_of_the_concept_point_away() -> None:
    w, keys, targets, words = draws(0, (8, 8), (1, 8), (1, 8), (3, 8))
    r = rotation(w, keys, targets, words, torch.eye(8, dtype=torch.float64), OceConfig())
    value = w @ keys[0]
    assert torch.cosine_similarity(r @ value, value, 0) < 0


def test_a_weight_below_the_threshold_turns_nothing_and_says_so() -> None:
    with pytest.warns(NothingErasedWarning, match="nothing is turned"):
        efface.erase(build("sd1"), Concept("circle", neutral="star"), "oce", erase_weight=1e-6)


# ------------------------------------------------------------------------------------------------------ MACE


def test_refinement() -> None:
    pipe = double()
    templates = ["a {} with ring", "a {}"]
    concept = Concept("circle", anchor="star", preserve=["square"], templates=templates)
    before = keys_and_values(pipe)
    with efface.erase(pipe, concept, "mace", adapters=False, ridge=2.0, preserve_weight=0.3).on(pipe):
        after = keys_and_values(pipe)
    keys, targets, kept = [], [], []
    for template in templates:
        circle, star, square = rows_of(pipe, *(template.replace("{}", word) for word in ("circle", "star", "square")))
        behind, beside = naive.last_to_end(circle, 3, star, 2)
        keys += [circle[:2], behind[1:]]
        targets += [star[:2], beside[1:]]
        kept.append(square)
    kept.append(rows_of(pipe, "")[0])
    for name, w in before.items():
        expected = naive.uce(w, torch.cat(keys), torch.cat(targets), torch.cat(kept), 2.0, 1.0, 0.3)
        torch.testing.assert_close(after[name], expected, **CLOSE)


def test_fusion() -> None:
    pipe = double()
    view = PipelineView.of(pipe)
    concepts = [Concept(word, anchor="star", templates=["a {}"]) for word in ("circle", "ring")]
    each = [efface.erase(view, concept, "uce", in_templates=True) for concept in concepts]
    before = keys_and_values(pipe)
    edited: list[dict[str, Tensor]] = []
    for erasure in each:
        with erasure.on(pipe):
            edited.append(keys_and_values(pipe))
    found = fused(view, each, preserve=["square"], preserve_weight=0.2, ridge=0.4)
    with found.on(pipe):
        after = keys_and_values(pipe)
    assert found.names == ("circle", "ring") and found.method == "joined"
    rows = rows_of(pipe, "a circle", "a ring")
    kept = torch.cat(rows_of(pipe, "", "square"))
    for name, w in before.items():
        left, right = 0.4 * w, 0.4 * torch.eye(w.shape[1], dtype=w.dtype)
        for own, of in zip(rows, edited, strict=True):
            left, right = left + of[name] @ own.mT @ own, right + own.mT @ own
        left, right = left + 0.2 * w @ kept.mT @ kept, right + 0.2 * kept.mT @ kept
        torch.testing.assert_close(after[name], left @ torch.linalg.inv(right), **CLOSE)


def test_fusion_after_a_refinement() -> None:
    pipe = double()
    view = PipelineView.of(pipe)
    refined = efface.erase(
        view, [Concept("circle", anchor="star"), Concept("ring", anchor="star")], "mace", adapters=False
    )
    with refined.on(view):
        each = [efface.erase(view, Concept(word, anchor="star"), "uce") for word in ("circle", "ring")]
    both = fused(view, each, after=refined, ridge=1e-3)
    with refined.on(view):
        alone = keys_and_values(pipe)
    with both.on(view):
        assert any(not torch.allclose(w, alone[n]) for n, w in keys_and_values(pipe).items())
    with pytest.raises(InputError, match="other weights than this one"):
        fused(view, each)


def test_what_cannot_be_fused() -> None:
    pipe = build("sd1")
    view = PipelineView.of(pipe)
    one = efface.erase(view, Concept("circle", anchor="star"), "uce")
    with pytest.raises(InputError, match="give two or more"):
        fused(view, [one])
    bad: tuple[dict[str, Any], ...] = ({"ridge": -1.0}, {"ridge": float("nan")}, {"preserve_weight": float("inf")})
    for wrong in bad:
        with pytest.raises(InputError, match="write a finite number, at least 0"):
            fused(pipe, [one, one.scaled(0.5)], **wrong)
    from efface.core.weights import Add
    from efface.diffusion.weights.erasure import WeightErasure, delta_of

    other = WeightErasure({"unet": delta_of(pipe.unet, {"conv_in.bias": Add(torch.ones(16))})})
    with pytest.raises(InputError, match="conv_in.bias of unet is no matrix that reads the rows"):
        fused(view, [one, other])


@pytest.mark.parametrize("method", ["speed", "oce"])
def test_prompts_to_retain_are_a_list_of_strings(method: str) -> None:
    pipe = build("sd1")
    for wrong in ("a red square", ["a red square", 3], 3):
        with pytest.raises(InputError, match="retain is .*write a list"):
            efface.erase(pipe, Concept("circle"), method, retain=wrong)


# ------------------------------------------------------------------------------------------- every pipeline

OPTIONS: dict[str, dict[str, Any]] = {
    "speed": {"null_share": 0.2, "in_templates": True},
    "rece": {"rounds": 1, "in_templates": True},
    "oce": {"in_templates": True},
    "mace": {"adapters": False},
}


@pytest.mark.parametrize("kind", BUILDERS)
def test_on_every_kind_of_pipeline(kind: str) -> None:
    """Each is fitted, and changes what a prompt with the concept in it gives; MACE's keys need rows behind a word."""
    pipe = build(kind)
    view = PipelineView.of(pipe)
    concept = Concept("circle", anchor="star", preserve=["square"], templates=["a {} with ring"])
    for method, options in OPTIONS.items():
        erasure = efface.erase(view, concept, method, **options)
        before = {p: {n: v.clone() for n, v in getattr(pipe, p).state_dict().items()} for p in erasure.deltas}
        with erasure.on(view):
            for part, delta in erasure.deltas.items():
                state = getattr(pipe, part).state_dict()
                assert all(not torch.equal(state[name], before[part][name]) for name in delta.changes), (method, part)
        for part, values in before.items():
            assert all(torch.equal(v, values[n]) for n, v in getattr(pipe, part).state_dict().items())


def test_in_half_precision_the_change_is_nearly_the_same() -> None:
    """Rows are those of a text encoder in bfloat16, the solution is float64, and the weights stay what they are."""
    whole, half = build("sd1"), build("sd1").to(torch.bfloat16)
    concept = Concept("circle", anchor="star", preserve=["square"])
    for method, options in {
        "uce": {},
        "rece": {"rounds": 1},
        "speed": {},
        "oce": {},
        "mace": {"adapters": False},
    }.items():
        made = [efface.erase(pipe, concept, method, **options) for pipe in (whole, half)]
        given = [{n: v.double() for n, v in pipe.unet.state_dict().items()} for pipe in (whole, half)]
        with made[0].on(whole), made[1].on(half):
            assert {v.dtype for v in half.unet.state_dict().values()} == {torch.bfloat16}
            after = [{n: v.double() for n, v in pipe.unet.state_dict().items()} for pipe in (whole, half)]
        for name in made[0].deltas["unet"].changes:
            change, other = (now[name] - before[name] for now, before in zip(after, given, strict=True))
            assert float((other - change).norm()) < 0.25 * float(change.norm()), (method, name)
        assert all(torch.equal(v.double(), given[1][n]) for n, v in half.unet.state_dict().items())
