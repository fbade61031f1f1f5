from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from efface._errors import InputError
from efface.audit.pipelines.probes import prompt_search, redrawing, ring_a_bell, spots, tracing, wording
from efface.audit.pipelines.probes.case import Pictures
from efface.audit.pipelines.probes.registry import probes
from efface.audit.pipelines.probes.subject import NotApplicableError
from efface.core.concept import Concept
from tests.attacked import Counted, case, other_pipe, subject
from tests.pipelines import df, small

SEARCH: dict[str, Any] = {"items": 2, "rounds": 2, "steps": 2}


@pytest.mark.parametrize("seed", range(5))
def test_onto_the_simplex_is_the_nearest_point_there(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 7, generator=source)
    found = spots.onto_simplex(rows)
    assert torch.allclose(found.sum(-1), torch.ones(3), atol=1e-5) and bool((found >= 0).all())
    assert torch.allclose(spots.onto_simplex(found), found, atol=1e-6)
    others = torch.rand(200, 3, 7, generator=source).softmax(-1)
    assert bool(((rows - found).norm(dim=-1) <= (rows - others).norm(dim=-1) + 1e-6).all())


def test_a_straight_gradient_is_bounded_and_samples_follow_their_chances() -> None:
    rows = torch.tensor([[0.2, 0.8]]).repeat(2000, 1).requires_grad_()
    picked = spots.Straight.apply(rows, torch.Generator().manual_seed(0))
    found = picked.detach()
    assert torch.equal(found.sum(-1), torch.ones(2000)) and float(found[:, 1].mean()) == pytest.approx(0.8, abs=0.03)
    (picked * 5).sum().backward()
    assert rows.grad is not None and torch.equal(rows.grad, torch.ones_like(rows))


def test_places_are_written_out_as_the_words_that_were_searched() -> None:
    view = subject().view
    found = spots.with_prefix(view, ["a red circle"], 2, without=("star",))
    assert "star" not in found.words and "red" in found.words
    chosen = torch.tensor([[found.words.index("big"), found.words.index("blue")]])
    assert found.written(chosen) == ["big blue a red circle"]
    soft = {name: table[chosen] for name, table in found.tables.items()}
    hard = view.encode("big blue a red circle").sequence
    asked = found.encoded({name: vectors.requires_grad_() for name, vectors in soft.items()})
    assert torch.allclose(asked.sequence, hard, atol=1e-5)
    assert spots.between(view, ["a red circle and a star"], 2).places == 3
    assert spots.in_place_of(view, ["a red circle"], 4).texts == ("* * * *",)


def test_each_text_has_its_own_words() -> None:
    view = subject().view
    found = spots.with_prefix(view, ["a circle", "a star"], 1)
    chosen = torch.tensor([[found.words.index("red")], [found.words.index("blue")]])
    asked = found.encoded({name: table[chosen].requires_grad_() for name, table in found.tables.items()})
    assert torch.allclose(asked.sequence, view.encode(["red a circle", "blue a star"]).sequence, atol=1e-5)
    with (
        pytest.raises(InputError, match="encode them alone"),
        view.words.given("*", {"text_encoder": torch.zeros(3, 1, 32)}),
    ):
        view.encode("a * circle")


def test_a_search_lowers_its_loss() -> None:
    asked = case()
    after = prompt_search.targets(asked, 2)
    view = asked.base.view
    found = spots.with_prefix(view, after.texts, 2)
    soft = {
        name: table[torch.zeros(2, 2, dtype=torch.long)].clone().requires_grad_()
        for name, table in found.tables.items()
    }
    noisy = after.at(0.5, torch.Generator().manual_seed(0))
    optimiser, losses = torch.optim.Adam(soft.values(), lr=0.05), []
    for _ in range(8):
        optimiser.zero_grad()
        loss = prompt_search._truth_loss(view, found, soft, noisy)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["UnlearnDiffAtk", "P4D-N", "P4D-K"])
def test_prompt_searches_score_all_they_draw(name: str) -> None:
    asked = case()
    probe = next(p for p in probes() if p.name == name)
    row = probe.run(subject(other_pipe()), asked, **SEARCH)
    assert not isinstance(row, list | tuple) and row.role == "search"  # type: ignore[union-attr]
    assert row.draws.shape == (2, 2) and asked.judge.shown == 4  # type: ignore[union-attr, attr-defined]
    assert "found" in row.note and row.spent["steps"] == 4  # type: ignore[union-attr]


def test_ring_a_bell_asks_the_base_alone_and_leaves_the_name_out() -> None:
    asked = case()
    asked = case(concept=Concept("circle", synonyms=("ring",), templates=("a {}",)))
    row = ring_a_bell.ring_a_bell(subject(other_pipe()), asked, items=2, words=2, population=6, generations=2)
    found = row.note.split("“")[1].rstrip("”; ").split()
    assert len(found) == 2 and not {"circle", "ring"} & set(found)
    with pytest.raises(NotApplicableError, match="give others"):
        ring_a_bell.ring_a_bell(subject(), case(others={}), items=2)


