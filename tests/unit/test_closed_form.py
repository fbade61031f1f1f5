"""Edits of weights in closed form agree with naive solves of the papers' equations, written without the engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import efface
from efface import Concept, InputError, NothingErasedWarning, PipelineView
from efface.core.weights import Add, LowRank
from efface.diffusion.weights.closed_form import NormalEquations
from efface.diffusion.weights.projections import streams_of
from efface.diffusion.weights.rows import Pair, Phrase, Read
from tests.pipelines import BUILDERS, build
from tests.references import closed_form as naive

CLOSE: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}
CIRCLE = Concept("circle", anchor="star", preserve=["square", "ring"])


def double(kind: str = "sd1") -> Any:
    """A tiny pipeline in float64, so that what is compared is the method and not the rounding of weights."""
    return build(kind).to(torch.float64)


def keys_and_values(pipe: Any, roles: tuple[str, ...] = ("to_k", "to_v")) -> dict[str, Tensor]:
    names = tuple(f"attn2.{role}.weight" for role in roles)
    return {n: v.clone() for n, v in pipe.unet.state_dict().items() if n.endswith(names)}


def rows_of(pipe: Any, *prompts: str) -> list[Tensor]:
    return list(PipelineView.of(pipe).encode(list(prompts)).sequence.double())


LAST = {"circle": 2, "star": 1, "square": 1, "ring": 1, "": 0}
"""Row of each word's last token in the tiny CLIP tokenizer."""


# ------------------------------------------------------------------------------------------------ the engine


def draws(seed: int, *shapes: tuple[int, ...]) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(1, 30), st.integers(0, 20), st.integers(2, 16), st.floats(0.01, 10))
def test_the_least_squares(seed: int, n: int, kept_n: int, d: int, ridge: float) -> None:
    keys, targets, kept, w = draws(seed, (n, d), (n, d), (kept_n, d), (5, d))
    found = NormalEquations(d).add(keys, targets, 0.7).add(kept, None, 0.3).solve(ridge)
    torch.testing.assert_close(w + w @ found.matrix, naive.uce(w, keys, targets, kept, ridge, 0.7, 0.3), **CLOSE)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 4))
def test_in_parts_in_any_order(seed: int, n: int, parts: int) -> None:
    keys, targets = draws(seed, (n, 8), (n, 8))
    whole, other = NormalEquations(8).add(keys, targets), NormalEquations(8)
    for some in torch.randperm(n, generator=torch.Generator().manual_seed(seed)).chunk(parts):
        other.add(keys[some], targets[some])
    torch.testing.assert_close(other.solve(0.5).matrix, whole.solve(0.5).matrix, **CLOSE)


def test_few_keys_give_low_rank_and_many_do_not() -> None:
    keys, targets, w = draws(0, (40, 16), (40, 16), (16, 16))
    few = NormalEquations(16).add(keys[:3], targets[:3]).add(keys[3:]).solve(0.5)
    many = NormalEquations(16).add(keys, targets).solve(0.5)
    assert few.rank == 3 and isinstance(few.of(w), LowRank)
    assert many.rank == 16 and isinstance(many.of(w), Add)
    torch.testing.assert_close(few.of(w).on(w), w + w @ few.matrix, **CLOSE)
    twice = NormalEquations(16).add(keys[[0, 0, 1]], targets[[0, 0, 1]]).solve(0.5)
    assert twice.rank == 2


def test_targets_that_are_the_keys_change_nothing() -> None:
    keys, w = draws(0, (5, 8), (3, 8))
    found = NormalEquations(8).add(keys, keys.clone()).solve(0.5)
    assert found.rank == 0 and torch.equal(found.of(w).on(w), w)


def test_one_edit_after_another() -> None:
    keys, targets, w = draws(0, (6, 8), (6, 8), (3, 8))
    for n in (2, 6):  # of low rank, and not
        a, b = (NormalEquations(8).add(keys[i : i + n], targets[i : i + n]).solve(0.5) for i in (0, 6 - n))
        first = w + w @ a.matrix
        torch.testing.assert_close(w + w @ a.then(b).matrix, first + first @ b.matrix, **CLOSE)


