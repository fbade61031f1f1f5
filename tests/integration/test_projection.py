"""Linear projection of prompts on tiny pipelines of every make: what it computes, and that all prompts are moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from efface import Concept, InputError, PipelineView, erase
from efface.diffusion.text.projection import PromptProjection
from efface.pipelines.embedding import PromptEmbedding
from efface_worlds.shapes import FACTORS, load_judge, load_shapes_pipeline
from tests.pipelines import build, direct, run_of, small, state, tiny

PROMPTS, SEEDS = ["a red circle", "the small blue star"], [0, 1]
SPEC = Concept("circle", synonyms=["ring"], preserve=["square", "star"])
NAMES = ["sd1", "sdxl", "sd3", "flux", "pixart-alpha", "wan"]
CAUSAL = ("text_encoder", "text_encoder_2")  # CLIP, where its rows are in the sequence


def fitted(pipe: Any, **options: Any) -> PromptProjection:
    return erase(pipe, SPEC, method="projection", **options)


def chosen_rows(view: PipelineView, name: str, encoder: str, embedding: PromptEmbedding) -> Tensor:
    """(n, rows): what the docstring says is edited, from what is known of each pipeline."""
    part = embedding.sequences[encoder]
    if name in ("sd1", "sdxl", "sd3") and encoder in CAUSAL:
        return (torch.arange(part.shape[1]) > 0).expand(len(part), -1)
    if name == "pixart-alpha":
        assert embedding.mask is not None
        return embedding.mask.bool()
    if name == "wan":
        stops = [view.tokens(prompt)[encoder].content[1] for prompt in embedding.prompts]
        return torch.arange(part.shape[1]) < torch.tensor(stops)[:, None]
    return torch.ones(part.shape[:2], dtype=torch.bool)


def leace(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Theorem 4.2 with the plain covariance: P and the mean, in float64."""
    x, z = x.double(), z.double()
    mean = x.mean(0)
    sigma_xx, sigma_xz = (x - mean).mT @ (x - mean) / len(x), (x - mean).mT @ (z - z.mean(0)) / len(x)
    values, vectors = torch.linalg.eigh(sigma_xx)
    kept = values > values[-1] * 1e-10
    W = vectors[:, kept] * values[kept].rsqrt() @ vectors[:, kept].mT
    W_pinv = vectors[:, kept] * values[kept].sqrt() @ vectors[:, kept].mT
    inside = W @ sigma_xz
    return torch.eye(len(mean)) - W_pinv @ inside @ torch.linalg.pinv(inside) @ W, mean


@pytest.mark.parametrize("name", NAMES)
def test_leace_is_the_projection_of_the_theorem_for_each_encoder(name: str) -> None:
    view = PipelineView.of(tiny(name))
    erasure = fitted(view, shrinkage=False)
    present, absent = SPEC.prompts(), SPEC.prompts(SPEC.preserve)
    data, asked = view.encode([*present, *absent]), view.encode(PROMPTS)
    z = torch.tensor([1.0] * len(present) + [0.0] * len(absent))[:, None]
    after = erasure.edited(asked, run_of(view))
    for encoder, part in data.sequences.items():
        used = chosen_rows(view, name, encoder, data)
        P, mean = leace(part[used], z[:, None].expand(*used.shape, 1)[used])
        before, found = asked.sequences[encoder], after.sequences[encoder]
        edited = chosen_rows(view, name, encoder, asked)
        expected = ((before.double() - mean) @ P.mT + mean).float()
        torch.testing.assert_close(found[edited], expected[edited], atol=2e-3, rtol=2e-3)
        assert torch.equal(found[~edited], before[~edited])
        assert not torch.allclose(found, before, atol=1e-3)
    for encoder, part in data.pooled_parts.items():
        gap = erasure.pooled[encoder](part)
        gap = gap[: len(present)].mean(0) - gap[len(present) :].mean(0)
        assert gap.abs().max() < 1e-3 * (part[: len(present)].mean(0) - part[len(present) :].mean(0)).abs().max()
        own = erasure.pooled[encoder](asked.pooled_parts[encoder])
        assert torch.equal(after.pooled_parts[encoder], own)
    if asked.mask is not None:
        assert after.mask is not None and torch.equal(after.mask, asked.mask)


