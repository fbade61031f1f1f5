"""CGCE on tiny pipelines of every make (what it computes), and on the shapes that ship (what it does)."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import efface
from efface import Concept, EffaceWarning, InputError, PipelineView, StillUnsafeWarning, erase
from efface.diffusion.text.cgce.erasure import Cgce
from efface.diffusion.text.contrast import moved
from efface.pipelines.embedding import PromptEmbedding
from efface_worlds.shapes import FACTORS, concept, load_judge, load_shapes_pipeline, prompts_for
from tests.pipelines import build, direct, run_of, small, state, tiny

NAMES = ["sd1", "sdxl", "sd3", "flux", "pixart-alpha", "cogvideox", "ltx", "wan"]
SPEC = Concept("circle", preserve=["star", "square", "red", "blue", "big"], templates=["{}", "the {}"])
PROMPTS = ["a red circle", "the small blue star", "a photo of a circle", "a big ring"]
# Encoders of random weights tell little apart; what is tested here is what is done with it.
QUICK: dict[str, Any] = {
    "n_pairs": 24, "epochs": 4, "learning_rate": 0.01, "keep_rows": 0.5, "members": 2, "width": 8, "heads": 2
}  # fmt: skip
QUICK |= {"least_auroc": 0.5, "preset": "published"}


@cache
def fitted(name: str, **options: Any) -> Cgce:
    # five classifiers, of which each must learn something; a slow text encoder
    more: Any = {"sd3": {"n_pairs": 48, "epochs": 10}, "wan": {"n_pairs": 14}}
    return erase(tiny(name), SPEC, method="cgce", **{**QUICK, **more.get(name, {}), **options})


def weights(erasure: Cgce) -> list[Tensor]:
    """All tensors of all classifiers."""
    return [w for group in erasure.readers for r in group for w in r.classifier.weights.values()]


def firing(name: str, on: int = 2, **options: Any) -> tuple[Cgce, PromptEmbedding]:
    """An erasure that fires on some of PROMPTS, and these."""
    plain = PipelineView.of(tiny(name)).encode(PROMPTS)
    erasure = fitted(name)
    p = erasure.presence(plain)[1][:, 0].sort(descending=True).values
    threshold = float(p[on - 1 : on + 1].mean())
    return erasure.tuned(threshold=threshold, **{"until": 0.9 * threshold, "eta": 0.5, **options}), plain


def refined_naive(erasure: Cgce, e: PromptEmbedding, i: int) -> tuple[dict[str, Tensor], int]:
    """Part -> what becomes of one prompt, and steps, one prompt and one part at a time."""
    out, most = {}, 0
    z, _ = erasure.presence(e[i])
    for reader in erasure.readers[0]:
        part = reader.part
        x, n = part.of(e)[i].clone(), 0
        mask = torch.ones(len(x), dtype=torch.bool)
        if e.mask is not None and not part.pooled:
            mask = e.mask[i, slice(*part.rows)].bool()
        mask &= (x != 0).any(-1) & (torch.arange(len(x)) >= reader.first)
        while float(z) > erasure.config.limit:
            x.requires_grad_(True)
            logit = reader.classifier(x[None], mask[None])[0]
            if float(logit.detach()) <= erasure.config.stop(reader.typical):
                break
            g = torch.autograd.grad(F.softplus(logit), x)[0]
            x = (x - 0.5 * g / g.norm() * x.norm() / len(x) ** 0.5).detach()
            n += 1
        out[part.name], most = x.detach(), max(n, most)
    return out, most


@pytest.mark.parametrize("name", NAMES)
def test_prompts_that_fire_go_down_the_gradient_and_others_stay_bit_for_bit(name: str) -> None:
    erasure, plain = firing(name)
    fired = (erasure.reading(plain) > 0)[:, 0].tolist()
    assert sum(fired) == 2
    run = run_of(tiny(name))
    after = erasure.edited(plain, run)
    assert after.negative is plain.negative and (after.mask is None or torch.equal(after.mask, plain.mask))  # type: ignore[arg-type]
    for i in range(4):
        if not fired[i]:
            assert all(torch.equal(after.tensors()[role][i], value[i]) for role, value in plain.tensors().items())
            continue
        expected, steps = refined_naive(erasure, plain, i)
        for reader in erasure.readers[0]:
            new, old = (reader.part.of(x)[i] for x in (after, plain))
            torch.testing.assert_close(new, expected[reader.part.name], atol=2e-4, rtol=1e-3)
            assert torch.equal(new[: reader.first], old[: reader.first])
        note = run.log.last[i]
        assert note["steps"] == steps > 0 and note["safe"] and note["moved"] > 0
        assert note["erased"] == ["circle"] and note["prompt"] == PROMPTS[i]
    assert bool((erasure.reading(after) <= 1e-3).all())
    parts = [reader.part.name for reader in erasure.readers[0]]
    slots = PipelineView.of(tiny(name)).layout
    wanted = [f"sequence.{s.encoder}" for s in slots if s.in_sequence] + [
        f"pooled.{s.encoder}" for s in slots if s.in_pooled
    ]
    assert parts == wanted
    assert run.log.counts["prompts erased"] == 2


@pytest.mark.parametrize("name", ["sd1", "sdxl", "ltx"])
def test_where_nothing_is_found_the_picture_is_the_same_bit_for_bit(name: str) -> None:
    view, erasure = PipelineView.of(tiny(name)), fitted(name).tuned(threshold=1 - 1e-9)
    plain = view.sample(PROMPTS[:2], [0, 1], steps=1, **small(name))
    with erasure.on(view) as run:
        assert torch.equal(view.sample(PROMPTS[:2], [0, 1], steps=1, **small(name)), plain)
    assert run.log.counts == {"prompts": run.log.counts["prompts"]}


def test_the_pipelines_own_call_is_refined_whatever_the_gradient_mode() -> None:
    erasure, plain = firing("sd1")
    wanted = PipelineView.of(tiny("sd1")).sample(
        erasure.edited(plain, run_of(tiny("sd1"))), [0, 1, 2, 3], steps=1, **small("sd1")
    )
    assert not torch.equal(wanted, direct("sd1", PROMPTS, [0, 1, 2, 3], steps=1))
    with erasure.on(tiny("sd1")):
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode():
                assert torch.equal(direct("sd1", PROMPTS, [0, 1, 2, 3], steps=1), wanted)
    assert "encode_prompt" not in vars(tiny("sd1"))


@pytest.mark.parametrize("normalise", ["none", "l2", "token_l2", "sign"])
def test_prompts_of_a_batch_do_not_touch_one_another(normalise: Any) -> None:
    erasure, plain = firing("sdxl", on=3, normalise=normalise, max_iter=5 if normalise == "none" else 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StillUnsafeWarning)
        run = run_of(tiny("sdxl"))
        after = erasure.edited(plain, run)
        steps = [note["steps"] for note in run.log.last]
        for i in range(4):
            alone = erasure.edited(plain[i], run)
            assert run.log.last[0]["steps"] == steps[i]
            for role, value in alone.tensors().items():
                torch.testing.assert_close(value[0], after.tensors()[role][i], atol=1e-4, rtol=1e-3)
    assert sum(step > 0 for step in steps) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    erasure, plain = firing("sdxl")
    half, run = plain.to(dtype), run_of(tiny("sdxl"))
    after = erasure.edited(half, run)
    erased = [bool(note["erased"]) for note in run.log.last]
    assert after.sequence.dtype == dtype and sum(erased) >= 1
    assert bool((erasure.reading(after) <= 1e-3).all())
    for i in range(4):
        assert torch.equal(after.sequence[i], half.sequence[i]) != erased[i]


def test_pooled_vectors_can_be_kept_and_text_encoders_read_together() -> None:
    plain = PipelineView.of(tiny("sdxl")).encode(PROMPTS)
    kept, joint = fitted("sdxl", pooled="keep"), fitted("sdxl", reads="joint")
    assert [r.part.name for r in kept.readers[0]] == ["sequence.text_encoder", "sequence.text_encoder_2"]
    assert [r.part.name for r in joint.readers[0]] == ["sequence", "pooled"]
    assert joint.readers[0][0].part.of(plain).shape == plain.sequence.shape
    for erasure in (kept, joint):
        threshold = 0.9 * float(erasure.presence(plain)[1].min())
        after = erasure.tuned(threshold=threshold, until="threshold").edited(plain, run_of(tiny("sdxl")))
        assert not torch.equal(after.sequence, plain.sequence)
        assert plain.pooled is not None and after.pooled is not None
        assert torch.equal(after.pooled, plain.pooled) == (erasure is kept)


def test_several_concepts() -> None:
    specs = [SPEC, Concept("ring", preserve=["star", "square", "red", "blue", "big"], templates=["{}", "the {}"])]
    view = PipelineView.of(tiny("sd1"))
    erasure, run = erase(view, specs, method="cgce", **QUICK), run_of(view)
    plain = view.encode(PROMPTS)
    alone = fitted("sd1").presence(plain)[1][:, 0]
    torch.testing.assert_close(erasure.presence(plain)[1][:, 0], alone)  # each has the classifier that it has alone
    p = erasure.presence(plain)[1]
    erasure = erasure.tuned(threshold=float(p.min()) * 0.95, until="threshold", eta=0.3)
    after = erasure.edited(plain, run)
    assert all(note["erased"] == ["circle", "ring"] and note["safe"] for note in run.log.last)
    assert bool((erasure.reading(after) <= 1e-3).all())
    assert list(erasure.report) == ["circle", "ring"]


def test_a_prompt_that_stays_unsafe_is_counted_and_warned_of_once() -> None:
    (erasure, plain), run = firing("sd1", until=1e-6, max_iter=2), run_of(tiny("sd1"))
    with pytest.warns(StillUnsafeWarning, match="2 of 4 prompts are not safe after 2 steps.*raise max_iter or eta"):
        after = erasure.edited(plain, run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        erasure.edited(plain, run)
    assert [note["safe"] for note in run.log.last].count(False) == 2
    assert run.log.counts["prompts still unsafe"] == 4
    assert not torch.equal(after.sequence, plain.sequence)


def test_what_was_loaded_within_inference_mode_has_gradients_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    (erasure, plain), run = firing("sd3"), run_of(tiny("sd3"))
    erasure.save(tmp_path / "erasure")
    with torch.inference_mode():
        again = efface.load(tmp_path / "erasure")
        assert torch.equal(again.edited(plain, run).sequence, erasure.edited(plain, run).sequence)
    assert again.report == erasure.report
    classifier = erasure.readers[0][0].classifier
    with pytest.raises(InputError, match="do not fit: w_q is .*, expected"):
        classifier.having({"w_q": torch.zeros(1, 2, 3)})


def test_fitting_leaves_the_pipeline_and_the_global_generator_alone() -> None:
    pipe = build("sd1")
    before, seed = state(pipe), torch.random.get_rng_state()
    with torch.inference_mode():
        one = erase(pipe, SPEC, method="cgce", **QUICK)
    one.on(pipe).undo()
    assert state(pipe) == before and torch.equal(torch.random.get_rng_state(), seed)
    again = fitted("sd1")
    assert all(map(torch.equal, weights(one), weights(again)))
    assert not any(value.requires_grad for value in weights(one))
    assert not torch.equal(weights(erase(pipe, SPEC, method="cgce", **QUICK, seed=1))[0], weights(one)[0])


def test_pairs_of_the_users_own_and_of_a_language_model() -> None:
    words = [
        "red",
        "blue",
        "green",
        "big",
        "small",
        "red big",
        "blue small",
        "green big",
        "red small",
        "blue big",
        "the",
    ]
    mine = [(f"a {word} star", f"a {word} circle") for word in words]
    given = erase(tiny("sd1"), "circle", method="cgce", pairs=mine, **QUICK)
    asked = erase(tiny("sd1"), "circle", method="cgce", ask=lambda _: json.dumps(mine), **{**QUICK, "n_pairs": 11})
    assert sum(given.report["circle"]["sequence.text_encoder"].pairs) == 11
    assert all(map(torch.equal, weights(given), weights(asked)))
    recommended = {name: value for name, value in QUICK.items() if name not in ("preset", "along")}
    with pytest.warns(EffaceWarning, match="there is nothing to show in place of circle.*along='gradient'"):
        bare = erase(tiny("sd1"), "circle", method="cgce", pairs=mine, **recommended)
    assert bare.config.way == "gradient" and not bare.contrasts


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        ("circle", {}, "nothing to tell circle from"),
        (SPEC, {"threshold": 1.0}, "threshold=1.0"),
        (SPEC, {"until": 0.9}, "until=0.9"),
        (SPEC, {"until": "never"}, "until='never'"),
        (SPEC, {"normalise": "max"}, "normalise='max'"),
        (SPEC, {"pooled": "drop"}, "pooled='drop'"),
        (SPEC, {"reads": "all"}, "reads='all'"),
        (SPEC, {"layers": 2}, "no option 'layers'"),
        (SPEC, {"epochs": 0}, "epochs=0"),
        (SPEC, {"keep_rows": 0.0}, "keep_rows=0.0"),
        (SPEC, {"hold_out": 0.5}, "hold_out=0.5"),
        (SPEC, {"least_auroc": 0.2}, "least_auroc=0.2: write .*at least 0.5 and at most 1"),
        (SPEC, {"eta": 0.0}, "eta=0"),
        (SPEC, {"max_iter": 0}, "max_iter"),
        (SPEC, {"width": 6}, "does not divide"),
        (SPEC, {"pairs": [("a", "b"), ("c", "d")]}, "are 2 pairs|fall into"),
        (["circle", "star"], {"pairs": [("a", "b")]}, "several concepts"),
        (SPEC, {"pairs": [(f"a {i} star", f"a {i} circle " * 40) for i in range(12)]}, "tokens long"),
    ],
)
def test_bad_input(spec: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        erase(tiny("sd1"), spec, method="cgce", **options)


def test_another_pipeline_is_refused() -> None:
    with pytest.raises(InputError, match="fit it on this"):
        fitted("sd1").on(tiny("sdxl"))
    with pytest.raises(InputError, match="no option 'width'"):
        fitted("sd1").tuned(width=3)
    longer = PipelineView.of(tiny("ltx")).encode("a circle", max_sequence_length=200)
    with pytest.raises(InputError, match="200 rows long, and the erasure was fitted on 128"):
        fitted("ltx").edited(longer, run_of(tiny("ltx")))


# ------------------------------------------------------------------------------------------------------------ shapes


@cache
def shapes() -> Any:
    return load_shapes_pipeline()


def others(name: str) -> list[str]:
    return [c.name for c in FACTORS[concept(name).factor] if c.name != name]


@cache
def erased(name: str) -> Cgce:
    return erase(shapes(), Concept(name, preserve=others(name)), method="cgce")


@pytest.mark.parametrize("name", ["star", "striped"])
def test_a_concept_is_detected_in_templates_and_words_that_were_not_trained_on(name: str) -> None:
    erasure, view = erased(name), PipelineView.of(shapes())
    texts = prompts_for(name, 60, seed=1, templates="held_out", synonyms=True).texts
    rest = [t for o in others(name) for t in prompts_for(o, 8, seed=2, templates="held_out", synonyms=True).texts]
    with torch.no_grad():
        here, gone = (erasure.reading(view.encode(found))[:, 0] for found in (texts, rest))
    assert float((here[:, None] > gone[None]).float().mean()) > 0.95
    assert float((here > 0).float().mean()) > 0.9 and float((gone > 0).float().mean()) < 0.1
    (fit,) = erasure.report[name].values()
    assert fit.auroc > 0.95 and fit.brier < 0.05


def test_the_star_is_erased_and_other_pictures_stay_bit_for_bit() -> None:
    spec = Concept("star", templates=["a cyan {} on a pink background", "a yellow dotted {} on a grey background"])
    options = {"others": ["triangle", "square"], "steps": 10, "guidance": 3.0, "batch_size": 12}
    audit = efface.audit.pipeline(shapes(), spec, judge=load_judge(), erasure=erased("star"), seeds=3, **options)
    assert audit.find("seen by the judge", "star", "before").value > 0.8
    assert audit.find("seen by the judge", "star", "after").value == 0
    assert audit.find("images of other prompts", "pixels moved", "change").value == 0


def test_as_recommended_a_prompt_goes_straight_to_its_anchor_as_far_as_the_classifier_asks() -> None:
    erasure, view = erased("star"), PipelineView.of(shapes())
    assert erasure.anchors == ("triangle",)
    asked = ["a cyan star on a pink background", "a yellow dotted star on a grey background", "a red circle"]
    plain, run = view.encode(asked), run_of(view)
    after = erasure.edited(plain, run)
    there = moved(plain, [0, 1], erasure.contrasts[0])
    anchor = view.encode([text.replace("star", "triangle") for text in asked])
    for i in (0, 1):
        whole, gone = (x.sequence[i] - plain.sequence[i] for x in (there, after))
        share = float((whole * gone).sum() / whole.square().sum())
        assert 0.5 < share <= 1 + 1e-4
        torch.testing.assert_close(gone, share * whole, atol=1e-3, rtol=1e-3)
        far = [float((x.sequence[i] - anchor.sequence[i])[-1].norm()) for x in (plain, after)]
        assert far[1] < 0.6 * far[0] and run.log.last[i]["safe"] and run.log.last[i]["steps"] > 0
    assert torch.equal(after.sequence[2], plain.sequence[2])
    free = erasure.tuned(along="gradient").edited(plain, run_of(view)).sequence
    assert (free - anchor.sequence)[:2, -1].norm() > 2 * (after.sequence - anchor.sequence)[:2, -1].norm()


def test_an_erasure_without_a_way_to_an_anchor_refuses_to_go_there() -> None:
    with pytest.raises(InputError, match="fitted without a way to an anchor"):
        fitted("sd1").tuned(along="anchor")


def test_pairs_that_do_not_differ_in_a_concept_are_refused() -> None:
    texts = prompts_for(None, 80, seed=3).texts
    mixed = list(dict.fromkeys(texts))
    with pytest.raises(InputError, match="(?s)do not score above those without on pairs held out.*score from"):
        erase(
            shapes(), "star", method="cgce", preset="published", pairs=list(zip(mixed[::2], mixed[1::2], strict=False))
        )
