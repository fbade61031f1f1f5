"""Audits by site: a planted concept is found where it is, knowing words by heart is told apart, costs are paired."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import efface.audit
from efface import InputError, Scrubber, scrub
from efface.audit import Audit
from efface.audit.states import control_labels
from efface.audit.states.measures import CONTROL, GAP, PROBE, SELECTIVITY, class_mean_gap
from efface.audit.vectors import Labels, ProbeScores
from efface.audit.vectors.folds import View, make_folds
from efface.audit.vectors.probes import PROBES, QUICK_LINEAR

Sites = dict[str, np.ndarray]


def planted(n: int = 600, d: int = 6, shift: float = 2.0, seed: int = 0) -> tuple[Sites, Sites, np.ndarray]:
    """Site "b" holds a concept of two classes in its first column, "a" holds none; after, that column is noise."""
    rng = np.random.default_rng(seed)
    z = rng.integers(0, 2, n)
    plain = {site: rng.normal(size=(n, d)) for site in ("b", "a")}
    before = {site: x.copy() for site, x in plain.items()}
    before["b"][:, 0] += shift * z
    return before, plain, z


@cache
def planted_audit() -> Audit:
    return efface.audit.sites(*planted(), name="sex")


def words(n: int = 900, kinds: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Items, and a label for each kind of item that is as random as a control label."""
    rng = np.random.default_rng(seed)
    items = rng.integers(0, kinds, n)
    return items, rng.integers(0, 3, kinds)[items], rng


class TestProbing:
    def test_a_planted_concept_is_found_before_and_not_after(self) -> None:
        audit = planted_audit()
        before, after = (audit.find(PROBE, "b", c) for c in ("before", "after"))
        assert before.verdict == "above chance" and before.value == pytest.approx(0.841, abs=0.05)  # Phi(1)
        assert after.side != 1 and after.baseline == before.value and (before.n, before.seed) == (600, 0)
        assert audit.find(PROBE, "a", "before").side != 1

    def test_sites_keep_their_order(self) -> None:
        assert [f.name for f in planted_audit().findings if f.family == PROBE and f.condition == "after"] == ["b", "a"]
        assert planted_audit().figures[0].series[0].x == ("b", "a")

    def test_chance_is_the_most_common_class(self) -> None:
        rng = np.random.default_rng(0)
        z = np.repeat([0, 1, 2], [200, 50, 50])
        audit = efface.audit.sites({"h.0": rng.normal(size=(300, 4))}, None, z)
        assert audit.find(PROBE, "h.0", "before").chance == pytest.approx(2 / 3)
        assert audit.figures[0].chance == pytest.approx(2 / 3)

    def test_folds_never_split_a_group(self) -> None:
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(20), 20)
        x = {"h.0": 3 * rng.normal(size=(20, 30))[groups] + rng.normal(size=(400, 30))}
        z = rng.permutation(np.arange(20) % 2)[groups]
        assert efface.audit.sites(x, None, z).find(PROBE, "h.0", "before").value > 0.95
        grouped = efface.audit.sites(x, None, z, groups=torch.from_numpy(groups)).find(PROBE, "h.0", "before")
        assert grouped.side != 1 and "20 groups" in grouped.method

    def test_without_an_erasure_there_is_one_side(self) -> None:
        before, _, z = planted()
        audit = efface.audit.sites(before, None, z, name="sex")
        assert {f.condition for f in audit.findings} == {"before"}
        assert [s.label for s in audit.figures[0].series] == ["before"]
        assert audit.conclusions[0].startswith("The linear probe reads sex at 1 of 2 sites, best at b: 8")

    def test_the_quick_probe_is_near_the_one_that_converges(self) -> None:
        rng = np.random.default_rng(0)
        z = rng.integers(0, 5, 1500)
        x = rng.normal(size=(1500, 40)) @ rng.normal(size=(40, 40)) + 3 * rng.normal(size=(5, 40))[z]
        view = View(np.arange(1200), np.arange(1200, 1500), x, x)
        scores = [
            ProbeScores(probe, Labels.of(z, "z"), conditions=("before",)) for probe in (QUICK_LINEAR, PROBES["linear"])
        ]
        for score in scores:
            score.add(view)
        quick, slow = (score.hits("before")[1200:].mean() for score in scores)
        assert slow > 0.5 and quick == pytest.approx(slow, abs=0.03)

    def test_vectors_of_any_float_type_and_width_are_left_as_they_were(self) -> None:
        before, after, z = planted(120)
        x = {"b": torch.from_numpy(before["b"]).to(torch.bfloat16), "a": torch.from_numpy(after["a"][:, :2])}
        kept = {site: rows.clone() for site, rows in x.items()}
        assert efface.audit.sites(x, None, z).find(PROBE, "b", "before").side == 1
        assert all(torch.equal(x[site], kept[site]) for site in x)

    def test_the_same_seed_gives_the_same_audit(self) -> None:
        before, after, z = planted(120)
        items = np.arange(120) % 20
        audit = efface.audit.sites(before, after, z, control=items, seed=3)
        assert audit == efface.audit.sites(before, after, z, control=items, seed=3)
        assert audit.findings != efface.audit.sites(before, after, z, control=items, seed=4).findings

    def test_many_sites_leave_the_numbers_to_the_small_print(self) -> None:
        before, _, z = planted(60)
        few, many = (efface.audit.sites({f"h.{i}": before["b"] for i in range(k)}, None, z, folds=2) for k in (2, 21))
        assert sum(not f.detail for f in few.findings) == 2 and all(f.detail for f in many.findings)


