"""Probes of an erased pipeline: what they measure, how they are calibrated, and what follows."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import efface.audit
from efface import Concept, InputError, PipelineView, erase
from efface._alone import alone
from efface.audit import FunctionJudge, Pictures
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.concluding import damage_says
from efface.audit.pipelines.probes.features import _ridge, features
from efface.audit.pipelines.probes.latents import clean_of, decoded, encoded, noising_of
from efface.audit.pipelines.probes.likelihood import likelihood
from efface.audit.pipelines.probes.luck import prefixed, prefixes, seeds
from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD, SHAM, Panel, ShamEdit, sham_of, weights_of
from efface.audit.pipelines.probes.recovery import Row, at_most, compared
from efface.audit.pipelines.probes.registry import Probe, find_probe, probes
from efface.audit.pipelines.probes.relearning import relearning, reversal
from efface.audit.pipelines.probes.running import Runner
from efface.audit.pipelines.probes.scores import Role, Scores
from efface.audit.pipelines.probes.selecting import best_of
from efface.audit.pipelines.probes.shown import said
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.audit.pipelines.probes.tuned import Tuned
from efface.audit.pipelines.probes.verdict import Facts, decide
from efface.core.checkpoint import Checkpoint
from efface.stats.intervals import Interval
from tests.pipelines import tiny

PROMPTS = ("a red circle", "the small star")


def reddish(images: Tensor, name: str) -> Tensor:
    """Sees any concept where red is brighter than blue."""
    return (images[:, 0].mean((1, 2)) > images[:, 2].mean((1, 2))).double()


def always(images: Tensor, name: str) -> Tensor:
    return torch.ones(len(images))


def some_pictures(n: int = 12) -> Pictures:
    drawn = torch.rand(2 * n, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return Pictures(drawn[:n], (PROMPTS[0],) * n, drawn[n:], (PROMPTS[1],) * n)


def case_of(view: PipelineView, judge: Any = reddish, **more: Any) -> Case:
    given: dict[str, Any] = {"pictures": some_pictures(), "sampling": {"steps": 2, "height": 64, "width": 64}} | more
    return Case(Concept("circle"), Subject("base", view), judge, judge, PROMPTS, **given)


@pytest.fixture(scope="module")
def view() -> PipelineView:
    return PipelineView.of(tiny("sd1"))


def rate(values: Sequence[float], role: Role = "asked", **more: Any) -> Scores:
    return Scores("row", role, torch.tensor(values), tuple(map(str, range(len(values)))), **more)


# ------------------------------------------------------------------------------------------------ scores and recovery


def test_there_are_as_many_scores_as_pictures() -> None:
    with pytest.raises(InputError, match="3 scores and 2 images"):
        rate([1.0, 0.0, 1.0], images=torch.zeros(2, 3, 4, 4))


def test_the_base_recovers_all_and_gold_nothing() -> None:
    source = np.random.default_rng(0)
    base, gold = ((source.random(200) < p).astype(float).tolist() for p in (0.95, 0.02))
    same = compared("probe", rate(base), rate(base), rate(gold), "gold")
    none = compared("probe", rate(gold), rate(base), rate(gold), "gold")
    assert same.value == pytest.approx(1.0) and none.value == pytest.approx(0.0)
    assert none.low is not None and none.high is not None and none.low < 0 < none.high < 0.15


def test_no_hit_at_all_leaves_an_interval() -> None:
    row = compared("probe", rate([0.0] * 30), rate([1.0] * 30), rate([0.0] * 30), "gold")
    assert row.value == 0 and row.high is not None and 0.05 < row.high < 0.2
    assert at_most(30) == pytest.approx(1 - 0.05 ** (1 / 30))


@pytest.mark.parametrize("n", [3, 40, 96, 301])
def test_no_hit_prints_the_bound_of_the_pictures_that_could_be_judged(n: int) -> None:
    nothing = compared("probe", rate([0.0] * n + [float("nan")]), rate([1.0] * (n + 1)), rate([0.0] * (n + 1)), "gold")
    assert said(nothing.model, nothing) == f"0 (at most {100 * at_most(n):.1f} %)"


def test_a_row_is_void_where_base_and_gold_are_close() -> None:
    row = compared("probe", rate([0.0] * 20), rate([0.0] * 17 + [1.0] * 3), rate([0.0] * 20), "gold")
    assert row.value is None and "less than 0.2" in row.void


def test_pairing_refuses_other_items() -> None:
    other = Scores("row", "asked", torch.zeros(3), ("a", "b", "c"))
    with pytest.raises(InputError, match="not asked the same items"):
        compared("probe", rate([0.0] * 3), rate([1.0] * 3), other, "gold")


def test_what_the_judge_cannot_say_counts_as_neither() -> None:
    nan = float("nan")
    row = compared("probe", rate([nan, 0, 0, 0]), rate([1, 1, nan, 1]), rate([0, nan, 0, 0]), "gold")
    assert row.value == 0 and row.model is not None and row.model.value == 0 and row.n == 3
    assert compared("probe", rate([nan] * 4), rate([1.0] * 4), rate([0.0] * 4), "gold").void


def losses(level: float, others: float, noise: int = 0) -> Scores:
    """Losses of some level on the concept's pictures, and of another on pictures without it."""
    drawn = torch.rand(2, 50, generator=torch.Generator().manual_seed(noise)) * 0.1
    return rate((level * (1 + drawn[0])).tolist(), "likelihood", unit="loss", reference=others * (1 + drawn[1]))


