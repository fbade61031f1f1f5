"""Erasing in one call, end to end, by the one method there is: the negative prompt."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from efface import Concept, InputError, NothingErasedWarning, NotReadWarning, erase, get_method, methods
from efface.pipelines import PipelineView
from tests.pipelines import BUILDERS, EMBEDDED, build, direct, small, state, tiny

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
GUIDED = [name for name in BUILDERS if name not in EMBEDDED]
guided_pipelines = pytest.mark.parametrize("name", GUIDED)
PROMPTS, SEEDS = ["a red circle", "the small star"], [3, 4]


def negative(name, concept="circle"):
    return erase(tiny(name), concept, method="negative-prompt")


@guided_pipelines
def test_it_is_bit_for_bit_the_negative_prompt_of_the_pipeline(name):
    plain = direct(name, PROMPTS, SEEDS)
    wanted = direct(name, PROMPTS, SEEDS, negative_prompt=["circle"] * 2)
    assert not torch.equal(plain, wanted)
    view = PipelineView.of(tiny(name))
    before = view.encode(PROMPTS)
    erasure = negative(name)
    with erasure.on(tiny(name)) as run:
        assert run.erasure is erasure
        assert torch.equal(direct(name, PROMPTS, SEEDS), wanted)
        assert torch.equal(view.sample(PROMPTS, SEEDS, steps=2, **small(name)), wanted)
        assert torch.equal(view.sample(before, SEEDS, steps=2, **small(name)), wanted)
        inside = view.encode(PROMPTS)
        assert torch.equal(view.sample(inside, SEEDS, steps=2, **small(name)), wanted)
    assert torch.equal(direct(name, PROMPTS, SEEDS), plain)
    assert run.log.counts["prompts"] >= 8


@guided_pipelines
def test_a_negative_prompt_of_the_users_own_stays(name):
    wanted = direct(name, PROMPTS, SEEDS, negative_prompt=["a ring, circle", "a square, circle"])
    with negative(name).on(tiny(name)):
        assert torch.equal(direct(name, PROMPTS, SEEDS, negative_prompt=["a ring", "a square"]), wanted)
        mine = PipelineView.of(tiny(name)).sample(
            PROMPTS, SEEDS, steps=2, negative=["a ring", "a square"], **small(name)
        )
        assert torch.equal(mine, wanted)


def test_a_negative_prompt_of_ones_own_stays_with_several_pictures_a_prompt():
    own = ["a ring", "a square"]
    seeds, more = [3, 4, 5, 6], {"num_images_per_prompt": 2}
    wanted = direct("sd1", PROMPTS, seeds, negative_prompt=[f"{text}, circle" for text in own], **more)
    with negative("sd1").on(tiny("sd1")):
        assert torch.equal(direct("sd1", PROMPTS, seeds, negative_prompt=own, **more), wanted)


@pytest.mark.parametrize("name", EMBEDDED)
def test_distilled_guidance_is_refused(name):
    with pytest.raises(InputError, match="has embedded guidance and runs without a negative prompt"):
        erase(tiny(name), "circle", method="negative-prompt")
    with pytest.raises(InputError, match="embedded guidance"), negative("sd1").on(tiny(name)):
        pass
    assert "encode_prompt" not in vars(tiny(name))


def test_without_guidance_it_warns_that_nothing_is_erased():
    plain = direct("sd1", ["a red circle"], [3], guidance_scale=1.0)
    erasure = negative("sd1")
    with erasure.on(tiny("sd1")) as run, pytest.warns(NothingErasedWarning, match="pass a guidance_scale above 1"):
        assert torch.equal(direct("sd1", ["a red circle"], [3], guidance_scale=1.0), plain)
    assert run.log.counts == {"prompts without guidance": 1}


def test_a_window_of_the_call_is_that_of_the_negative_prompt_too():
    more = {"max_sequence_length": 20}
    wanted = direct("pixart-alpha", ["a red circle"], [3], negative_prompt="circle", **more)
    with negative("pixart-alpha").on(tiny("pixart-alpha")):
        assert torch.equal(direct("pixart-alpha", ["a red circle"], [3], **more), wanted)


def test_embeddings_longer_than_the_window_have_no_negative_prompt_beside_them():
    pipe = build("sd1")
    sequence, negative = pipe.encode_prompt("a red circle", "cpu", 1, True)
    long = {"prompt_embeds": torch.cat([sequence] * 2, 1), "negative_prompt_embeds": torch.cat([negative] * 2, 1)}
    call = {"num_inference_steps": 1, "output_type": "latent", **small("sd1")}
    plain = pipe(**long, **call).images
    refused = pytest.raises(InputError, match="embeddings of .* rows, and negative prompts have .* here")
    with erase(pipe, "circle", method="negative-prompt").on(pipe), refused:
        pipe(**long, **call)
    assert pipe(**long, **call).images.shape == plain.shape


def test_fitting_and_undoing_leave_the_pipeline_as_it_was():
    pipe = build("sd1")
    before = state(pipe)
    a = erase(pipe, "circle", method="negative-prompt")
    b = erase(pipe, Concept("star", synonyms=["ring"]), method="negative-prompt")
    assert state(pipe) == before
    first, second = a.on(pipe), b.on(pipe)
    with pytest.raises(InputError, match="is on this StableDiffusionPipeline already"):
        a.on(pipe)

    def is_negative_prompt(text):
        wanted = direct("sd1", PROMPTS, SEEDS, negative_prompt=[text] * 2)
        return torch.equal(direct("sd1", PROMPTS, SEEDS, pipe=pipe), wanted)

    assert is_negative_prompt("circle, star, ring")  # erasures add up
    first.undo()  # not the last one put on
    assert is_negative_prompt("star, ring")
    second.undo()
    assert "encode_prompt" not in vars(pipe)
    with (a & b).on(pipe):
        assert is_negative_prompt("circle, star, ring")


def test_methods_are_registered_and_named_in_the_error():
    names = ["cgce", "negative-prompt", "projection", "safree", "semantic-surgery", "sld"]
    assert [m.name for m in methods("pipeline") if m.name in names] == names
    assert get_method("sld", tiny("sd1")).erasure.__name__ == "SafeLatentDiffusion"
    with pytest.raises(InputError, match=r"'leace' erases from .*, not from pipeline: choose one of .*negative-prompt"):
        erase(tiny("sd1"), "circle", method="leace")
    with pytest.raises(
        InputError, match=r"name a method, erase\(pipe, concept, method=...\): one of adavd, adv-unlearn, cgce, "
    ):
        erase(tiny("sd1"), "circle")


def test_concepts_that_the_pipeline_cannot_read():
    with pytest.raises(InputError, match="tokenizer does not know 'zebra' of target 'zebra'"):
        negative("wan", "zebra")
    with pytest.raises(InputError, match="empty string"):
        negative("wan", " ")


def test_edits_of_embeddings_made_inside_are_not_repeated():
    view = PipelineView.of(tiny("sd3"))
    plain = view.encode("a red circle")
    with view.edited(lambda e: e.replace(sequence=e.sequence + 1, pooled=e.pooled - 1)):
        inside = view.encode("a red circle")
        edited = view.sample(inside, 3, steps=2, **small("sd3"))
        assert torch.equal(view.sample(plain, 3, steps=2, **small("sd3")), edited)
        assert torch.equal(view.sample("a red circle", 3, steps=2, **small("sd3")), edited)
        assert torch.equal(direct("sd3", ["a red circle"], [3]), edited)
    assert torch.equal(inside.sequence, plain.sequence + 1) and torch.equal(inside.pooled, plain.pooled - 1)
    once = view.sample("a red circle", 3, steps=2, edit=lambda e: inside, **small("sd3"))
    assert torch.equal(once, edited)


@pytest.mark.parametrize("name", BUILDERS)
def test_rules_see_every_step_and_change_it(name):
    view = PipelineView.of(tiny(name))
    options = {"steps": 3, **small(name)}
    seen = []
    with view.guided(lambda step: seen.append(step)):  # type: ignore[arg-type,return-value]
        plain = view.sample("a red circle", 3, **options)
    assert torch.equal(plain, view.sample("a red circle", 3, **options))
    assert [step.index for step in seen] == [0, 1, 2]
    assert all(step.embedding.prompts in ((), ("a red circle",)) for step in seen)
    with view.guided(lambda step: step.predict(step.embedding)):
        again = view.sample("a red circle", 3, **options)
    torch.testing.assert_close(again, plain, atol=2e-4, rtol=0)
    if name in EMBEDDED:
        other = view.encode("the small star")
        with view.guided(lambda step: step.predict(other)):
            swapped = view.sample(view.encode("a red circle"), 3, **options)
        assert torch.equal(swapped, view.sample(other, 3, **options))
        return

    def uncond(step):
        return step.predict(step.embedding.negative) if step.uncond is None else step.uncond

    # u + s (u - u) = u: guided towards nothing, it is the negative prompt alone.
    with view.guided(uncond):
        none = view.sample("a red circle", 3, **options)
    assert view.encode("a red circle").negative is not None
    alone = view.sample(view.encode("a red circle").negative, 3, guidance=1.0, **options)
    torch.testing.assert_close(none, alone, atol=2e-4, rtol=0)
    assert (none - plain).abs().max() > 0.02


def test_a_rule_knows_the_prompt_from_the_negative_prompt_in_true_guidance():
    view = PipelineView.of(tiny("flux"))
    options = {"steps": 2, "true_cfg_scale": 3.0, **small("flux")}
    seen = []
    with view.guided(lambda step: seen.append(step)):  # type: ignore[arg-type,return-value]
        view.sample("a red circle", 3, negative="a ring", **options)
        direct("flux", ["a red circle"], [3], negative_prompt=["a ring"], true_cfg_scale=3.0)
    assert len(seen) == 4
    wanted = view.encode("a red circle", negative="a ring")
    assert wanted.negative is not None
    for step in seen:
        assert torch.equal(step.embedding.sequence, wanted.sequence)
        assert torch.equal(step.embedding.negative.sequence, wanted.negative.sequence)


def test_denoise_gives_the_prediction_without_rules():
    view = PipelineView.of(tiny("sd1"))
    embedding = view.encode("a red circle")
    call = view.prepare(embedding, **small("sd1"))
    plain = view.denoise(call.latents, 500, embedding)
    with view.guided(lambda step: step.cond * 0):
        view.sample("a red circle", 3, steps=1, **small("sd1"))  # now the rule has seen a prompt
        assert torch.equal(view.denoise(call.latents, 500, embedding), plain)


def test_edits_are_told_the_text_of_embeddings_that_the_view_samples():
    view, told = PipelineView.of(tiny("sd1")), []
    before = view.encode(PROMPTS)
    with view.edited(lambda e: told.append(e.prompts)):  # type: ignore[arg-type,return-value]
        view.sample(before, SEEDS, steps=1, **small("sd1"))
        direct("sd1", PROMPTS, SEEDS, steps=1)
        view.denoise(view.prepare(before, **small("sd1")).latents, 500, before)
    assert set(told) == {tuple(PROMPTS)}


@pytest.mark.parametrize("name", ["sd1", "flux", "wan"])
def test_a_swap_gives_the_denoiser_other_rows_at_its_step(name):
    view, options = PipelineView.of(tiny(name)), {"steps": 3, **small(name)}
    other, steps = view.encode(["the small star", "a big ring"]), []

    def swap(index, embedding, rows):
        steps.append(index)
        return other.sequence

    remove = view.install_swap(swap)
    try:
        swapped = view.sample(view.encode(PROMPTS), SEEDS, **options)
    finally:
        remove()
    wanted = view.encode(PROMPTS).replace(sequence=other.sequence)
    assert steps == [0, 1, 2]
    assert torch.equal(swapped, view.sample(wanted, SEEDS, **options))
    remove = view.install_swap(lambda index, embedding, rows: rows[:, :2])
    try:
        with pytest.raises(InputError, match="a swap must keep the shape"):
            view.sample(PROMPTS, SEEDS, **options)
    finally:
        remove()
    assert torch.equal(view.sample(PROMPTS, SEEDS, **options), view.sample(view.encode(PROMPTS), SEEDS, **options))


def test_rules_go_together_and_see_the_steps_of_the_pipeline_alone():
    view, seen = PipelineView.of(tiny("sd1")), ([], [])

    def rule(which):
        def apply(step):
            seen[which].append(step.index)
            return step.predict(step.embedding)

        return apply

    with view.guided(rule(0)), view.guided(rule(1)):
        view.sample(PROMPTS, SEEDS, steps=3, **small("sd1"))
    assert seen == ([0, 1, 2], [0, 1, 2])


BASE: dict[str, Any] = {
    "preserve": ["square", "star"],
    "templates": ["{}", "a {}", "the {}", "a red {}", "a photo of a {}"],
}
OTHER: dict[str, Any] = {
    "synonyms": ["ring"],
    "anchor": "big",
    "preserve": ["square", "red"],
    "templates": ["{}", "a blue {}", "the big {}", "a small {}", "a picture of a {}"],
    "neutral": "a photo",
    "erase_from": "sign",
    "labels": [0],
}
FITS: list[tuple[str, dict[str, Any]]] = [
    ("negative-prompt", {}),
    ("negative-prompt", {"text": "a ring"}),
    ("projection", {"kind": "leace"}),
    ("projection", {"kind": "orthogonal"}),
    ("safree", {}),
    ("semantic-surgery", {"threshold": -2.0}),
    ("semantic-surgery", {"threshold": -2.0, "preset": "published"}),
    ("sld", {}),
]


@pytest.mark.parametrize(("method", "options"), FITS, ids=[f"{m}-{list(o.values())[-1:]}" for m, o in FITS])
def test_what_a_concept_says_is_read_or_said_not_to_be(method: str, options: dict[str, Any]) -> None:
    view = PipelineView.of(tiny("sd1"))

    def fitted(**fields: Any) -> tuple[str, set[str]]:
        """What was learnt, and what the method said that it did not read."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", NotReadWarning)
            erasure = erase(view, Concept("circle", **{**BASE, **fields}), method=method, **options)
        said = " ".join(str(w.message) for w in told if w.category is NotReadWarning)
        fields_said = said.partition("does not read ")[2].partition(" of ")[0]
        return replace(erasure, concepts=(), provenance={}).digest, set(fields_said.split(", ")) - {""}

    plain, _ = fitted()
    known = get_method(method, "pipeline")
    for name, value in OTHER.items():
        learnt, told = fitted(**{name: value})
        assert (name in told) == (learnt == plain), name
        assert name in told or name in known.reads


def test_cgce_reads_a_concept_unless_pairs_stand_in_its_place() -> None:
    cgce, said = get_method("cgce", "pipeline"), Concept("circle", **{**BASE, **OTHER})
    pairs = {"pairs": [("a star", "a circle")], "ask": None}
    for options, data, unread in (
        ({}, {"pairs": None}, {"neutral", "erase_from", "labels"}),
        ({}, pairs, {"neutral", "erase_from", "labels"}),  # it leads to the anchor
        ({"preset": "published"}, {}, {"neutral", "erase_from", "labels"}),
        ({"preset": "published"}, pairs, set(said.said)),
    ):
        assert set(cgce.unread(said, cgce.config.of(options), data)) == unread


def test_fields_of_a_concept_of_rows_beside_its_labels_are_said_not_to_be_read() -> None:
    x, z = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    with pytest.warns(NotReadWarning, match="method='leace', .* does not read synonyms, preserve of 'group'"):
        erase(x, Concept("group", synonyms=["set"], preserve=["other"], labels=z), method="leace", shrinkage=False)