@pytest.mark.parametrize("name", NAMES)
def test_with_shrinkage_the_means_of_the_rows_become_equal(name: str) -> None:
    view = PipelineView.of(tiny(name))
    erasure = fitted(view)
    present, absent = view.encode(SPEC.prompts()), view.encode(SPEC.prompts(SPEC.preserve))

    def gap(one: PromptEmbedding, other: PromptEmbedding) -> dict[str, float]:
        means = [
            {k: v[chosen_rows(view, name, k, e)].mean(0) for k, v in e.sequences.items()}
            | {f"pooled {k}": v.mean(0) for k, v in e.pooled_parts.items()}
            for e in (one, other)
        ]
        return {k: float((mean - means[1][k]).abs().max()) for k, mean in means[0].items()}

    before, after = gap(present, absent), gap(*(erasure.edited(e, run_of(view)) for e in (present, absent)))
    assert all(after[k] < 1e-3 * before[k] for k in before)


@pytest.mark.parametrize("name", NAMES)
def test_orthogonal_takes_out_the_span_of_differences(name: str) -> None:
    view = PipelineView.of(tiny(name))
    erasure = erase(view, Concept("circle", synonyms=["ring"]), method="projection", kind="orthogonal")
    words, asked = view.encode(["", "circle", "ring"]), view.encode(PROMPTS)
    after = erasure.edited(asked, run_of(view))
    parts = {**words.sequences, **{f"pooled {k}": v for k, v in words.pooled_parts.items()}}
    for encoder, part in parts.items():
        pooled = encoder.startswith("pooled ")
        encoder = encoder.removeprefix("pooled ")
        if pooled:
            means, before, found = part, asked.pooled_parts[encoder], after.pooled_parts[encoder]
        else:
            used = chosen_rows(view, name, encoder, words)
            means = torch.stack([x[u].mean(0) for x, u in zip(part, used, strict=True)])
            edited = chosen_rows(view, name, encoder, asked)
            before, found = asked.sequences[encoder][edited], after.sequences[encoder][edited]
        D = (means[1:] - means[:1]).double().mT
        P = D @ torch.linalg.pinv(D)
        expected = before.double() - (before.double() - means[0].double()) @ P
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_into_the_pipeline_is_projected_and_left_clean(name: str) -> None:
    view, options = PipelineView.of(build(name)), {"steps": 2, **small(name)}
    before, clean = view.encode(PROMPTS), state(view.pipe)
    plain = direct(name, PROMPTS, SEEDS, pipe=view.pipe)
    erasure = fitted(view)
    with erasure.on(view):
        projected = direct(name, PROMPTS, SEEDS, pipe=view.pipe)
        assert torch.equal(view.sample(PROMPTS, SEEDS, **options), projected)
        assert torch.equal(view.sample(before, SEEDS, **options), projected)
        inside = view.encode(PROMPTS)
        assert torch.equal(view.sample(inside, SEEDS, **options), projected)
    assert torch.equal(inside.sequence, erasure.edited(before, run_of(view)).sequence)
    if before.negative is not None:
        assert inside.negative is not None and torch.equal(inside.negative.sequence, before.negative.sequence)
    assert not torch.allclose(projected, plain, atol=1e-3)
    with pytest.raises(RuntimeError, match="on purpose"), erasure.on(view):
        raise RuntimeError("on purpose")
    assert "encode_prompt" not in vars(view.pipe) and state(view.pipe)[1:-2] == clean[1:-2]
    assert torch.equal(direct(name, PROMPTS, SEEDS, pipe=view.pipe), plain)