class TestSelectivity:
    def test_a_probe_that_knows_words_by_heart_is_not_selective(self) -> None:
        items, z, rng = words()
        x = {"h.0": rng.normal(size=(30, 40))[items] + 0.01 * rng.normal(size=(900, 40))}
        audit = efface.audit.sites(x, None, z, control=items)
        assert audit.find(PROBE, "h.0", "before").value > 0.95
        assert abs(audit.find(SELECTIVITY, "h.0", "before").value) < 0.05
        assert audit.conclusions[1].startswith("Nowhere does the probe read concept better than random labels")

    def test_a_probe_that_reads_the_label_itself_is_selective(self) -> None:
        items, z, rng = words()
        x = {"h.0": 4 * np.eye(3)[z] + rng.normal(size=(900, 3))}
        audit = efface.audit.sites(x, None, z, control=items)
        accuracy, control = (audit.find(family, "h.0", "before").value for family in (PROBE, CONTROL))
        selectivity = audit.find(SELECTIVITY, "h.0", "before")
        assert selectivity.value == pytest.approx(accuracy - control) and selectivity.value > 0.25
        assert selectivity.low is not None and 0 < selectivity.low < selectivity.value
        assert audit.conclusions[1].startswith("At 1 of 1 site concept is read better than random labels")

    def test_control_labels_are_a_draw_of_the_real_ones_for_each_kind_of_item(self) -> None:
        z = Labels.of(np.repeat([0, 1], [9000, 1000]), "z")
        items = np.arange(10_000) % 5000
        control = control_labels(items, z, seed=1)
        np.testing.assert_array_equal(control.values[:5000], control.values[5000:])
        assert control.values.mean() == pytest.approx(0.1, abs=0.02)
        assert (control.values != control_labels(items, z, seed=2).values).any()

    def test_the_control_task_has_its_own_chance(self) -> None:
        items, z, rng = words(300, kinds=4)
        audit = efface.audit.sites({"h.0": rng.normal(size=(300, 3))}, None, z, control=items, seed=2)
        shares = np.bincount(control_labels(items, Labels.of(z, "z"), seed=2).values) / 300
        assert audit.find(CONTROL, "h.0", "before").chance == pytest.approx(shares.max())
        assert shares.max() != pytest.approx(audit.find(PROBE, "h.0", "before").chance)

    def test_a_control_class_that_a_fold_lacks_is_read_wrongly_there(self) -> None:
        rng = np.random.default_rng(0)
        z = np.repeat([0, 1, 2], [40, 40, 20])
        x = rng.normal(size=(100, 3)) + 9 * np.eye(3)[z]
        view = View(np.r_[0:20, 80:90], np.r_[20:80, 90:100], x, x)
        scores = ProbeScores(QUICK_LINEAR, Labels.of(z, "z"), may_lack=True, conditions=("before",))
        scores.add(view)
        hits = scores.hits("before")
        assert hits[20:40].mean() > 0.9 and hits[90:].mean() > 0.8 and hits[40:80].max() == 0.0
        with pytest.raises(InputError, match="no row of z = 1"):
            ProbeScores(QUICK_LINEAR, Labels.of(z, "z")).add(view)

    def test_no_control_no_selectivity(self) -> None:
        assert {f.family for f in planted_audit().findings}.isdisjoint({CONTROL, SELECTIVITY})


