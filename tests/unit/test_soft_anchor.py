"""AGE's search for an anchor."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

import efface
from efface import Concept, InputError, PipelineView
from efface.core.erasure import Erasure
from efface.diffusion.anchors.soft import Harm, Search, SoftAnchorConfig, mixed, mixture, soft_anchor
from tests.pipelines import state, tiny

WORDS = ["circle", "star", "ring", "red"]
QUICK: dict[str, Any] = {"rounds": 1, "steps": 3, "sampling_steps": 3, "template": "a {}"}


@cache
def erasure() -> Erasure:
    return efface.erase(tiny("sd1"), Concept("square", anchor="ring"), "uce")


def fit(concept: Concept) -> Erasure:
    assert concept.anchor in WORDS
    return efface.erase(tiny("sd1"), concept, "uce")


def harm() -> tuple[Harm, Any, Any]:
    """The harm that an erasure of squares does, the candidates' prompts, and two noisy pictures."""
    view = PipelineView.of(tiny("sd1"))
    words, target = (view.encode(p).replace(negative=None) for p in ([f"a {w}" for w in WORDS], "a square"))
    latents = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return Harm(view, erasure(), target, 0.7), words, ((latents[0], 500), (latents[1], 500))


def test_gradients_are_those_of_the_objective() -> None:
    found, words, noisy = harm()
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1], requires_grad=True)
    found.backward(mixed(words, shares), *noisy)
    assert shares.grad is not None
    with torch.no_grad():
        for i in range(len(WORDS)):
            step = torch.zeros(len(WORDS))
            step[i] = 0.02
            up, down = (float(found.value(mixed(words, shares + sign * step), *noisy)) for sign in (1, -1))
            assert float(shares.grad[i]) == pytest.approx((up - down) / 0.04, rel=0.02)


def test_the_objective_is_ages() -> None:
    """Against the clean pictures that both denoisers predict, written out from the equation."""
    found, words, (of_target, of_word) = harm()
    view, mixture = found.view, mixed(words, torch.tensor([0.0, 0.5, 0.5, 0.0]))
    signal = float(view.scheduler.alphas_cumprod[500])

    def clean(latents: Any, embedding: Any, on: bool) -> Any:
        with torch.no_grad():
            if on:
                with erasure().on(view.pipe):
                    noise = view.denoise(latents, 500, embedding)
            else:
                noise = view.denoise(latents, 500, embedding)
        return (latents - (1 - signal) ** 0.5 * noise) / signal**0.5

    (z_e, _), (z_t, _) = of_target, of_word
    apart = clean(z_e, found.target, True) - clean(z_e, mixture, False)
    harmed = clean(z_t, mixture, True) - clean(z_t, mixture, False)
    wanted = float(apart.square().sum() + 0.7 * harmed.square().sum())
    assert float(found.value(mixture, of_target, of_word)) == pytest.approx(wanted, rel=1e-4)


def test_mixtures_are_of_few_words_and_shift_with_their_logits() -> None:
    chance = torch.Generator().manual_seed(0)
    drawn = torch.stack([mixture(torch.tensor([3.0, 0.0, 0.0]), 1.0, 2, chance) for _ in range(200)])
    assert bool(((drawn > 0).sum(1) == 2).all()) and torch.allclose(drawn.sum(1), torch.ones(200))
    assert drawn.mean(0)[0] > 0.7


def test_a_mixture_of_one_word_is_its_prompt() -> None:
    _, words, _ = harm()
    assert torch.equal(mixed(words, torch.tensor([0.0, 1.0, 0.0, 0.0])).sequence, words[1].sequence)


def test_the_search_climbs() -> None:
    """The mixture at the end does more harm than even shares of all words."""
    found, words, noisy = harm()
    config = SoftAnchorConfig(rounds=1, steps=12, sampling_steps=3, template="a {}", top=4, learning_rate=0.5)
    shares = torch.tensor(Search(found.view, Concept("square"), WORDS, config).run(lambda _: erasure()))
    search = replace(found, weight=1.0)
    ended, even = (float(search.value(mixed(words, s), *noisy)) for s in (shares, torch.full((4,), 0.25)))
    assert ended > even and float(shares.max()) > 0.3


def test_it_chooses_among_candidates_and_leaves_the_pipeline_as_it_was() -> None:
    pipe = tiny("sd1")
    PipelineView.of(pipe).encode("a circle")
    before = state(pipe)
    found = soft_anchor(pipe, Concept("square", preserve=["red"]), fit, [*WORDS, "squares"], **QUICK)
    assert state(pipe) == before
    assert found.anchor in {"circle", "star", "ring"} and found.boundary == ()
    assert [each.role for each in found.table] == ["anchor", "kept", "kept", "dropped", "dropped"]
    assert sum(each.score or 0 for each in found.table) == pytest.approx(1, abs=1e-4)
    again = soft_anchor(pipe, Concept("square", preserve=["red"]), fit, ["squares", *WORDS[::-1]], **QUICK)
    assert again == found


def test_refusals() -> None:
    pipe = tiny("sd1")
    with pytest.raises(InputError, match="no candidate for an anchor of 'square' is left: 'squares' says"):
        soft_anchor(pipe, "square", fit, ["squares"])
    with pytest.raises(InputError, match="changes no weights"):
        soft_anchor(pipe, "square", lambda c: efface.erase(pipe, c.name, "negative-prompt"), WORDS, **QUICK)
    with pytest.raises(InputError, match="temperature"):
        soft_anchor(pipe, "square", fit, WORDS, temperature=0)