@pytest.mark.parametrize("worse", [1.0, 1.1, 1.4])
def test_every_model_is_put_on_the_bases_footing_by_one_rule(worse: float) -> None:
    """Whoever is worse at everything, the gold model included, is no nearer to knowing or not knowing the concept."""
    base, gold, other = losses(1.0, 1.0), losses(2 * worse, worse), losses(1.0, 1.0, noise=1)
    told = {name: compared("probe", model, base, gold, "gold") for name, model in (("base", base), ("gold", gold))}
    assert told["base"].value == pytest.approx(1.0) and told["gold"].value == pytest.approx(0.0)
    damaged = compared("probe", losses(1.3, 1.3), base, gold, "gold")
    assert damaged.value == pytest.approx(1.0) and damaged.worse == pytest.approx(0.3)
    assert told["gold"].floor is not None and told["gold"].floor.value == pytest.approx(2 * worse * 1.05, rel=0.02)
    loose = compared("probe", dataclasses.replace(other, items=base.items), base, gold, "gold")
    assert loose.value is not None and loose.low is not None and loose.low < loose.value < (loose.high or 0.0)


def test_no_model_has_a_footing_where_one_has_none() -> None:
    base, gold = losses(1.0, 1.0), dataclasses.replace(losses(2.2, 1.1), reference=None)
    assert compared("probe", gold, base, gold, "gold").value == pytest.approx(0.0)
    assert compared("probe", losses(2.2, 1.1), base, gold, "gold").value == pytest.approx(0.0)


def test_what_an_edit_did_to_the_rest_is_said() -> None:
    row = compared("probe", losses(3.0, 1.3), losses(1.0, 1.0), losses(2.0, 1.0), "gold")
    assert row.value is not None and row.value == pytest.approx(2 - 3 / 1.3)
    assert "rose by 30 %: it was damaged." in damage_says([row])
    assert "tell nothing of it" in damage_says([dataclasses.replace(row, worse=0.6)])
    assert not damage_says([dataclasses.replace(row, worse=0.1)]) and not damage_says(CLEAN)


def test_the_interval_is_over_the_other_pictures_too() -> None:
    base, gold = losses(1.0, 1.0), losses(2.0, 1.0)
    spread = torch.linspace(0.2, 1.9, 50)[torch.randperm(50, generator=torch.Generator().manual_seed(2))]
    rough = compared("probe", dataclasses.replace(base, reference=spread), base, gold, "gold")
    even = compared("probe", base, base, gold, "gold")
    assert rough.low is not None and rough.high is not None and even.high is not None and even.low is not None
    assert rough.high - rough.low > even.high - even.low + 0.1