class TestGap:
    def test_gap_is_the_largest_of_a_feature_in_its_own_spread(self) -> None:
        x = np.array([[0.0, 10.0], [0.0, 10.0], [3.0, 40.0]])
        # means 0, 10 and 3, 40 about 1, 20: |3 - 1| / 0.5 = 4, |40 - 20| / 4 = 5
        assert class_mean_gap(x, np.array([0, 0, 1]), spread=np.array([0.5, 4.0])) == pytest.approx(5.0)

    def test_rounding_is_not_scaled_up(self) -> None:
        x = np.array([[0.0, 0.0], [1.0, 1e-14]])
        assert class_mean_gap(x, np.array([0, 1]), spread=x.std(axis=0)) == pytest.approx(1.0)
        assert class_mean_gap(x[:, 1:], np.array([0, 1]), spread=np.zeros(1)) > 1.0

    def test_equal_class_means_have_no_gap_in_sample(self) -> None:
        before, _, z = planted()
        x = before["b"]
        after = x - np.stack([x[z == k].mean(axis=0) for k in (0, 1)])[z]
        audit = efface.audit.sites({"b": x}, {"b": after}, z)
        gaps = [audit.find(GAP, "b", c) for c in ("before", "after")]
        assert gaps[0].value == pytest.approx(np.abs(x[z == 0].mean(0) - x.mean(0)).max() / x[:, 0].std(), rel=0.1)
        assert gaps[1].value < 1e-12 and gaps[1].baseline == gaps[0].value
        assert gaps[1].chance is not None and 0.01 < gaps[1].chance < 0.2

    def test_the_gap_after_is_measured_in_the_spread_before(self) -> None:
        before, _, z = planted()
        audit = efface.audit.sites(before, {site: x / 100 for site, x in before.items()}, z)
        first, last = (audit.find(GAP, "b", c).value for c in ("before", "after"))
        assert last == pytest.approx(first / 100)