def test_singular_normal_equations_are_refused() -> None:
    keys, targets = draws(0, (3, 8), (3, 8))
    with pytest.raises(InputError, match="3 keys in 8 dimensions are singular with ridge=0: write a larger ridge"):
        NormalEquations(8).add(keys, targets).solve(0.0)
    keys, targets = draws(0, (30, 8), (30, 8))
    assert NormalEquations(8).add(keys, targets).solve(0.0).rank == 8


def test_memory_does_not_grow_with_keys() -> None:
    total = NormalEquations(16)
    for seed in range(50):
        total.add(*draws(seed, (32, 16), (32, 16)))
    held = [v for v in vars(total).values() if isinstance(v, Tensor)]
    assert total.n == 1600 and sum(v.numel() for v in held) == 2 * 16 * 16 and not total._few


# --------------------------------------------------------------------------------------------- rows of prompts


def phrase(text: str, prompt: str | None = None) -> Phrase:
    return Phrase(text if prompt is None else prompt, text)


def test_which_rows_are_keys() -> None:
    view = PipelineView.of(build("sd1"))
    read = Read(view, ["circle", "a red circle", "a circle with star"])
    assert read.rows(phrase("circle"), "last") == [2]
    assert read.rows(phrase("circle"), "last_to_end") == list(range(2, 77))
    assert read.rows(phrase("circle"), "all") == list(range(77))
    assert read.rows(phrase("circle", "a red circle"), "last") == [4]
    others = read.rows(phrase("circle", "a circle with star"), "others")
    assert others == [0, 1, *range(4, 77)]


def test_rows_are_paired_from_the_last_token_on() -> None:
    view = PipelineView.of(build("sd1"))
    read = Read(view, ["circle", "star", ""])
    keys, targets = read.paired(Pair(phrase("circle"), phrase("star")), "last_to_end")
    assert keys == list(range(2, 77)) and targets == list(range(1, 76))
    keys, targets = read.paired(Pair(phrase("star"), phrase("circle")), "last_to_end")
    assert keys == list(range(1, 77)) and targets == [*range(2, 77), 76]
    assert read.paired(Pair(phrase("circle"), phrase("")), "last") == ([2], [0])
    assert read.paired(Pair(phrase("circle"), phrase("")), "all") == (list(range(77)), list(range(77)))


def test_padding_that_says_nothing_is_no_key() -> None:
    view = PipelineView.of(build("pixart-alpha"))
    read = Read(view, ["circle", ""])
    assert read.rows(phrase("circle"), "last_to_end") == [0, 1]
    assert read.paired(Pair(phrase("circle"), phrase("")), "last_to_end") == ([0, 1], [0, 0])


def test_encoders_below_each_other_have_rows_of_their_own() -> None:
    view = PipelineView.of(build("sd3"))
    read = Read(view, ["circle"])
    assert read.rows(phrase("circle"), "last") == [2, 77]


# --------------------------------------------------------------------------------------------------- methods


def naive_rows(pipe: Any, span: str) -> tuple[Tensor, Tensor, Tensor]:
    circle, star, square, ring, empty = rows_of(pipe, "circle", "star", "square", "ring", "")
    if span == "last":
        return circle[2:3], star[1:2], torch.stack([square[1], ring[1], empty[0]])
    kept = torch.cat([square, ring, empty])
    if span == "all":
        return circle, star, kept
    return *naive.last_to_end(circle, 2, star, 1), kept


@pytest.mark.parametrize("span", ["last", "last_to_end", "all"])
def test_uce(span: Any) -> None:
    pipe = double()
    before = keys_and_values(pipe)
    with efface.erase(pipe, CIRCLE, "uce", key_span=span, ridge=0.3, erase_weight=2.0).on(pipe):
        after = keys_and_values(pipe)
    keys, targets, kept = naive_rows(pipe, span)
    for name, w in before.items():
        torch.testing.assert_close(after[name], naive.uce(w, keys, targets, kept, 0.3, 2.0, 1.0), **CLOSE)


