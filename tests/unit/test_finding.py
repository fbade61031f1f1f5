"""Findings, audits and their intervals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from efface import FormatError, InputError
from efface._errors import EffaceWarning
from efface.audit import Audit, Figure, Finding, Series, Table, bootstrap_interval, paired_interval, wilson_interval
from efface.audit.finding import by_measure
from efface.report.numbers import format_value
from efface.stats.intervals import (
    mean_of_shares_interval,
    percentile_interval,
    proportion_interval,
    share_change_interval,
    student_quantile,
)


def full_audit() -> Audit:
    finding = Finding("accuracy", 0.75, family="linear probe", condition="after", low=0.7, high=0.8, chance=0.5, n=9)
    figure = Figure("f", (Series("after", ("a", "b"), (0.1, 0.2), (0.0, 0.1), (0.2, 0.3)),), chance=0.5, unit="share")
    table = Table("t", ("a", "b"), (("x", 1.0), ("y", 2.0)))
    inner = Audit("inner", ("text",), ("so",), (finding,), (table,), (figure,), ("but",), {"seed": 0})
    return Audit("outer", parts=(inner,))


@pytest.mark.parametrize(
    ("low", "high", "chance", "words"),
    [
        (0.6, 0.8, 0.5, "above chance"),
        (0.4, 0.6, 0.5, "at chance"),
        (0.1, 0.4, 0.5, "below chance"),
        (0.5, 0.8, 0.5, "at chance"),
        (None, None, 0.5, "no verdict"),
        (0.6, 0.8, None, "no verdict"),
    ],
)
def test_verdict_follows_the_interval(low: float, high: float, chance: float, words: str) -> None:
    finding = Finding("accuracy", 0.5, low=low, high=high, chance=chance)
    assert finding.verdict == words
    assert finding.to_dict()["verdict"] == words


def test_verdict_of_a_change() -> None:
    finding = Finding("change", -0.2, low=-0.3, high=-0.1, chance=0.0, reference="no change")
    assert finding.verdict == "lower than before"
    assert finding.reason == "the 95% interval -0.300 to -0.100 lies below no change, 0.000"


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"value": float("nan")}, "value is nan"),
        ({"value": 1.0, "low": 0.5}, "both low and high"),
        ({"value": 1.0, "low": 2.0, "high": 1.0}, "upside down"),
        ({"value": 1.0, "level": 95}, "between 0 and 1"),
        ({"value": 1.0, "chance": float("inf")}, "chance is inf"),
        ({"value": 1.0, "floor": float("nan")}, "floor is nan"),
        ({}, "Finding.without"),
        ({"status": "skipped"}, "expected one of scored, not applicable, not run"),
        ({"status": "not run"}, "give the reason as why"),
        ({"status": "not run", "why": "no time", "value": 0.0}, "no value or interval"),
    ],
)
def test_impossible_findings_are_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Finding("accuracy", **wrong)


@pytest.mark.parametrize("status", ["not run", "not applicable"])
def test_what_is_not_scored_is_neither_averaged_nor_compared(status: Any) -> None:
    finding = Finding.without("recovered", status, "no gradients", chance=0.1)
    assert (finding.verdict, finding.reason, finding.side, finding.is_scored) == (status, "no gradients", None, False)
    for use in (lambda v: v + 0.5, lambda v: v < 0.5, lambda v: np.mean([v, 0.5])):
        with pytest.raises(TypeError):
            use(finding.value)
    assert Finding.from_dict(json.loads(json.dumps(finding.to_dict()))) == finding


def test_all_that_is_known_of_a_probe_survives_json() -> None:
    more: dict[str, Any] = {"probe": "inversion", "access": "gradients", "budget": {"steps": 50}, "judge": "resnet"}
    finding = Finding("recovered", 0.2, floor=0.01, evidence=("ab", "cd"), **more)
    assert Finding.from_dict(json.loads(json.dumps(finding.to_dict()))) == finding
    assert len({finding, Finding("other", 0.2)}) == 2


def test_audits_of_the_first_version_are_read() -> None:
    old = {"name": "accuracy", "value": 0.5, "family": "linear probe", "verdict": "no verdict"}
    audit = Audit.from_dict({"title": "x", "version": 1, "findings": [old], "settings": {"seed": 0}})
    assert audit == Audit("x", findings=(Finding("accuracy", 0.5, "linear probe"),), settings={"seed": 0})
    assert audit.to_dict()["version"] == 2


def test_provenance_does_not_count_when_audits_are_compared() -> None:
    assert Audit("x", provenance={"date": "today"}) == Audit("x", provenance={"date": "tomorrow"})


def test_audit_survives_json() -> None:
    audit = full_audit()
    assert Audit.from_dict(json.loads(json.dumps(audit.to_dict(), allow_nan=False))) == audit


def test_newer_and_foreign_audits_are_refused() -> None:
    with pytest.raises(FormatError, match="version 99.*upgrade"):
        Audit.from_dict({**full_audit().to_dict(), "version": 99})
    with pytest.raises(FormatError, match="no integer version"):
        Audit.from_dict({"title": "x"})
    with pytest.raises(FormatError, match="not a Finding"):
        Audit.from_dict({"title": "x", "version": 1, "findings": [{"name": "no value"}]})


def test_unknown_keys_are_dropped_with_a_warning() -> None:
    with pytest.warns(EffaceWarning, match="future"):
        assert Finding.from_dict({"name": "a", "value": 1.0, "future": 2}) == Finding("a", 1.0)


def test_find_names_what_there_is() -> None:
    audit = full_audit()
    assert audit.find("linear probe", "accuracy", "after").value == 0.75
    with pytest.raises(InputError, match=r"linear probe: accuracy \(after\)"):
        audit.find("linear probe", "accuracy", "before")


def test_findings_of_one_measure_come_together() -> None:
    findings = [Finding("a", 1.0, condition=c) for c in ("before", "after")] + [Finding("b", 2.0)]
    assert [list(row) for row in by_measure(findings)] == [["before", "after"], [""]]


def test_values_are_shown_with_their_unit() -> None:
    assert format_value(0.12345, "share") == "12.3%"
    assert format_value(0.12345) == "0.123"
    assert format_value(2.0, "sd") == "2.000 sd"


@given(n=st.integers(1, 500), share=st.floats(0, 1), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(n: int, share: float, level: float) -> None:
    hits = round(share * n)
    ours = wilson_interval(hits, n, level=level)
    theirs = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    np.testing.assert_allclose((ours.low, ours.high), (theirs.low, theirs.high), atol=1e-12)
    assert ours.low <= ours.value <= ours.high


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_wilson_covers(p: float) -> None:
    rng = np.random.default_rng(0)
    covered = [i.low <= p <= i.high for i in (wilson_interval(h, 80) for h in rng.binomial(80, p, 2000))]
    assert 0.92 < np.mean(covered) < 0.99


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(hits: int, n: int) -> None:
    with pytest.raises(InputError):
        wilson_interval(hits, n)


@given(dof=st.integers(1, 200), p=st.sampled_from([0.9, 0.975, 0.995]))
def test_student_quantile_agrees_with_scipy(dof: int, p: float) -> None:
    assert student_quantile(p, dof) == pytest.approx(stats.t.ppf(p, dof), rel=0.01)


def grouped_draw(rng: np.random.Generator, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values that share a part within their group, in groups of unequal size; true ratio 1."""
    sizes = rng.integers(5, 15, groups)
    labels = np.repeat(np.arange(groups), sizes)
    values = 1.0 + rng.normal(size=groups)[labels] + rng.normal(size=len(labels))
    return values, np.ones(len(labels)), labels