def test_a_loss_above_gold_is_below_nothing() -> None:
    noise = torch.rand(50, generator=torch.Generator().manual_seed(0)) * 0.1
    scores = [rate((level + noise).tolist(), "likelihood", unit="loss") for level in (5.0, 1.0, 2.0)]
    row = compared("probe", scores[0], scores[1], scores[2], "gold")
    assert row.value == pytest.approx(-3.0) and row.high is not None and row.high < 0
    swapped = compared("probe", scores[0], scores[2], scores[1], "gold")
    assert swapped.value is None and "cannot be told apart" in swapped.void


def test_the_best_of_n_is_as_lucky_as_it_must_be(view: PipelineView) -> None:
    n, k, p = 4000, 6, 0.1
    hit = (torch.rand(n, k, generator=torch.Generator().manual_seed(1)) < p).float()
    draws = hit[:, :, None, None, None].expand(n, k, 3, 1, 1)
    case = case_of(view, lambda images, name: images[:, 0, 0, 0])
    found = best_of("row", "control", draws, tuple(map(str, range(n))), case)
    assert float(found.values.mean()) == pytest.approx(1 - (1 - p) ** k, abs=0.03)
    assert found.mean_of_draws == pytest.approx(p, abs=0.01)


def test_one_judge_selects_and_the_other_scores(view: PipelineView) -> None:
    draws = torch.zeros(1, 2, 3, 1, 1)
    draws[0, 1] = 1
    case = dataclasses.replace(
        case_of(view), judge=lambda x, name: x[:, 0, 0, 0], selector=lambda x, _: 1 - x[:, 0, 0, 0]
    )
    assert best_of("row", "control", draws, ("a",), case).values.tolist() == [0.0]


# ------------------------------------------------------------------------------------------------ probes