@pytest.mark.parametrize("span", ["last", "last_to_end"])
def test_uce_towards_what_is_without_the_concept(span: Any) -> None:
    """The release's "tensor": values of the anchor, less their projection on the concept's, a pair as one vector."""
    pipe = double()
    before = keys_and_values(pipe)
    concepts = [CIRCLE, Concept("ring", anchor="star", preserve=["square"])]
    erasure = efface.erase(pipe, CIRCLE, "uce", key_span=span, ridge=0.3, target="tensor")
    keys, targets, kept = naive_rows(pipe, span)
    with erasure.on(pipe):
        after = keys_and_values(pipe)
    for name, w in before.items():
        own, shown = (w @ keys.mT).flatten(), (w @ targets.mT).flatten()
        wanted = (shown - own * (own @ shown) / (own @ own)).view(-1, len(keys))
        left = 0.3 * w + wanted @ keys + w @ kept.mT @ kept
        right = 0.3 * torch.eye(w.shape[1], dtype=w.dtype) + keys.mT @ keys + kept.mT @ kept
        torch.testing.assert_close(after[name], left @ torch.linalg.inv(right), **CLOSE)
        if span == "last":
            assert abs(float((wanted.mT @ w @ keys.mT).squeeze())) < 1e-9
    both = efface.erase(pipe, [Concept("circle", anchor="star"), concepts[1]], "uce", key_span=span, target="tensor")
    assert both.names == ("circle", "ring") and len(both.deltas["unet"].changes) == len(before)


def test_towards_itself_nothing_is_left() -> None:
    pipe = double()
    circle = rows_of(pipe, "circle")[0][2]
    before = keys_and_values(pipe)
    concept = Concept("circle", neutral="circle")
    options: dict[str, Any] = {"key_span": "last", "ridge": 1e-6, "preserve_weight": 0.0}
    with efface.erase(pipe, concept, "uce", target="tensor", **options).on(pipe):
        for name, w in keys_and_values(pipe).items():
            assert (w @ circle).norm() < 1e-3 * (before[name] @ circle).norm()
    with pytest.raises(InputError, match="with debias none is erased"):
        efface.erase(pipe, "circle", "uce", target="tensor", debias={"red": 0.5})


def test_uce_debias() -> None:
    pipe = double()
    before = keys_and_values(pipe)
    erasure = efface.erase(pipe, Concept("circle"), "uce", key_span="last", debias={"red": 0.5, "blue": -0.25})
    circle, red, blue, empty = rows_of(pipe, "circle", "red", "blue", "")
    target = circle[2:3] + 0.5 * red[1:2] - 0.25 * blue[1:2]
    with erasure.on(pipe):
        for name, w in keys_and_values(pipe).items():
            torch.testing.assert_close(w, naive.uce(before[name], circle[2:3], target, empty[:1], 0.5, 1, 1), **CLOSE)
    for wrong in ({}, ["red"], "red"):
        with pytest.raises(InputError, match="names no attribute"):
            efface.erase(pipe, "circle", "uce", debias=wrong)
    for wrong in ({"red": float("nan")}, {"red": "much"}, {3: 0.5}):
        with pytest.raises(InputError, match="finite number|no attribute with its strength"):
            efface.erase(pipe, "circle", "uce", debias=wrong)


def test_several_concepts_at_once_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = double()
    concepts = [CIRCLE, Concept("red", anchor="blue"), Concept("big", erase_from="square")]
    whole = efface.erase(pipe, concepts, "uce")
    monkeypatch.setattr("efface.diffusion.weights.rows.AT_ONCE", 1)
    single = efface.erase(pipe, concepts, "uce")
    for path, (change,) in whole.deltas["unet"].changes.items():
        w = pipe.unet.get_parameter(path).detach()
        other = single.deltas["unet"].changes[path][0]
        torch.testing.assert_close(change.on(w), other.on(w), rtol=1e-6, atol=1e-6)


def test_an_attribute_of_something() -> None:
    from efface.diffusion.weights.rows import pairs_of, preserved

    red = Concept("red", erase_from="square", anchor="blue")
    assert [(p.key.prompt, p.target.prompt) for p in pairs_of([red])] == [("red square", "blue square")]
    assert [p.prompt for p in preserved([red])] == ["red", "square", ""]