@pytest.mark.parametrize("groups", [12, 24])
def test_group_bootstrap_covers_where_row_bootstrap_does_not(groups: int) -> None:
    rng = np.random.default_rng(0)
    hit = {"groups": 0, "rows": 0}
    for _ in range(300):
        top, bottom, labels = grouped_draw(rng, groups)
        by_group = bootstrap_interval(top, bottom, groups=labels, resamples=400)
        by_row = bootstrap_interval(top, bottom, resamples=200)
        hit["groups"] += by_group.low <= 1.0 <= by_group.high
        hit["rows"] += by_row.low <= 1.0 <= by_row.high
    assert hit["groups"] / 300 > 0.89
    assert hit["rows"] / 300 < 0.75


def test_bootstrap_agrees_with_the_t_interval_of_a_mean() -> None:
    x = np.random.default_rng(0).normal(size=40)
    ours = bootstrap_interval(x, resamples=20_000)
    theirs = stats.t.interval(0.95, len(x) - 1, x.mean(), stats.sem(x))
    np.testing.assert_allclose((ours.low, ours.high), theirs, atol=0.1 * (theirs[1] - theirs[0]))


def test_linearised_and_resampled_intervals_meet() -> None:
    rng = np.random.default_rng(0)
    bottom = rng.uniform(1, 2, 4001)
    top = 0.5 * bottom + rng.normal(size=4001)
    many, fewer = bootstrap_interval(top, bottom), bootstrap_interval(top[:4000], bottom[:4000])
    assert "linearised" in many.method and "bootstrap" in fewer.method
    np.testing.assert_allclose((many.low, many.high), (fewer.low, fewer.high), atol=0.005)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_bootstrap_does_not_depend_on_the_order_of_groups_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    top, bottom, labels = grouped_draw(rng, 8)
    names = np.array(list("abcdefgh"))[labels]
    assert bootstrap_interval(top, bottom, groups=labels) == bootstrap_interval(top, bottom, groups=names)