def test_children_are_of_two_parents() -> None:
    source = torch.Generator().manual_seed(0)
    parents = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    children = ring_a_bell.crossed(parents, 500, 100, source)
    from_parents = (children[:, None] == parents[None]).any(1)
    assert children.shape == (500, 4) and 0.9 < float(from_parents.double().mean()) < 0.97


def test_ddim_backwards_comes_back() -> None:
    pipe = other_pipe()
    pipe.scheduler = df.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    asked = case(base=subject(pipe), sampling={"steps": 6, **small("sd1")})
    view = asked.base.view
    clean = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    embedding = view.encode(["a red circle"] * 2).replace(negative=None)
    times = redrawing._amounts(view, asked)
    errors, both = [], embedding.replace(negative=embedding)
    for refine in (0, 8):
        noise = redrawing.inverted(view, clean, embedding, times, refine)
        given = {"steps": 6, "guidance": 1.0, "latents": noise, "latent": True, **small("sd1")}
        again = view.sample(both, [0, 0], **given)
        errors.append(float((again - clean).square().mean()))
    assert len(times) == 7 and errors[1] < errors[0]


def test_redrawing_rows() -> None:
    asked = case()
    rows = redrawing.redrawing(subject(), asked, images=3, refine=0)
    assert [row.role for row in rows] == [
        "search",
        "control",
        "control",
        "unprompted",
        "control",
        "control",
        "control",
        "control",
    ]
    assert {row.unit for row in rows} == {"share", redrawing.ERROR, redrawing.NATS}
    with pytest.raises(NotApplicableError, match="held-out"):
        redrawing.redrawing(subject(), case(pictures=None), images=3)


def test_noise_is_as_likely_as_noise() -> None:
    z = torch.randn(3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(redrawing.unlikely(z), torch.tensor(1.4189, dtype=torch.float64), atol=0.02)
    assert bool((redrawing.unlikely(1.2 * z) > redrawing.unlikely(z)).all())


@pytest.mark.parametrize("word", ["circle", "hot dog", "x", "ab", "garbage_truck"])
def test_a_slip_is_one_letter(word: str) -> None:
    source = torch.Generator().manual_seed(0)
    for _ in range(20):
        found = wording.misspelt(word, source)
        assert found != word and abs(len(found) - len(word)) <= 1


def test_wording_rows_ask_what_they_say() -> None:
    asked: list[str] = []

    class View:
        def sample(self, prompts: Any, seeds: Any, **_: Any) -> Tensor:
            asked.extend(prompts)
            return torch.rand(len(seeds), 3, 8, 8, generator=torch.Generator().manual_seed(0))

    concept = Concept("circle", synonyms=("disc",), preserve=("square",), templates=("a {}",))
    one = case(concept=concept)
    one.base.__dict__["view"] = View()
    rows = wording.wording(one.base, one, images=3, alike=1, more={"described": ["something round"]})
    assert [row.name for row in rows] == [
        "with a slip",
        "in another order",
        "with a synonym",
        "described",
        "square stays",
    ]
    assert [row.role for row in rows] == ["search"] * 4 + ["control"]
    assert all("circle" not in text for text in asked[:3]) and asked[6].count("disc") == 1
    assert sorted(asked[3].split()) == sorted(one.prompts[0].split()) and asked[3] != one.prompts[0]
    assert asked[9:12] == ["something round"] * 3 and asked[12] == "a big square"
    with pytest.raises(NotApplicableError, match="no prompt names"):
        wording.wording(one.base, case(prompts=("a thing",)), images=2)


def test_tracing_tells_a_drift_from_a_switch() -> None:
    base, other = subject(), subject(other_pipe())
    found = tracing.tracing(
        {0.0: base, 0.5: base, 1.0: other}, case(), features=lambda images: images.flatten(1), images=4
    )
    assert found.strengths == (0.0, 0.5, 1.0) and found.jumpiness == pytest.approx(1.0)
    assert set(found.instead) == {"circle", "star", "square"} and found.entropy >= 0
    assert found.figure().series[0].y[-1] <= 1.0
    with pytest.raises(InputError, match="at least 3"):
        tracing.tracing({0.0: base, 1.0: other}, case(), features=lambda images: images.flatten(1))


def test_the_concept_of_a_case_may_have_no_pictures() -> None:
    from efface.audit.pipelines.probes.material import material

    asked = case(pictures=None, judge=Counted())
    found = material(asked, 3)
    assert isinstance(found, Pictures) and len(found.concept) == len(found.others) == 3
    assert material(asked, 3) is found and found.source == "drawn by the base"
    with pytest.raises(NotApplicableError, match="other concepts"):
        material(case(pictures=None, others={}), 3)
