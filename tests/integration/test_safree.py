"""SAFREE on tiny pipelines of every make: against the formulas worked out token by token, and step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from efface import Concept, InputError, NothingErasedWarning, PipelineView, erase
from efface.diffusion.text.safree.erasure import Safree
from efface.diffusion.text.safree.masking import pooled, span_basis, triggers
from efface.pipelines.embedding import PromptEmbedding
from tests.pipelines import build, direct, run_of, small, state, tiny

PROMPTS, SEEDS = ["a red circle with the star", "the small blue square", "a big green star"], [3, 4, 5]
SPEC = Concept("circle", synonyms=["ring"])
NAMES = ["sd1", "sdxl", "sd3", "flux", "pixart-alpha", "wan"]


def fitted(pipe: Any, **options: Any) -> Safree:
    return erase(pipe, SPEC, method="safree", **options)


def filtered(erasure: Safree, view: PipelineView, plain: PromptEmbedding) -> tuple[PromptEmbedding, list[int]]:
    """Safe embeddings, and t' of each prompt; -1 for a prompt without triggers."""
    run = run_of(view)
    safe = erasure.edited(plain, run)
    assert safe is not None
    return safe, [note["until"] for note in run.log.last]


def ids_of(view: PipelineView, encoder: str, text: str) -> list[int]:
    """From the tokenizer itself."""
    name = encoder.replace("text_encoder", "tokenizer")
    return view.tokenizers[name](text)["input_ids"]


def pooled_naive(view: PipelineView, encoder: str, ids: list[int]) -> Tensor:
    module = view.text_encoders[encoder]
    with torch.no_grad():
        out = module(input_ids=torch.tensor([ids]))
    is_clip = "CLIP" in type(module).__name__
    return (out.last_hidden_state[0, -1] if is_clip else out.last_hidden_state[0].mean(0)).double()


def projector(columns: Tensor) -> Tensor:
    return columns @ torch.linalg.pinv(columns, rtol=1e-5)


def safree_naive(
    view: PipelineView, encoder: str, rows: Tensor, prompt: str, order: str
) -> tuple[Tensor, list[int], Tensor]:
    """Rows `(L, d)` after SAFREE, the rows of triggers, and cosines of all rows of the prompt; one token at a time."""
    is_clip = "CLIP" in type(view.text_encoders[encoder]).__name__
    ids = ids_of(view, encoder, prompt)
    tokens = range(1, len(ids) - 1) if is_clip else range(len(ids) - 1)
    C = torch.stack([pooled_naive(view, encoder, ids_of(view, encoder, p)) for p in ("circle", "ring")], dim=1)
    without = [pooled_naive(view, encoder, [0 if j == i else t for j, t in enumerate(ids)]) for i in tokens]
    eye = torch.eye(len(C)).double()
    away, inside = eye - projector(C), projector(torch.stack(without, dim=1))
    d = [float((away @ p).norm()) for p in without]
    found = [
        row for i, row in enumerate(tokens) if len(d) == 1 or d[i] >= 1.01 * sum(d[:i] + d[i + 1 :]) / (len(d) - 1)
    ]
    M = away @ inside if order == "released" else inside @ away
    projected = rows.double() @ M.mT
    safe = rows.clone().double()
    safe[found] = projected[found]
    return safe, found, F.cosine_similarity(projected[: len(ids)], rows[: len(ids)].double(), dim=-1)