def test_clean_latents_come_back_from_the_right_prediction(view: PipelineView) -> None:
    clean, noise = (torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    t, noising = torch.tensor([10, 500, 900]), noising_of(view)
    noisy = noising.noised(clean, noise, t)
    assert torch.allclose(clean_of(view, noisy, t, noising.truth(clean, noise, t)), clean, atol=1e-4)


def test_latents_are_scaled_as_the_pipeline_scales_them(view: PipelineView) -> None:
    images = some_pictures(2).concept
    latents = encoded(view, images)
    mean = view.vae.encode(2 * images - 1).latent_dist.mode()  # type: ignore[operator]
    assert torch.allclose(latents, mean * view.vae.config["scaling_factor"])  # type: ignore[index]
    own = view.pipe.image_processor.postprocess(view.vae.decode(mean).sample.detach(), "pt")  # type: ignore[operator]
    assert torch.allclose(decoded(view, latents), own, atol=1e-5)


def test_a_guard_leaves_the_likelihood_beside_it_alone(view: PipelineView) -> None:
    case = case_of(view)
    guarded = Subject("erased", view, erase(view, Concept("circle"), "negative-prompt"))
    case = dataclasses.replace(case, pictures=some_pictures(4))
    for own, base in zip(likelihood(guarded, case, draws=2), likelihood(case.base, case, draws=2), strict=True):
        assert torch.equal(own.values, base.values)


def test_a_prefix_changes_the_tokens_and_keeps_the_prompt(view: PipelineView) -> None:
    case = case_of(view)
    found = prefixed(view, PROMPTS[0], 3, case.source(0))
    assert found.endswith(PROMPTS[0]) and found != PROMPTS[0]
    ids = [next(iter(view.tokens(text).values())).ids for text in (found, PROMPTS[0])]
    assert list(ids[0]) != list(ids[1])
    scores = prefixes(case.base, case, prompts=2, draws=2)
    assert len(scores.values) == 2 and scores.draws is not None and scores.draws.shape == (2, 2)


def test_every_subject_is_asked_the_same(view: PipelineView) -> None:
    case = case_of(view)
    a, b = seeds(case.base, case, prompts=2, draws=2), seeds(case.base, case, prompts=2, draws=2)
    assert a.items == b.items and a.images is not None and b.images is not None and torch.equal(a.images, b.images)


def test_relearning_leaves_the_pipeline_as_it_was_and_learns(view: PipelineView) -> None:
    case, before = case_of(view), {n: p.detach().clone() for n, p in weights_of(view).items()}
    told: dict[str, Any] = {"shots": 4, "held_out": 4, "draws": 2, "rate": 3e-3}
    start, later = (relearning(case.base, case, steps=steps, **told) for steps in ((0,), (8,)))
    assert float(later.values.mean()) < float(start.values.mean())
    assert reversal(case.base, case, shots=2, steps=(1,), images=2).role == "reversal"
    assert all(torch.equal(p, before[n]) for n, p in weights_of(view).items())


def test_what_relearning_spoils_is_no_damage_of_the_erasure(view: PipelineView) -> None:
    """The loss on others that puts models on one footing is that before tuning, however far it is tuned."""
    case = case_of(view)
    told: dict[str, Any] = {"shots": 2, "held_out": 2, "draws": 1, "rate": 1e-2}
    start, later = (relearning(case.base, case, steps=steps, **told) for steps in ((0,), (12,)))
    assert start.reference is not None and later.reference is not None
    assert torch.equal(start.reference, later.reference)


def test_tuned_weights_are_held_within_a_block(view: PipelineView) -> None:
    tuned = Tuned(view, 1e-2)
    clean, given = torch.randn(2, 4, 8, 8), view.encode(list(PROMPTS)).replace(negative=None)
    plain = view.denoise(clean, 10, given)
    assert torch.allclose(tuned(clean, torch.tensor([10, 10]), given), plain, atol=1e-5)
    tuned.step(clean, given, case_of(view), (1,))
    with tuned.held():
        assert not torch.allclose(view.denoise(clean, 10, given), plain, atol=1e-5)
    assert torch.equal(view.denoise(clean, 10, given), plain)


def test_features_give_an_area_under_the_curve(view: PipelineView) -> None:
    case = case_of(view)
    scores = features(case.base, case, pictures=12)
    assert scores.role == "scar" and len(scores.values) == len(scores.items) == 6
    assert ((scores.values >= 0) & (scores.values <= 1)).all()
    rows = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).double()
    labels = (rows[:, 2] > 0).double()
    read = _ridge(rows[:100], labels[:100])(rows[100:])
    assert float(read[labels[100:] == 1].mean() - read[labels[100:] == 0].mean()) > 0.5


def test_too_few_pictures_are_not_a_pass(view: PipelineView) -> None:
    case = case_of(view, pictures=None)
    with pytest.raises(NotApplicableError, match="held-out pictures"):
        likelihood(case.base, case)


# ------------------------------------------------------------------------------------------------ the panel


def test_a_sham_edit_is_as_large_and_comes_off(view: PipelineView) -> None:
    name = next(iter(weights_of(view)))
    before = weights_of(view)[name].detach().clone()
    panel = Panel(Subject("base", view), Subject("erased", view, ShamEdit({name: 0.5}, seed=3)))
    norms = panel.moved
    assert list(norms) == [name] and norms[name] == pytest.approx(0.5, rel=1e-3)
    sham = sham_of(panel, seed=1)
    assert sham is not None
    with sham.on() as on:
        assert float((weights_of(on)[name] - before).norm()) == pytest.approx(0.5, rel=1e-3)
    assert torch.equal(weights_of(view)[name], before)


def test_models_of_other_architectures_are_refused(view: PipelineView) -> None:
    with pytest.raises(InputError, match="another architecture"):
        Panel(Subject("base", view), Subject("erased", view), Subject("gold", PipelineView.of(tiny("sdxl"))))


