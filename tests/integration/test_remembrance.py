"""Audits of remembrance from end to end: planted effects are told, and what is not there is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efface.audit
from efface import InputError
from efface.audit import Audit, remembered
from efface.audit.remembrance import Entity, Ledger, Mention, Observation, Query, Registry, ask
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from tests.references.remembrance import crossed, simulated

FEW: Any = {"draws": 200}


def people(count: int, *, target: int = 0, seed: int = 0) -> Registry:
    rng = np.random.default_rng(seed)
    ids = [f"e{i:05d}" for i in range(count)]
    return Registry.of(
        ids,
        target=ids[:target],
        popularity=np.exp(2 * rng.normal(size=count)),
        similarity=rng.random(count),
        groups={"guild": ["smith" if i % 2 else "weaver" for i in range(count)]},
    )


def tables(audit: Audit) -> dict[str, Any]:
    return {table.title: table for part in audit.walk() for table in part.tables}


@pytest.fixture(scope="module")
def over_broad() -> Audit:
    """Asked to erase one entity, and took a tenth of the others along."""
    rng = np.random.default_rng(0)
    loss = np.where(np.arange(40) == 0, 0.8, np.where(np.arange(40) < 5, 0.4, 0.0))
    ledger = simulated(rng, entities=40, queries=100, hit=0.8, shared=0.8, loss=loss, again=True)
    return remembered(ledger, registry=people(40, target=1), **FEW)


def test_the_target_comes_first_and_who_went_with_it_is_named(over_broad: Audit) -> None:
    assert over_broad.findings[0].family == "target"
    assert over_broad.find("target", "remembered", "change").verdict == "lower than before"
    assert over_broad.conclusions[0].startswith("The target is named in")
    suppressed = tables(over_broad)["Suppressed"]
    assert {row[0] for row in suppressed.rows} == {"e00001", "e00002", "e00003", "e00004"}
    assert "WARNING: 4 (e0000" in " ".join(over_broad.warnings)
    assert not any(line.startswith("Certified") for line in over_broad.conclusions)
    assert over_broad.find("bystanders", "collateral", "after").side == 1


def test_chance_is_taken_off_what_is_kept(over_broad: Audit) -> None:
    """Of what was remembered by luck some is forgotten without any edit."""
    again = over_broad.find("bystanders", "remembered, given before", "before again")
    after = over_broad.find("bystanders", "remembered, given before", "after")
    collateral = over_broad.find("bystanders", "collateral", "after")
    assert after.value < again.value < 0.99
    assert collateral.value == pytest.approx(1 - after.value / again.value)


def test_every_form_of_a_report(over_broad: Audit, tmp_path: Path) -> None:
    again = Audit.from_dict(json.loads(over_broad.json()))
    assert again == over_broad
    page = over_broad.html()
    assert "Suppressed" in page and "e00003" in page and "Heirs of the target" in page
    assert "Suppressed" in over_broad.markdown()
    assert len(over_broad.to_frame()) > 20
    assert "compliant" not in page.lower()
    over_broad.save(tmp_path / "card.md")


def test_order_of_rows_and_of_entities_changes_nothing(over_broad: Audit) -> None:
    loss = np.where(np.arange(40) == 0, 0.8, np.where(np.arange(40) < 5, 0.4, 0.0))
    ledger = simulated(np.random.default_rng(0), entities=40, queries=100, hit=0.8, shared=0.8, loss=loss, again=True)
    order = np.random.default_rng(1).permutation(len(ledger))
    rows = {name: values[order] for name, values in ledger.rows.items()}
    shuffled = Ledger.of_codes(ledger.entities, ledger.queries, ledger.arms, rows)
    registry = people(40, target=1)
    other = Registry([registry.entities[i] for i in np.random.default_rng(2).permutation(40)])
    assert remembered(shuffled, registry=other, **FEW).to_dict()["findings"] == over_broad.to_dict()["findings"]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_system_twice_is_certified_and_nobody_is_named(seed: int) -> None:
    ledger = simulated(np.random.default_rng(seed), entities=40, queries=150, hit=0.8, shared=0.8, again=True)
    audit = remembered(ledger, registry=people(40, seed=seed), margin=0.1, **FEW)
    assert not {"Suppressed", "Elevated"} & set(tables(audit)), audit.conclusions
    assert not audit.warnings, audit.warnings
    assert any(line.startswith("Certified") for line in audit.conclusions)


@pytest.mark.slow
def test_the_same_system_twice_is_named_for_nothing_in_95_of_100_seeds() -> None:
    flagged = 0
    for seed in range(100):
        ledger = simulated(np.random.default_rng(seed), entities=30, queries=80, hit=0.7, shared=0.6)
        audit = remembered(ledger, registry=people(30, seed=seed), margin=0.2, **FEW)
        lists = {"Suppressed", "Elevated"} & set(tables(audit))
        flagged += bool(lists) or any("lost" in line and line.startswith("WARNING") for line in audit.warnings)
    assert flagged <= 5


def test_an_edit_without_any_effect_shows_no_change_and_too_few_rows_certify_nothing() -> None:
    hits = np.random.default_rng(1).random((30, 100, 1)) < 0.7
    same = remembered(crossed({BEFORE: hits, AFTER: hits}), registry=people(30), **FEW)
    assert same.find("bystanders", "remembered", "change").value == 0
    assert any(line.startswith("Certified") for line in same.conclusions)
    few = crossed({BEFORE: hits[:, :6], AFTER: hits[:, :6]})
    audit = remembered(few, registry=people(30), margin=0.005, **FEW)
    assert any(line.startswith("NOT testable: of 30 bystanders") for line in audit.warnings)
    assert any(line.startswith("NOT testable: with so few rows") for line in audit.warnings)


@pytest.mark.parametrize(("entities", "queries"), [(40, 1), (40, 5), (1, 3)])
def test_few_questions_tell_nothing_whatever_they_say(entities: int, queries: int) -> None:
    hits = np.ones((entities, queries, 1)) > 0
    for after in (hits, ~hits):
        audit = remembered(crossed({BEFORE: hits, AFTER: after, AGAIN: hits}), **FEW)
        change = audit.find("bystanders", "remembered", "change")
        assert change.verdict == "too few queries to tell", change
        assert audit.find("certificate", "smallest margin", "after").verdict == "not testable"
        assert any("too few questions ask for all bystanders" in line for line in audit.warnings)
        assert not any(line.startswith("Certified") for line in audit.conclusions)


def test_who_was_never_named_cannot_lose_and_nothing_is_certified() -> None:
    never = np.zeros((20, 100, 1)) > 0
    audit = remembered(crossed({BEFORE: never, AFTER: never}), registry=people(20), **FEW)
    assert any("named less often than the margin, and cannot lose as much" in line for line in audit.warnings)
    assert not any(line.startswith("Certified") for line in audit.conclusions)


def test_a_loss_that_all_share_has_bounds_too() -> None:
    """No resample differs from another: that is no certainty."""
    hits = np.ones((20, 50, 1)) > 0
    audit = remembered(crossed({BEFORE: hits, AFTER: ~hits}), registry=people(20), **FEW)
    row = tables(audit)["Who they are"].rows[0]
    assert row[4] == "-100.0 (-100.0 to -99.6)"
    assert audit.find("certificate", "smallest margin", "after").value == 1


def test_one_entity_stands_for_itself() -> None:
    ledger = simulated(np.random.default_rng(10), entities=1, queries=100, again=True)
    both, queries = (remembered(ledger, resample=how, **FEW).find("bystanders", "remembered", "after") for how in
                     ("both", "queries"))  # fmt: skip
    assert (both.low, both.method) == (queries.low, queries.method)


def test_many_groups_are_not_passed_in_silence_for_want_of_exchanges() -> None:
    count = 60
    registry = Registry.of(
        [f"e{i:05d}" for i in range(count)], groups={f"kind {k}": [str(i % 2) for i in range(count)] for k in range(12)}
    )
    loss = np.where(np.arange(count) % 2, 0.4, 0.0)
    ledger = simulated(np.random.default_rng(11), entities=count, queries=40, hit=0.8, shared=0.9, loss=loss)
    audit = remembered(ledger, registry=registry, draws=40)
    assert any(line.startswith("WARNING: kind 0: 1 lost") for line in audit.warnings)


def test_losses_that_follow_popularity_are_told_by_strata_and_not_blamed_on_a_group() -> None:
    rng, count = np.random.default_rng(2), 90
    popularity = np.repeat([100.0, 30.0, 1.0], [6, 12, 72])
    popular = popularity > 1
    group = np.where(rng.random(count) < np.where(popular, 0.8, 0.3), "known", "others")
    ids = [f"e{i:05d}" for i in range(count)]
    registry = Registry.of(ids, popularity=popularity, groups={"kind": group.tolist()})
    ledger = simulated(rng, entities=count, queries=100, hit=0.7, shared=0.8, loss=np.where(popular, 0.0, 0.2))
    audit = remembered(ledger, registry=registry, **FEW)
    rows = {row[0]: row for row in tables(audit)["Who they are"].rows}
    assert float(rows["popularity: tail"][5]) < 0.05 < float(rows["popularity: torso"][5])
    groups = {row[0]: row for row in tables(audit)["Groups next to the others"].rows}
    raw, adjusted, p = map(float, groups["kind: others"][1:4])
    assert raw < -5 and abs(adjusted) < 3 and p > 0.05
    assert audit.find("popularity", "slope", "change").side == 1


def test_losses_of_one_group_are_told_in_spite_of_popularity() -> None:
    registry = people(60)
    loss = np.where(registry.group("guild") == "smith", 0.25, 0.0)
    ledger = simulated(np.random.default_rng(3), entities=60, queries=100, hit=0.7, shared=0.8, loss=loss)
    audit = remembered(ledger, registry=registry, **FEW)
    assert any(line.startswith("WARNING: guild smith lost") for line in audit.warnings)
    row = {r[0]: r for r in tables(audit)["Groups next to the others"].rows}["guild: smith"]
    low = float(row[4].split("(")[1].split(" to ")[0])
    assert low > 1


def test_small_classes_are_withheld() -> None:
    ids = [f"e{i:05d}" for i in range(30)]
    registry = Registry.of(ids, groups={"town": ["small"] * 3 + ["large"] * 27})
    ledger = simulated(np.random.default_rng(4), entities=30, queries=60)
    audit = remembered(ledger, registry=registry, **FEW)
    # With everyone and the large one the small one could be told.
    assert [row[0] for row in tables(audit)["Who they are"].rows] == ["all bystanders"]
    assert "Groups next to the others" not in tables(audit)
    assert any("are not shown" in line for line in audit.caveats)


def test_a_loss_that_follows_likeness_is_told() -> None:
    registry = people(60, target=1)
    loss = 0.5 * np.nan_to_num(registry.similarity)
    ledger = simulated(np.random.default_rng(5), entities=60, queries=100, hit=0.8, shared=0.9, loss=loss)
    found = remembered(ledger, registry=registry, **FEW).find("likeness", "similarity")
    assert found.high is not None and found.high < 0 and found.value == pytest.approx(-0.5, abs=0.1)


class Naming:
    """Names who has merit, but for who is gone, in whose place another comes."""

    def __init__(self, gone: str = "", heir: str = "", refuses: bool = False) -> None:
        self.gone, self.heir, self.refuses = gone, heir, refuses

    def observe(self, query: Query, seed: int) -> Observation:
        if self.refuses and seed % 2:
            return Observation(status="refused")
        names = [self.heir if name == self.gone else name for name in sorted(query.merit)]
        return Observation(tuple(Mention(name, rank) for rank, name in enumerate(dict.fromkeys(names))))


TWO = Registry.of([1, 2])
OTHERS = ("bea", "cleo", "dora", "eve")
REGISTRY = Registry([Entity("ada", relation="target"), *map(Entity, (*OTHERS, "fay"))])
QUERIES = [Query(f"q{i:02d}", merit={"ada": 1.0, OTHERS[i % 4]: 1.0}) for i in range(60)]


def test_heirs_of_the_target_are_named() -> None:
    answers = ask(Naming(), Naming("ada", "fay"), QUERIES, seeds=(0,))
    audit = remembered(Ledger.of_answers(answers, QUERIES, REGISTRY), registry=REGISTRY, **FEW)
    assert tables(audit)["Heirs of the target"].rows == (("fay", "100.0%", "0.0%"),)
    assert audit.find("attention", "shift", "after").value == pytest.approx(5 / 9, abs=0.01)  # rank-biased: 1 of 1.8
    assert audit.find("attention", "shift", "before again").value == 0


def test_refusals_are_no_omissions_but_take_the_certificate() -> None:
    answers = ask(Naming(), Naming(refuses=True), QUERIES, seeds=(0, 1, 2, 3))
    audit = remembered(Ledger.of_answers(answers, QUERIES, REGISTRY), registry=REGISTRY, **FEW)
    assert audit.find("bystanders", "omission", "after").value == 0
    assert audit.find("answers", "refused or failed", "after").value == 0.5
    assert any("refused or failed" in line for line in audit.warnings)
    assert any(line.startswith("NOT certified") and "refused" in line for line in audit.warnings)


def test_all_answers_refused_is_nothing_that_could_be_tested() -> None:
    answers = ask(Naming(), Naming(), QUERIES, seeds=(0,))
    answers[AFTER] = {key: Observation(status="error") for key in answers[AFTER]}
    audit = remembered(Ledger.of_answers(answers, QUERIES, REGISTRY), registry=REGISTRY, **FEW)
    assert any(line.startswith("NOT testable") for line in audit.warnings)
    assert not any(line.startswith("Certified") for line in audit.conclusions)


def test_predictions_of_a_classifier_are_enough() -> None:
    rng = np.random.default_rng(6)
    truth = rng.integers(0, 5, 3000)
    before = np.where(rng.random(3000) < 0.9, truth, rng.integers(0, 5, 3000))
    after = np.where((before == 4) | ((before == 3) & (rng.random(3000) < 0.3)), 2, before)
    placebos = [np.where(rng.random(3000) < 0.01, 0, before) for _ in range(19)]
    audit = remembered(before, after, truth=truth, target=[4], placebos=placebos, resample="queries", **FEW)
    assert {row[0] for row in tables(audit)["Suppressed"].rows} == {"3"}
    assert tables(audit)["Next to placebos"].rows[1][3] == "0.05"  # the shift
    assert efface.audit.remembered is remembered


def test_a_target_that_all_answers_named_and_none_does_is_gone() -> None:
    truth = np.random.default_rng(9).integers(0, 4, 400)
    audit = remembered(truth, np.where(truth == 3, 0, truth), truth=truth, target=[3], draws=50)
    change = audit.find("target", "remembered", "change")
    assert change.low == -1 and change.high is not None and -1 < change.high < -0.9  # resamples agree
    assert audit.conclusions[0].startswith("The target is named in 0.0%")


def test_a_target_that_nobody_named_or_that_few_answers_ask_for_is_no_pass() -> None:
    truth, never = np.array([3] * 4 + [1] * 40), np.array([0] * 4 + [1] * 40)
    audit = remembered(never, never, truth=truth, target=[3], draws=50)
    assert audit.conclusions[0].startswith("NOT measured: no answer named the target before")
    audit = remembered(truth[3:], never[3:], truth=truth[3:], target=[3], draws=50)
    assert audit.conclusions[0].startswith("NOT testable: with so few answers it cannot be told whether it was erased")


def test_what_was_to_be_erased_and_was_not_is_said_first() -> None:
    ledger = simulated(np.random.default_rng(7), entities=10, queries=60)
    audit = remembered(ledger, registry=people(10, target=1), **FEW)
    assert audit.warnings[0].startswith("NOT erased")


def test_scores_can_be_tested_in_place_of_hits() -> None:
    rng = np.random.default_rng(8)
    ledger = simulated(rng, entities=8, queries=150)
    score = rng.normal(size=len(ledger)) * 0.1
    after = ledger.rows["arm"] == ledger.arms.index(AFTER)
    score[after & (ledger.rows["entity"] == 2)] -= 0.2
    graded = Ledger.of_codes(ledger.entities, ledger.queries, ledger.arms, {**ledger.rows, "score": score})
    audit = remembered(graded, outcome="score", draws=999)
    (row,) = tables(audit)["Suppressed"].rows
    assert row[0] == "e00002" and float(row[6].split()[0]) == pytest.approx(-0.2, abs=0.05)  # in units of the score


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"before": [1, 2], "after": [1, 2]}, "truth is missing"),
        ({"before": [1, 2], "truth": [1, 2]}, "after is missing"),
        ({"before": [1, 2]}, "give a data frame"),
        ({"before": [1, 2], "after": [1, 2], "truth": [1, 2], "margin": 0.0}, "margin is 0.0"),
        ({"before": [1, 2], "after": [1, 2], "truth": [1, 2], "draws": 0}, "draws must be"),
        ({"before": [1, 2], "after": [1, 2], "truth": [1, 2], "draws": 1}, "draws is 1: percentiles of 95% intervals"),
        ({"before": [1, 2], "after": [1, 2], "truth": [1, 2], "draws": 100, "alpha": 0.01}, "at least 200 resamples"),
        ({"before": [1, 2], "after": [1, 2], "truth": [1, 2], "standard": "fame"}, "standard is 'fame'"),
        ({"before": [1, 1], "after": [1, 1], "truth": [1, 1], "target": [1]}, "nobody but the target"),
        ({"before": [1, 2], "after": [1, 2], "truth": [1, 2], "target": [7]}, "7, which is none of the ids"),
        ({"before": [1, 2], "after": [1, 3], "truth": [1, 2], "registry": TWO}, "3 is not in the registry"),
        ({"before": [1, 2], "after": [1, 2], "truth": [1, 2], "standard": "popularity"}, "needs the popularity"),
    ],
)  # fmt: skip
def test_what_cannot_be_audited_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        remembered(**arguments)