class TestWords:
    def test_what_is_gone_is_said_without_boasting(self) -> None:
        said = planted_audit().conclusions
        assert said[0] == (
            "The linear probe reads sex better than chance at none of 2 sites any more. "
            "That is no proof that no probe can."
        )
        assert said[1].startswith("At 1 of 2 sites the linear probe could not read sex even before: it is too weak")

    def test_what_is_left_is_said(self) -> None:
        before, _, z = planted()
        said = efface.audit.sites(before, before, z, name="sex").conclusions
        assert said[0].startswith("NOT erased: the linear probe still reads sex at 1 of 2 sites, best at b: 8")
        assert not any("constant guess" in s for s in said)

    def test_right_answers_without_a_better_loss_are_told_apart(self) -> None:
        """Equal class means, but one class is wide: a threshold tells many of its rows, the loss of a line does not."""
        rng = np.random.default_rng(0)
        z = np.repeat([0, 1, 2], 300)
        # Class 0 leans one way in most rows and far the other way in few: its mean is that of the others.
        lean = np.where(rng.random(900) < 0.9, 1.0, -9.0)
        x = {"h.0": np.where(z == 0, lean, 0.0)[:, None] + 0.1 * rng.normal(size=(900, 1))}
        audit = efface.audit.sites(
            {"h.0": np.eye(3)[z] + rng.normal(size=(900, 3))}, {"h.0": np.repeat(x["h.0"], 3, 1)}, z
        )
        after, bits = audit.find(PROBE, "h.0", "after"), audit.find("information", "h.0", "after")
        assert after.side == 1 and bits.side != 1
        assert audit.conclusions[1].startswith("At 1 of these sites the probe's loss is no better than a constant")

    def test_missing_groups_are_a_caveat(self) -> None:
        before, after, z = planted(120)
        groups = np.arange(120) // 3
        loose, grouped = (efface.audit.sites(before, after, z, groups=g).caveats for g in (None, groups))
        assert any("No groups" in c for c in loose) and not any("No groups" in c for c in grouped)
        assert any("cannot be checked" in c for c in loose)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"before": {}}, r"before is empty: give at least one entry \{name: \(n, d\)\}"),
            ({"before": [1.0]}, r"before is a list: write a mapping"),
            ({"after": {}}, "after is empty"),
            ({"after": {"b": np.zeros((60, 6))}}, r"before has sites that after lacks \(a\)"),
            ({"before": {"b": np.zeros((60, 6))}}, r"after has sites that before lacks \(a\)"),
            ({"before": {"b": np.zeros((59, 6)), "a": np.zeros((60, 6))}}, r"before\['b'\] has 59 rows but z has 60"),
            ({"before": {"b": np.zeros(60), "a": np.zeros((60, 6))}}, r"before\['b'\].*expected \(n, d\)"),
            (
                {"after": {"b": np.zeros((60, 5)), "a": np.zeros((60, 6))}},
                r"b has shape \(60, 6\) before and \(60, 5\)",
            ),
            ({"after": {"b": np.full((60, 6), np.nan), "a": np.zeros((60, 6))}}, r"after\['b'\] has NaN"),
            ({"z": np.zeros(60, int)}, "has 1 class"),
            ({"z": np.linspace(0, 1, 60)}, "z holds numbers"),
            ({"groups": [1, 2]}, r"groups has shape \(2,\), expected \(60,\)"),
            ({"groups": np.arange(60) % 2}, "2 groups cannot be split into 5 folds"),
            ({"control": [1, 2]}, r"control has shape \(2,\)"),
            ({"control": np.zeros(60)}, r"control has 1 kind\(s\) of item"),
            ({"folds": 1}, "at least 2"),
        ],
    )
    def test_probing_says_what_is_wrong(self, change: dict[str, Any], match: str) -> None:
        before, after, z = planted(60)
        with pytest.raises(InputError, match=match):
            efface.audit.sites(**{"before": before, "after": after, "z": z, **change})

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"sites": None}, "give sites="),
            ({"sites": {"leace": {}}}, r"sites\['leace'\] is empty"),
            ({"sites": {"leace": {"a": np.ones(3)}}}, r"sites\['leace'\]\['a'\] has shape \(3,\), expected \(4,\)"),
            ({"sites": {"leace": {"a": np.full(4, np.nan)}}}, r"sites\['leace'\]\['a'\] has NaN"),
            ({"sites": {"leace": {"a": np.ones(4)}, "random": {"b": np.ones(4)}}}, r"lacks \(a\)"),
            ({"sites": {"leace": np.ones(4)}}, r"sites\['leace'\] is a ndarray"),
            ({"whole": {"none": np.ones(4)}}, "pass those losses as unscrubbed"),
            ({"whole": {"leace": np.ones(3)}}, r"whole\['leace'\]"),
            ({"whole": [1]}, "whole is a list"),
            ({"unscrubbed": np.ones((4, 2))}, r"unscrubbed has shape \(4, 2\)"),
            ({"per": -np.ones(4)}, "per has negative values"),
            ({"per": np.zeros(4)}, "per has negative values or zeros only"),
            ({"per": np.ones(3)}, r"per has shape \(3,\)"),
            ({"groups": [1]}, r"groups has shape \(1,\)"),
        ],
    )
    def test_losses_say_what_is_wrong(self, change: dict[str, Any], match: str) -> None:
        with pytest.raises(InputError, match=match):
            efface.audit.losses(**{"unscrubbed": np.arange(4.0), "sites": {"leace": {"a": np.ones(4)}}, **change})