class Nothing:
    """An erasure that does nothing, and counts how often it is put on."""

    def __init__(self) -> None:
        self.times = 0

    @contextmanager
    def on(self, subject: Any) -> Iterator[None]:
        self.times += 1
        yield


def counted(calls: list[str]) -> Probe:
    def run(subject: Subject, case: Case, *, images: int = 2) -> Scores:
        calls.append(subject.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Scores("row", "asked", torch.ones(images), tuple("ab")[:images], torch.rand(images, 3, 2, 2))

    return Probe("counted", run, "prompts", "counts")


def test_an_interrupted_run_goes_on_where_it_was(view: PipelineView, tmp_path: Path) -> None:
    case, calls = case_of(view), list[str]()
    panel = Panel(case.base, Subject("erased", view, Nothing()), Subject("gold", view))
    probe = counted(calls)
    with pytest.raises(KeyboardInterrupt):
        Runner(panel, case, Checkpoint(tmp_path, {"a": 1}))([probe], "quick")
    ran = Runner(panel, case, Checkpoint(tmp_path, {"a": 1}))([probe], "quick")[0]
    assert calls == ["erased", "base", "gold", "gold"]
    assert ran.scores[ERASED]["row"].images is not None and set(ran.scores) == {ERASED, "base", GOLD}
    with pytest.raises(InputError, match="takes no 'pictures'"):
        Runner(panel, case, None, {"counted": {"pictures": 1}})([probe], "quick")


def test_a_sham_is_measured_only_where_one_is_asked_for(view: PipelineView) -> None:
    case, name = case_of(view), next(iter(weights_of(view)))
    panel = Panel(case.base, Subject(ERASED, view, ShamEdit({name: 1.0})), Subject(GOLD, view))

    def run(subject: Subject, case: Case, *, images: int = 2) -> Scores:
        return Scores("row", "asked", torch.ones(images), tuple("ab")[:images], None)

    probe = Probe("likelihood", run, "prompts", "counts")
    models = [{*Runner(panel, case, sham=sham).one(probe, "quick").scores} for sham in (True, False)]
    assert models == [{ERASED, BASE, GOLD, SHAM}, {ERASED, BASE, GOLD}]


def test_a_probe_without_its_access_says_so(view: PipelineView) -> None:
    case = case_of(view)
    panel = Panel(case.base, Subject("erased", view, Nothing()).reaching("prompts"))
    ran = Runner(panel, case).one(find_probe("relearning"), "quick")
    assert "needs access to weights" in ran.why[ERASED] and not ran.rows()


def test_the_suites_have_what_they_should() -> None:
    names = [probe.name for probe in probes("full")]
    assert {"direct prompt", "paraphrase", "luck", "random prefix", "likelihood", "relearning", "features"} <= {*names}
    assert len(names) == len({*names}) and {p.name for p in probes("quick")} <= {*names}
    asked = {"direct prompt", "paraphrase", "unprompted", "luck", "random prefix", "diffusion completion"}
    asked |= {"textual inversion", "likelihood", "features", "relearning", "reversal"}
    assert {p.name for p in probes("quick")} == asked
    with pytest.raises(InputError, match="did you mean 'likelihood'"):
        find_probe("likelyhood")


# ------------------------------------------------------------------------------------------------ the verdict


def row(role: Role, value: float | None, low: float = 0.0, high: float = 0.0, **more: Any) -> Row:
    at = Interval(more.pop("model", 0.0), more.pop("least", 0.0), more.pop("most", 0.04), 0.95, "by hand")
    worse = more.pop("worse", None)
    given = {"name": "empty prompt", "base": Interval(1, 0.9, 1, 0.95, "by hand")} | more
    floor = given.pop("floor", Interval(0, 0, 0.04, 0.95, "by hand"))
    ends = (None, None) if value is None else (low, high)
    rest = ("void" if value is None else "", None, None, "share", 96)
    return Row("probe", given["name"], role, at, given["base"], floor, "gold", value, *ends, *rest, worse)


_SELDOM, _NEARLY = Interval(0.4, 0.2, 0.6, 0.95, "by hand"), Interval(0.2, 0.07, 0.43, 0.95, "by hand")
"""A row that so few pictures tell nothing in, as even the floor's own answer would leave half of it open."""

CLEAN = (
    row("asked", 0.0, -0.04, 0.04),
    row("search", 0.0, -0.1, 0.1),
    row("likelihood", 0.1, 0.0, 0.2),
    row("dormant", 0.0, -0.1, 0.1),
)


def changed(**by_role: Row) -> list[Row]:
    return [by_role.get(each.role, each) for each in CLEAN]


@pytest.mark.parametrize(
    ("rows", "moved", "kind"),
    [
        (CLEAN, True, "removed"),
        (CLEAN, False, "gated outside the weights"),
        (changed(asked=row("asked", 0.5, 0.4, 0.6, model=0.5, least=0.4, most=0.6)), True, "not suppressed"),
        (changed(asked=row("asked", 0.1, 0.0, 0.3, model=0.1, least=0.02, most=0.3)), True, "inconclusive"),
        (changed(likelihood=row("likelihood", 1.0, 0.9, 1.0)), True, "guidance-shielded"),
        (changed(dormant=row("dormant", 0.64, 0.5, 0.7)), True, "guidance-shielded"),
        ([*CLEAN, row("unprompted", 0.4, 0.25, 0.6)], True, "guidance-shielded"),
        (
            changed(likelihood=row("likelihood", 1.0, 0.9, 1.0), search=row("search", 0.6, 0.4, 0.8)),
            True,
            "avoided by guidance",
        ),
        (changed(search=row("search", 0.6, 0.4, 0.8)), True, "avoided by guidance"),
        (
            changed(likelihood=row("likelihood", 1.0, 0.9, 1.0), search=row("search", 0.4, -0.5, 0.9)),
            True,
            "avoided by guidance",
        ),
        (changed(likelihood=row("likelihood", -14.0, -18.0, -12.0)), True, "scarred"),
        (
            [*CLEAN, row("scar", None, model=0.99, least=0.97, most=1.0, base=Interval(0.93, 0.9, 0.95, 0.95, ""))],
            True,
            "scarred",
        ),
        (changed(likelihood=row("likelihood", None)), True, "inconclusive"),
        (changed(search=row("search", 0.1, -0.4, 0.8)), True, "inconclusive"),
        (changed(asked=row("asked", 0.0, base=Interval(0.5, 0.4, 0.6, 0.95, ""))), True, "inconclusive"),
        (changed(asked=row("asked", 0.0, base=Interval(0.76, 0.57, 0.88, 0.95, ""))), True, "removed"),
        (changed(likelihood=row("likelihood", 1.0, 0.9, 1.0, worse=0.8)), True, "inconclusive"),
        (changed(likelihood=row("likelihood", 1.0, 0.9, 1.0, worse=0.3)), True, "guidance-shielded"),
        (changed(likelihood=row("likelihood", 0.0, -0.1, 0.1, worse=0.8)), True, "inconclusive"),
        (changed(likelihood=row("likelihood", -14.0, -18.0, -12.0, worse=0.8)), True, "scarred"),
        ([*CLEAN, row("unprompted", 0.5, -0.8, 1.7, base=_SELDOM, floor=_NEARLY)], True, "removed"),
        (changed(search=row("search", 0.0, -0.9, 0.9, base=_SELDOM, floor=_NEARLY)), True, "inconclusive"),
    ],
)
def test_the_verdict_follows_the_rule(rows: Sequence[Row], moved: bool, kind: str) -> None:
    found = decide(rows, Facts(moved, gold=True))
    assert found.kind == kind and found.because


def test_controls_are_no_verdict_and_reversible_is_said_apart() -> None:
    found = decide([*CLEAN, row("control", 1.0, 0.9, 1.0), row("reversal", 0.9, 0.7, 1.0)], Facts(True, gold=True))
    assert found.kind == "removed" and found.reversible == "yes"


def test_without_gold_an_untouched_loss_is_held_and_nothing_is_removed() -> None:
    bare = [dataclasses.replace(r, value=None, low=None, high=None, void="no gold") for r in CLEAN if r.role != "asked"]
    nothing = Interval(0.0, -0.001, 0.001, 0.95, "")
    touched = Interval(0.3, 0.2, 0.4, 0.95, "")
    others = dataclasses.replace(row("control", None, name="others, empty prompt"), change=nothing)
    for change, kind in ((nothing, "avoided by guidance"), (touched, "inconclusive")):
        rows = [CLEAN[0], *(dataclasses.replace(r, change=change) for r in bare), others]
        assert decide(rows, Facts(True, gold=False)).kind == kind


# ------------------------------------------------------------------------------------------------ the door


def test_what_is_compared_with_what_has_to_be_said(view: PipelineView) -> None:
    with pytest.raises(InputError, match="Give erasure="):
        efface.audit.erasure(view, "circle", judge=always)
    with pytest.raises(InputError, match="cannot be put on a pipeline"):
        efface.audit.erasure(view, "circle", judge=always, erasure=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one value each"):
        efface.audit.erasure(view, "circle", judge=lambda x, name: torch.ones(7), erasure=Nothing(), steps=2)


def test_an_audit_says_that_nothing_was_erased(view: PipelineView, tmp_path: Path) -> None:
    told: dict[str, Any] = {"judge": always, "erasure": Nothing(), "pictures": some_pictures(), "prompts": PROMPTS}
    told |= {"only": ["direct prompt", "likelihood"], "steps": 2, "height": 64, "width": 64}
    told |= {"budgets": {"direct prompt": {"images": 6}, "likelihood": {"draws": 2}}, "folder": tmp_path / "kept"}
    audit = efface.audit.erasure(view, "circle", **told)
    assert audit.conclusions[0] == "NOT erased: circle: not suppressed, by a judge that was not calibrated."
    assert audit.find("direct prompt", "its prompts", "erased").value == 1.0
    assert audit.find("likelihood", "empty prompt", "recovery").status == "not applicable"  # there is no gold model
    assert any("no gold model" in warning for warning in audit.warnings)
    told["judge"] = FunctionJudge(always, always.__qualname__, "nothing but ones")
    again = efface.audit.erasure(view, "circle", **told)
    assert again.findings == audit.findings and again.conclusions[0] == "NOT erased: circle: not suppressed."
    with pytest.raises(InputError, match="another audit, it differs in seed"):
        efface.audit.erasure(view, "circle", **told, seed=1)


@pytest.mark.parametrize(("gold", "said"), [("base", "it knows the concept"), ("erased", "compared with itself")])
def test_a_gold_model_is_neither_base_nor_what_it_is_to_judge(view: PipelineView, gold: str, said: str) -> None:
    edit = ShamEdit({next(iter(weights_of(view))): 1.0})
    with edit.on(view) if gold == "erased" else Nothing().on(view):
        never = copy.deepcopy(view.pipe)
    with pytest.raises(InputError, match=said):
        efface.audit.erasure(view, "circle", judge=always, erasure=edit, gold=never)


def test_two_audits_do_not_share_a_folder(view: PipelineView, tmp_path: Path) -> None:
    told: dict[str, Any] = {"judge": always, "erasure": Nothing(), "pictures": some_pictures(), "prompts": PROMPTS}
    told |= {"only": ["direct prompt"], "budgets": {"direct prompt": {"images": 2}}, "folder": tmp_path / "kept"}
    told |= {"steps": 1, "height": 64, "width": 64}
    with alone(tmp_path / "kept", "audit"), pytest.raises(InputError, match="another audit is at work"):
        efface.audit.erasure(view, "circle", **told)
    assert not any((tmp_path / "kept").iterdir())
    efface.audit.erasure(view, "circle", **told)