def test_in_templates() -> None:
    pipe = double()
    concept = Concept("circle", anchor="star", templates=["a {} with ring"])
    before = keys_and_values(pipe)
    with efface.erase(pipe, concept, "uce", in_templates=True).on(pipe):
        after = keys_and_values(pipe)
    circle, star, empty = rows_of(pipe, "a circle with ring", "a star with ring", "")
    keys, targets = naive.last_to_end(circle, 3, star, 2)
    for name, w in before.items():
        torch.testing.assert_close(after[name], naive.uce(w, keys, targets, empty, 0.5, 1.0, 1.0), **CLOSE)


# ------------------------------------------------------------------------------------------- every pipeline


@pytest.mark.parametrize("kind", BUILDERS)
def test_uce_on_every_kind_of_pipeline(kind: str) -> None:
    """The concept's last row is read as the anchor's, by every matrix that is edited."""
    pipe = double(kind)
    view = PipelineView.of(pipe)
    streams = streams_of(view, "auto")
    before = {path: w.clone() for stream in streams for path, w in stream.weights.items()}
    erasure = efface.erase(view, Concept("circle", anchor="star"), "uce", key_span="last", ridge=1e-6)
    read = Read(view, ["circle", "star"])
    keys, targets = read.paired(Pair(phrase("circle"), phrase("star")), "last")
    assert keys
    from efface.diffusion.weights.projections import rows_read

    with erasure.on(view):
        for stream, x in zip(streams, rows_read(view, streams, read.embedding), strict=True):
            k, t = (x[0], x[1]) if stream.pooled else (x[0, keys], x[1, targets])
            for path, w in stream.weights.items():
                gap = (t - k) @ before[path].mT
                assert (k @ w.mT - t @ before[path].mT).norm() < 0.02 * gap.norm(), path


def test_which_matrices() -> None:
    sd1, sd3 = PipelineView.of(build("sd1")), PipelineView.of(build("sd3"))
    (stream,) = streams_of(sd1, "values")
    assert all(path.endswith("attn2.to_v") for path in stream.matrices)
    assert [s.source for s in streams_of(sd3, "auto")] == ["pooled", "sequence"]
    with pytest.raises(InputError, match="text and picture together"):
        streams_of(sd3, "keys-and-values")
    with pytest.raises(InputError, match="write layers='keys-and-values'"):
        streams_of(sd1, "context")
    (wan,) = streams_of(PipelineView.of(build("wan")), "auto")
    assert wan.source.endswith("to_k") and len(wan.matrices) == 4


def test_what_is_behind_the_rows_stays() -> None:
    """SDXL's first layer of pooled vectors reads sizes, too."""
    pipe = double("sdxl")
    with efface.erase(pipe, Concept("circle"), "uce", layers="context").on(pipe):
        inside = pipe.unet.add_embedding.linear_1.weight.clone()
    before = pipe.unet.add_embedding.linear_1.weight
    assert torch.equal(inside[:, 20:], before[:, 20:]) and not torch.allclose(inside[:, :20], before[:, :20])


# ------------------------------------------------------------------------------------------------- bad input


def test_anchors_that_cannot_be() -> None:
    pipe = build("sd1")
    with pytest.raises(InputError, match="anchor 'circle' is what is to be erased"):
        efface.erase(pipe, Concept("circle", anchor="circle"), "uce")
    with pytest.raises(InputError, match="anchor 'star' of 'circle' is also to be preserved"):
        efface.erase(pipe, Concept("circle", anchor="star", preserve=["star"]), "uce")
    with pytest.warns(NothingErasedWarning, match="reads the same"):
        erasure = efface.erase(pipe, Concept("circle", neutral="circle"), "uce")
    assert erasure.report["ranks"] == [0]


def test_words_that_are_unknown_or_too_long() -> None:
    pipe = build("pixart-alpha")
    with pytest.raises(InputError, match="does not know 'zebra'"):
        efface.erase(pipe, Concept("circle", anchor="zebra"), "uce")
    with pytest.raises(InputError, match="tokens long"):
        efface.erase(build("sd1"), Concept("circle " * 90), "uce")


def test_a_singular_fit_is_refused() -> None:
    with pytest.raises(InputError, match="singular with ridge=0"):
        efface.erase(build("sd1"), Concept("circle"), "uce", ridge=0.0, key_span="last")