def test_every_prompt_is_moved_and_none_touches_another() -> None:
    view = PipelineView.of(tiny("sd1"))
    erasure = fitted(view)
    plain = view.encode(["a green square", *PROMPTS, ""])
    run = run_of(view)
    after = erasure.edited(plain, run)
    assert all(not torch.allclose(after.sequence[i], plain.sequence[i], atol=1e-3) for i in range(4))
    torch.testing.assert_close(erasure.edited(plain[1], run).sequence[0], after.sequence[1], atol=1e-5, rtol=1e-4)
    assert run.log.counts == {"prompts": 5}


def test_several_concepts_are_erased_by_one_projection() -> None:
    view = PipelineView.of(tiny("sdxl"))
    specs = [Concept("circle", preserve=["square"]), Concept("star", preserve=["square", "ring"])]
    erasure, run = erase(view, specs, method="projection"), run_of(view)
    assert (
        erasure.report
        == erasure.ranks
        == {
            "rows": {"text_encoder": 2, "text_encoder_2": 2},
            "pooled": {"text_encoder_2": 2},
        }
    )
    prompts = [view.encode(specs[0].prompts(word)) for word in ("circle", "star")]
    means = [erasure.edited(e, run).sequence[:, 1:].mean((0, 1)) for e in prompts]
    plain = [e.sequence[:, 1:].mean((0, 1)) for e in prompts]
    assert (means[0] - means[1]).abs().max() < 1e-3 * (plain[0] - plain[1]).abs().max()


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        ("circle", {}, "there is nothing to compare circle with"),
        (["circle", SPEC], {}, "is to be erased twice"),
        (SPEC, {"kind": "sal"}, "kind='sal': choose one of 'leace', 'orthogonal'"),
        (Concept("zebra", preserve=["star"]), {}, "does not know 'zebra'"),
        (Concept("circle", neutral="circle"), {"kind": "orthogonal"}, "choose other words"),
    ],
)
def test_bad_input(spec: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        erase(tiny("pixart-alpha"), spec, method="projection", **options)


def test_another_pipeline_and_longer_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="fit it on this"):
        fitted(tiny("sd1")).on(tiny("sdxl"))
    assert "encode_prompt" not in vars(tiny("sdxl"))
    with fitted(tiny("pixart-alpha")).on(tiny("pixart-alpha")):
        with pytest.raises(InputError, match="leave max_sequence_length at its default"):
            direct("pixart-alpha", PROMPTS, SEEDS, max_sequence_length=150)
        direct("pixart-alpha", PROMPTS, SEEDS, max_sequence_length=20)


@pytest.mark.parametrize("kind", ["leace", "orthogonal"])
def test_on_shapes_the_star_goes_and_a_stranger_stays(kind: Any) -> None:
    pipe, judge = load_shapes_pipeline(), load_judge()
    templates = ["{}", "a red {} on a white background", "a striped {}", "a photo of a green {}", "a dotted {}"]
    others: dict[str, Any] = {
        "preserve": [c.name for c in FACTORS["object"] if c.name != "star"],
        "templates": templates,
    }
    spec = Concept("star", **(others if kind == "leace" else {}))
    view, options = PipelineView.of(pipe), {"steps": 10, "guidance": 3.0, "batch_size": 12}
    prompts = ["a cyan star on a pink background"] * 8 + ["a blue circle on a mint background"] * 4
    before = view.sample(prompts, range(12), **options)
    with erase(view, spec, method="projection", kind=kind).on(pipe):
        after = view.sample(prompts, range(12), **options)
    assert int((judge(before[:8], "star") == 1).sum()) >= 7 and int((judge(after[:8], "star") == 1).sum()) <= 3
    assert int((judge(after[8:], "circle") == 1).sum()) == 4
    assert not torch.allclose(before[8:], after[8:], atol=1e-3)  # moved all the same