def test_pairing_makes_the_interval_of_a_change_short() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=200)
    after = before + 0.1 + 0.01 * rng.normal(size=200)
    interval = paired_interval(after, before)
    assert interval.high - interval.low < 0.01 and interval.low < 0.1 < interval.high
    assert interval.method == "paired bootstrap over 200 rows"


def test_shares_without_spread_between_groups_keep_an_interval() -> None:
    groups = np.repeat(np.arange(10), 20)
    all_right = proportion_interval(np.ones(200), groups=groups)
    assert all_right.low == pytest.approx(wilson_interval(10, 10).low) and all_right.high == 1.0
    half = proportion_interval(np.tile([0.0, 1.0], 100), groups=groups)
    assert (half.low, half.high) == (wilson_interval(100, 200).low, wilson_interval(100, 200).high)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: bootstrap_interval([1.0]), "at least two"),
        (lambda: bootstrap_interval([1.0, 2.0], [1.0]), "shape"),
        (lambda: bootstrap_interval([1.0, 2.0], groups=["a", "a"]), "at least two independent rows or groups, got 1"),
        (lambda: bootstrap_interval([1.0, 2.0], groups=["a"]), "one for each"),
        (lambda: bootstrap_interval([1.0, 2.0], [0.0, 0.0]), "sum to zero"),
        (lambda: bootstrap_interval([1.0, 2.0], level=1.0), "between 0 and 1"),
        (lambda: bootstrap_interval([1.0, 2.0], resamples=39), "resamples is 39: .* need at least 40"),
        (lambda: bootstrap_interval([1.0, 2.0], level=0.999, resamples=1000), "need at least 2000"),
        (lambda: paired_interval([1.0, 2.0], [1.0, 1.0], resamples=1), "resamples is 1"),
        (lambda: bootstrap_interval([1.0, 2.0], resamples=2**70), "write at most 1,000,000"),
        (lambda: percentile_interval(1.0, [1.0], "by hand"), "the number of resamples is 1"),
    ],
)
def test_bootstrap_says_what_is_wrong(call: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        call()


@pytest.mark.parametrize("groups", [None, np.arange(12) // 3])
@pytest.mark.parametrize("after", [0.0, 1.0])
@pytest.mark.parametrize("before", [0.0, 1.0])
def test_a_change_that_all_rows_share_keeps_an_interval(after: float, before: float, groups: Any) -> None:
    interval = share_change_interval(np.full(12, after), np.full(12, before), groups=groups)
    assert interval.low < interval.high and interval.low <= interval.value == after - before <= interval.high
    assert interval.low >= -1 and interval.high <= 1


def test_a_mean_of_shares_of_one_set_is_wilsons_and_covers_for_several() -> None:
    rng, shares = np.random.default_rng(0), (1.0, 0.95, 0.6)
    one, wilson = mean_of_shares_interval([[1, 1, 0]]), wilson_interval(2, 3)
    assert (one.low, one.high) == (pytest.approx(wilson.low), pytest.approx(wilson.high))
    found = [mean_of_shares_interval([rng.random(20) < p for p in shares]) for _ in range(300)]
    assert np.mean([i.low <= np.mean(shares) <= i.high for i in found]) >= 0.93


def test_groups_that_happen_to_agree_do_not_shorten_an_interval() -> None:
    hits = np.tile([1.0] * 9 + [0.0], 4)
    grouped, rows = proportion_interval(hits, groups=np.repeat(np.arange(4), 10)), wilson_interval(36, 40)
    assert grouped.low <= rows.low and rows.high <= grouped.high


def test_an_interval_without_width_is_left_out() -> None:
    finding = Finding.of("moved", bootstrap_interval(np.zeros(9)), chance=0.0, reference="no change")
    assert finding.low is None and finding.high is None and finding.verdict == "no clear change"


def test_a_caution_is_the_verdict_and_survives_json() -> None:
    finding = Finding("accuracy", 0.5, low=0.4, high=0.6, chance=0.5, caution="too weak to judge")
    assert finding.verdict == "too weak to judge" and finding.reason.startswith("too weak to judge: the 95% interval")
    assert Finding.from_dict(finding.to_dict()) == finding