@pytest.mark.parametrize("order", ["released", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_formulas_say_token_by_token(name: str, order: Any) -> None:
    view = PipelineView.of(tiny(name))
    erasure = fitted(view, order=order)
    plain = view.encode(PROMPTS)
    run, moved = run_of(view), 0
    after = erasure.edited(plain, run)
    assert after is not None
    for i, prompt in enumerate(PROMPTS):
        cosines = []
        for encoder, part in plain.sequences.items():
            expected, found, cosine = safree_naive(view, encoder, part[i], prompt, order)
            cosines.append(cosine)
            moved += len(found)
            torch.testing.assert_close(after.sequences[encoder][i].double(), expected, atol=1e-4, rtol=1e-4)
            others = [row for row in range(part.shape[1]) if row not in found]
            assert torch.equal(after.sequences[encoder][i, others], part[i, others])
        beta = 1 - float(torch.cat(cosines).mean())
        note = run.log.last[i]
        if note["until"] >= 0:
            assert note["beta"] == pytest.approx(beta, abs=1e-4)
            assert note["until"] == round(10 / (1 + math.exp(-2 * 2.5 * (10 * note["beta"] - 5.333))))
    assert moved == run.log.counts["tokens projected"] > 0
    for role in ("pooled", "mask"):
        if (value := getattr(plain, role)) is not None:
            assert torch.equal(getattr(after, role), value)


def test_the_bases_span_the_phrases_and_pooled_is_the_encoders_own() -> None:
    view = PipelineView.of(tiny("sd1"))
    ids = torch.tensor([ids_of(view, "text_encoder", "a ring")])
    own = view.text_encoders["text_encoder"](input_ids=ids).pooler_output
    torch.testing.assert_close(pooled(view.text_encoders["text_encoder"], ids).float(), own)
    basis = fitted(view).bases["text_encoder"]
    phrase = pooled_naive(view, "text_encoder", ids_of(view, "text_encoder", "ring"))
    torch.testing.assert_close(basis @ (basis.mT @ phrase), phrase, atol=1e-6, rtol=1e-5)
    assert basis.shape[1] == 2
    twice = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert span_basis(torch.cat([twice, 2 * twice])).shape == (8, 3)


def test_triggers_lie_farther_than_the_mean_of_the_others() -> None:
    d = torch.tensor([1.0, 1.2, 1.1, 1.0])
    assert triggers(d, 0.01).tolist() == [False, True, True, False]
    assert triggers(d, 0.1).tolist() == [False, True, False, False]
    assert triggers(torch.zeros(0), 0.01).tolist() == []


def held(erasure: Safree, limits: Mapping[str, int]) -> Safree:
    """SAFREE whose t' is given, by prompt."""

    class Held(Safree):
        def _filter(self, parts: Any, i: int, prompt: str, *rest: Any) -> dict[str, Any]:
            note = super()._filter(parts, i, prompt, *rest)
            return note | ({"until": limits[prompt]} if note["until"] >= 0 else {})

    return Held(erasure.bases, concepts=erasure.concepts, config=erasure.config)


@pytest.mark.parametrize("name", NAMES)
def test_each_prompt_of_a_batch_has_its_own_last_step(name: str) -> None:
    view, options = PipelineView.of(tiny(name)), {"steps": 4, **small(name)}
    limits = dict(zip(PROMPTS, (0, 2, 9), strict=True))
    erasure = held(fitted(view), limits)
    raw = view.encode(PROMPTS)
    safe, until = filtered(erasure, view, raw)
    assert max(until) >= 0
    given: list[Tensor] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        rows = kwargs["encoder_hidden_states"]
        if raw.negative is None or len(rows) == 6 or not torch.equal(rows, raw.negative.sequence):
            given.append(rows[-3:])
            if len(rows) == 6:  # the negative branch stays
                assert raw.negative is not None and torch.equal(rows[:3], raw.negative.sequence)

    with erasure.on(view) as run:
        handle = view.denoiser.register_forward_pre_hook(note, with_kwargs=True)
        view.sample(PROMPTS, SEEDS, **options)
        handle.remove()
    assert len(given) == 4
    for step, rows in enumerate(given):
        for i in range(3):
            source = safe if step <= until[i] else raw
            assert torch.equal(rows[i], source.sequence[i])
    late = sum(max(0, 3 - t) for t in until if t >= 0)
    assert run.log.counts.get("steps with raw rows", 0) == late > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_way_into_the_pipeline_is_filtered_and_left_clean(name: str) -> None:
    view, options = PipelineView.of(build(name)), {"steps": 2, **small(name)}
    before, clean = view.encode(PROMPTS), state(view.pipe)
    plain = direct(name, PROMPTS, SEEDS, pipe=view.pipe)
    erasure = fitted(view)
    safe, until = filtered(erasure, view, before)
    with erasure.on(view):
        found = direct(name, PROMPTS, SEEDS, pipe=view.pipe)
        assert torch.equal(view.sample(PROMPTS, SEEDS, **options), found)
        assert torch.equal(view.sample(before, SEEDS, **options), found)
        inside = view.encode(PROMPTS)
        other = view.encode(["a red ring"])  # what is encoded in between does not matter
        assert torch.equal(view.sample(inside, SEEDS, **options), found)
    assert torch.equal(inside.sequence, safe.sequence) and len(other) == 1
    for i in range(3):
        assert torch.equal(found[i], plain[i]) == (until[i] < 0)
    with pytest.raises(RuntimeError, match="on purpose"), erasure.on(view):
        view.encode(PROMPTS)
        raise RuntimeError("on purpose")
    assert "encode_prompt" not in vars(view.pipe) and state(view.pipe)[1:-2] == clean[1:-2]
    assert torch.equal(direct(name, PROMPTS, SEEDS, pipe=view.pipe), plain)


def test_without_the_filter_the_safe_rows_are_used_in_all_steps() -> None:
    view, options = PipelineView.of(tiny("sd1")), {"steps": 3, **small("sd1")}
    erasure = fitted(view, self_validating=False)
    safe, _ = filtered(erasure, view, view.encode(PROMPTS))
    wanted = view.sample(safe, SEEDS, **options)
    with erasure.on(view) as run:
        assert torch.equal(view.sample(PROMPTS, SEEDS, **options), wanted)
    assert "steps with raw rows" not in run.log.counts


def test_prompts_without_triggers_stay_bit_for_bit() -> None:
    view, options = PipelineView.of(tiny("sd1")), {"steps": 2, **small("sd1")}
    erasure = fitted(view, alpha=100.0)
    plain = view.sample([*PROMPTS, ""], [*SEEDS, 6], **options)
    with erasure.on(view) as run:
        assert torch.equal(view.sample([*PROMPTS, ""], [*SEEDS, 6], **options), plain)
    assert run.log.counts == {"prompts": 4, "tokens projected": 0}


def test_several_pictures_of_a_prompt() -> None:
    pipe = tiny("sd1")
    with fitted(pipe).on(pipe):
        two = direct("sd1", PROMPTS[:2], [3, 4, 5, 6], num_images_per_prompt=2)
        one = direct("sd1", [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]], [3, 4, 5, 6])
    assert torch.equal(two, one)


def test_text_that_is_not_known_is_warned_of() -> None:
    view = PipelineView.of(tiny("sd1"))
    arguments = view.encoding.arguments(view.encode(PROMPTS))
    arguments |= {"num_inference_steps": 2, "output_type": "pt", "return_dict": False, **small("sd1")}

    def sampled() -> Tensor:
        return view.pipe(**arguments, generator=[torch.Generator().manual_seed(s) for s in SEEDS])[0]

    plain, erasure = sampled(), fitted(view)
    with erasure.on(view) as run, pytest.warns(NothingErasedWarning, match="whose text is not known"):
        assert torch.equal(sampled(), plain)
    assert run.log.counts == {"prompts of unknown text": 3}


def test_the_negative_prompt_of_the_released_runs_is_an_option() -> None:
    view = PipelineView.of(tiny("sd1"))
    with fitted(view).on(view):
        wanted = direct("sd1", PROMPTS, SEEDS, negative_prompt=["circle, ring"] * 3)
    with fitted(view, negative=True).on(view):
        assert torch.equal(direct("sd1", PROMPTS, SEEDS), wanted)
    assert "encode_prompt" not in vars(view.pipe)
    with pytest.raises(InputError, match="embedded guidance"):
        fitted(tiny("flux"), negative=True)


def test_it_goes_with_guidance_of_another_erasure() -> None:
    view = PipelineView.of(tiny("wan"))
    plain = direct("wan", PROMPTS, SEEDS, steps=3)
    text, guidance = fitted(view, up_t=0), erase(view, "star", method="sld", preset="max")
    with text.on(view) as filtering, guidance.on(view) as guiding:
        both = direct("wan", PROMPTS, SEEDS, steps=3)
    assert guiding.log.counts == {"prompts": 3, "steps guided": 9}
    found = sum(note["until"] >= 0 for note in filtering.log.last)
    assert filtering.log.counts["steps with raw rows"] == 2 * found > 0
    assert not torch.allclose(both, plain, atol=1e-2)
    assert torch.equal(direct("wan", PROMPTS, SEEDS, steps=3), plain)


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_each_text_encoder_is_read_by_the_words_that_it_was_given(name: str) -> None:
    view = PipelineView.of(tiny(name))
    erasure, (one, two) = fitted(tiny(name)), PROMPTS[:2]
    apart, alone = view.encode(one, prompt_2=two), [view.encode(text) for text in (one, two)]
    safe, wanted = filtered(erasure, view, apart)[0], [filtered(erasure, view, each)[0] for each in alone]
    for i, encoder in enumerate(("text_encoder", "text_encoder_2")):
        torch.testing.assert_close(safe.sequences[encoder], wanted[i].sequences[encoder])
    assert any(not torch.equal(wanted[i].sequence, alone[i].sequence) for i in range(2))


def test_phrases_of_several_concepts_stay_in_order() -> None:
    erasure = erase(tiny("sdxl"), [SPEC, "star"], method="safree")
    assert erasure.phrases == ("circle", "ring", "star") and erasure.bases["text_encoder"].shape[1] == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"order": "reverse"}, "order='reverse'.*: choose one of 'released', 'paper'"),
        ({"alpha": -0.1}, "alpha=-0.1: write a number at least 0"),
        ({"up_t": float("inf")}, "up_t=inf: write a finite number"),
        ({"t0": "5"}, "t0='5': write a number"),
        ({"svf": True}, "has no option 'svf': it has alpha, order"),
    ],
)
def test_bad_input(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        fitted(tiny("sd1"), **options)


def test_unknown_words_and_other_pipelines_are_refused() -> None:
    with pytest.raises(InputError, match="does not know 'zebra'"):
        erase(tiny("wan"), "zebra", method="safree")
    with pytest.raises(InputError, match="fit it on this pipeline"):
        fitted(tiny("sd1")).on(tiny("sdxl"))
    assert "encode_prompt" not in vars(tiny("sdxl"))


def test_windows_that_a_call_changes_are_refused_where_rows_would_be_missed() -> None:
    pipe = tiny("pixart-alpha")
    with fitted(pipe).on(pipe):
        with pytest.raises(InputError, match="has rows up to 7 in text_encoder, of which the call keeps 4"):
            direct("pixart-alpha", PROMPTS[:1], SEEDS[:1], max_sequence_length=4)
        with pytest.raises(InputError, match="leave max_sequence_length at its default"):
            direct("pixart-alpha", PROMPTS[:1], SEEDS[:1], max_sequence_length=150)
        direct("pixart-alpha", PROMPTS[:1], SEEDS[:1], max_sequence_length=20)


def test_of_a_prompt_that_is_cut_off_the_end_of_text_is_no_token() -> None:
    view = PipelineView.of(tiny("sd1"))
    long = view.encode("a red circle with " * 30, truncate=True)
    erasure = fitted(view, alpha=0.0)
    after, _ = filtered(erasure, view, long)
    assert torch.equal(after.sequence[0, 76], long.sequence[0, 76])
    assert not torch.equal(after.sequence[0, 1:76], long.sequence[0, 1:76])


@pytest.mark.parametrize("method", ["safree", "projection", "sld"])
def test_half_precision(method: str) -> None:
    pipe = build("sd1").to(dtype=torch.bfloat16)
    view = PipelineView.of(pipe)
    concept = Concept("circle", preserve=["square"]) if method == "projection" else "circle"
    erasure = erase(view, concept, method=method)
    plain = view.sample(PROMPTS, SEEDS, steps=12, **small("sd1"))
    with erasure.on(pipe):
        images = view.sample(PROMPTS, SEEDS, steps=12, **small("sd1"))
    assert bool(images.isfinite().all()) and not torch.equal(images, plain)


def test_a_text_encoder_that_accelerate_keeps_elsewhere() -> None:
    accelerate = pytest.importorskip("accelerate")
    pipe, plain = build("sd1"), build("sd1")
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        accelerate.cpu_offload(part, execution_device=torch.device("cpu"))
    with fitted(pipe).on(pipe), fitted(plain).on(plain):
        assert torch.equal(direct("sd1", PROMPTS, SEEDS, pipe=pipe), direct("sd1", PROMPTS, SEEDS, pipe=plain))