def costs(n: int = 80, delta: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Losses that differ a lot from sequence to sequence, and by `delta` when a site is erased."""
    rng = np.random.default_rng(seed)
    plain = 10 + 5 * rng.normal(size=n)
    random = plain + 0.1 + 0.02 * rng.normal(size=n)
    erased = random + delta + 0.1 * rng.normal(size=n)
    return {
        "unscrubbed": plain,
        "sites": {"leace": {"h.0": erased, "h.1": random}, "random": {"h.0": random, "h.1": random}},
        "whole": {"leace": erased, "random": random},
    }


class TestLosses:
    @pytest.mark.parametrize("delta", [-0.5, 0.5])
    def test_paired_interval_covers_the_known_change_and_is_short(self, delta: float) -> None:
        covered = []
        for seed in range(40):
            given = costs(delta=delta, seed=seed)
            one_site = {way: {"h.0": losses["h.0"]} for way, losses in given["sites"].items()}
            finding = efface.audit.losses(given["unscrubbed"], one_site).find("leace", "h.0", "difference")
            assert finding.low is not None and finding.high is not None and finding.high - finding.low < 0.1
            covered.append(finding.low <= delta <= finding.high)
        assert sum(covered) >= 34

    def test_each_site_is_compared_with_the_unscrubbed_model_and_with_the_control(self) -> None:
        given = costs()
        audit = efface.audit.losses(**given, unit="nats")
        plain, sites = given["unscrubbed"], given["sites"]
        erased, control, difference = (audit.find("leace", "h.0", c) for c in ("erased", "control", "difference"))
        assert erased.value == pytest.approx((sites["leace"]["h.0"] - plain).mean())
        assert control.value == pytest.approx((sites["random"]["h.0"] - plain).mean())
        assert difference.value == pytest.approx(erased.value - control.value)
        assert (erased.verdict, difference.verdict) == ("higher than before", "higher than the control")
        assert difference.baseline == pytest.approx(control.value) and erased.baseline == pytest.approx(plain.mean())
        assert audit.find("leace", "h.1", "difference").verdict == "no clear difference"
        assert (difference.unit, difference.n, difference.seed) == ("nats", 80, 0)

    def test_a_loss_that_falls_is_lower(self) -> None:
        finding = efface.audit.losses(**costs(delta=-0.5)).find("leace", "h.0", "difference")
        assert finding.verdict == "lower than the control"

    def test_the_mean_is_a_ratio_of_sums(self) -> None:
        plain, erased, per = np.array([10.0, 20.0, 60.0]), np.array([11.0, 22.0, 70.0]), np.array([5.0, 10.0, 15.0])
        audit = efface.audit.losses(plain, {"leace": {"h.0": erased}}, {"leace": erased}, per=per)
        assert audit.find("whole model", "none", "loss").value == pytest.approx(90 / 30)
        assert audit.find("leace", "h.0", "erased").value == pytest.approx(13 / 30)

    def test_sequences_of_one_group_count_as_one(self) -> None:
        given, groups = costs(), np.arange(80) // 10
        given["unscrubbed"] = given["unscrubbed"] + np.random.default_rng(1).normal(size=8)[groups]
        rows, grouped = (efface.audit.losses(**given, groups=g).find("leace", "h.0", "erased") for g in (None, groups))
        assert rows.high and rows.low and grouped.high and grouped.low
        assert grouped.high - grouped.low > 2 * (rows.high - rows.low) and "8 groups" in grouped.method

    def test_the_whole_model_is_one_list(self) -> None:
        audit = efface.audit.losses(**costs(), lines={"unigram entropy": 20.0})
        found = {(f.name, f.condition): f for f in audit.parts[0].findings}
        assert list(found) == [
            ("none", "loss"),
            ("random", "loss"),
            ("random", "change"),
            ("leace", "loss"),
            ("leace", "change"),
            ("leace", "difference"),
            ("unigram entropy", "loss"),
        ]
        assert found["leace", "difference"].value == pytest.approx(0.5, abs=0.1)
        assert found["unigram entropy", "loss"].low is None
        assert audit.figures == () and [len(p.figures) for p in audit.parts] == [1, 1]

    def test_parts_are_those_that_were_given(self) -> None:
        given = costs()
        whole, sites = given.pop("whole"), given.pop("sites")
        assert [p.title for p in efface.audit.losses(**given, whole=whole).parts] == ["The whole model"]
        assert [p.title for p in efface.audit.losses(**given, sites=sites).parts] == ["One site at a time"]

    def test_without_a_control_there_is_the_change_alone(self) -> None:
        given = costs()
        audit = efface.audit.losses(given["unscrubbed"], {"leace": given["sites"]["leace"]})
        assert {f.condition for f in audit.parts[0].findings} == {"erased"}
        assert audit.conclusions[0].startswith(
            "Erasing the concept at one site by leace costs something at 2 of 2 sites"
        )

    def test_several_ways_share_the_control(self) -> None:
        given = costs()
        given["sites"]["orthogonal"] = given["sites"]["leace"]
        audit = efface.audit.losses(**given)
        assert audit.find("orthogonal", "h.0", "difference") is not None
        assert [s.label for s in audit.parts[1].figures[0].series] == ["random", "leace", "orthogonal"]

    def test_what_it_costs_is_said(self) -> None:
        said = efface.audit.losses(**costs(), unit="bits per byte", name="the type").conclusions
        assert said[0].startswith("Erasing the type everywhere by leace changed the loss by +0.588 bits per byte (+0.5")
        assert "clearly up; random subspaces changed it by +0.098" in said[0]
        assert said[1].startswith(
            "Erasing the type at one site by leace costs more than a random subspace at 1 of 2 sites"
        )
        assert "most at h.0: +0.490" in said[1]

    def test_a_site_that_helps_is_not_counted_as_a_cost(self) -> None:
        said = efface.audit.losses(**costs(delta=-0.5)).conclusions
        assert said[1].startswith(
            "Erasing the concept at one site by leace costs more than a random subspace at 0 of 2"
        )

    def test_torch_losses_and_json(self) -> None:
        given = costs()
        audit = efface.audit.losses(torch.from_numpy(given["unscrubbed"]).float(), given["sites"], given["whole"])
        assert Audit.from_dict(json.loads(json.dumps(audit.to_dict(), allow_nan=False))) == audit


class Words(torch.nn.Module):
    """A model whose hidden states are random vectors of its words."""

    def __init__(self, words: int = 30, width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix = torch.nn.Embedding(words, width), torch.nn.Linear(width, width)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.mix(self.embed(input_ids))


def scrubbed(model: Any, data: Any, labels: Any) -> Scrubber:
    return scrub(model, data, labels, sites=["embed", "mix"])


class TestFitInside:
    """A model scrubbed and read in one call, so that nothing is scored that a fit has seen."""

    def test_scrubbers_are_fitted_on_training_sequences_alone(self) -> None:
        ids = torch.randint(0, 30, (24, 6), generator=torch.Generator().manual_seed(0))
        seen: list[set[int]] = []

        def fit(model: Any, data: Any, labels: Any) -> Scrubber:
            assert len(data["input_ids"]) == len(labels)
            seen.append({int(row) for row in data["row"]})
            return scrubbed(model, {"input_ids": data["input_ids"]}, labels)

        class Numbered(Words):
            def forward(self, input_ids: torch.Tensor, row: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
                return super().forward(input_ids)

        data = {"input_ids": ids, "row": torch.arange(24)}
        groups = np.arange(24) // 2
        audit = efface.audit.sites(Numbered(), data, ids % 2, fit=fit, groups=groups, folds=3, probes=["linear"])
        assert len(seen) == 6 and not any(one & other for one, other in zip(seen[::2], seen[1::2], strict=True))
        held = [set(range(24)) - one - other for one, other in zip(seen[::2], seen[1::2], strict=True)]
        assert set.union(*held) == set(range(24)) and sum(map(len, held)) == 24
        assert all({r ^ 1 for r in rows} == rows for rows in [*held, *seen])  # both sequences of a group
        found = audit.find(PROBE, "embed", "after")
        assert found.n == 24 * 6 and "12 groups" in found.method
        assert "scrubbed anew in each fold" in audit.text[0] and not any("has seen" in c for c in audit.caveats)

    @pytest.mark.parametrize("seed", range(4))
    def test_halves_have_each_class_of_whole_sequences(self, seed: int) -> None:
        """One of a class in each third: half of the other two, drawn without regard to it, often has none of it."""
        ids = torch.randint(0, 30, (24, 6), generator=torch.Generator().manual_seed(0))
        thirds = make_folds(24, 3, groups=np.arange(24), seed=seed)
        rare = {int(row) for _, test in thirds for row in test[:1]}
        labels = ["rare" if row in rare else "common" for row in range(24)]
        options = {"folds": 3, "probes": ["linear"], "seed": seed}
        audit = efface.audit.sites(Words(), ids, labels, fit=scrubbed, **options)
        assert audit.find(PROBE, "embed", "after").n == 24 * 6

    def test_own_rows_look_erased_where_sequences_held_out_do_not(self) -> None:
        """Words that only a few sequences have: equal means there, and 60 % and more on others."""
        rng = np.random.default_rng(0)
        z = torch.arange(40) % 2
        x = torch.as_tensor(rng.normal(size=(40, 3, 60)) + 0.5 * z.numpy()[:, None, None], dtype=torch.float32)
        model = torch.nn.Sequential(torch.nn.Identity())

        class Vectors(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = model

            def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
                return self.first(inputs_embeds)

        def fit(model: Any, data: Any, labels: Any) -> Scrubber:
            return scrub(model, data, labels, sites=["first"])

        subject, data = Vectors(), {"inputs_embeds": x}
        fresh = efface.audit.sites(subject, data, z, fit=fit, folds=4, probes=["linear"])
        assert fresh.find(PROBE, "first", "before").side == 1
        scrubber = fit(subject, data, z)
        plain, erased = (scrubber.states(subject, data, z, on=on) for on in (False, True))
        own = efface.audit.sites(plain.x, erased.x, plain.labels, groups=plain.sequence, folds=4)
        assert own.find(PROBE, "first", "after").verdict == "rows of the fit?"
        assert own.warnings[0].startswith("WARNING: these look like rows that the eraser was fitted on")
        assert not any("fitted on" in said for said in fresh.warnings)

    @pytest.mark.slow
    def test_an_mlp_probe_reads_what_no_line_does(self) -> None:
        ids = torch.randint(0, 30, (30, 8), generator=torch.Generator().manual_seed(0))
        audit = efface.audit.sites(Words(), ids, ids % 2, fit=scrubbed, folds=3, control=ids, name="odd")
        after = audit.find("MLP probe", "embed", "after")
        assert after.value > 0.9 and audit.find(PROBE, "embed", "after").value < after.value
        assert any(w.startswith("NOT erased: the MLP probe still reads odd at") for w in audit.warnings)
        assert audit.find(SELECTIVITY, "embed", "before").n == 240

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"fit": None}, "a model is audited with fit="),
            ({"fit": lambda *_: "scrubber"}, "fit gave a str, which shows no hidden states"),
            ({"after": iter([])}, "cannot be split into folds"),
            ({"probes": ["oracle"]}, "unknown probes"),
            ({"groups": [1, 2]}, "groups has shape"),
        ],
    )
    def test_says_what_to_write(self, changes: dict[str, Any], says: str) -> None:
        ids = torch.randint(0, 30, (12, 4), generator=torch.Generator().manual_seed(0))
        given = {"before": Words(), "after": ids, "z": ids % 2, "fit": scrubbed, **changes}
        with pytest.raises(InputError, match=says):
            efface.audit.sites(**given)
