"""Probes, folds and the audit of vectors: at chance on noise, above it on signal, and no leakage."""

from __future__ import annotations

import signal as signal_module
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor

import efface.audit
from efface import InputError
from efface.audit import Audit, Finding
from efface.audit.vectors import Labels, Task, canonical_correlations, class_mean_gap, edit_size
from efface.audit.vectors.folds import halves, make_folds, views
from efface.audit.vectors.guardedness import looks_fitted
from efface.audit.vectors.judging import Reading, judged
from efface.audit.vectors.probes import standardise
from efface.erasers.leace import LeaceEraser


def noise(n: int = 400, d: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.integers(0, 2, n)


def signal(n: int = 400, d: int = 8, shift: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, z = noise(n, d, seed)
    x[:, 0] += shift * z
    return x, z


def xor(n: int = 800, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, _ = noise(n, d, seed)
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)


def mean_eraser(x: Tensor, z: Tensor) -> Any:
    """An eraser from first principles: takes each row along the difference of the class means away."""
    line = x[z == 1].mean(0) - x[z == 0].mean(0)
    line = line / line.norm()
    mean = x.mean(0)
    return lambda rows: rows - ((rows - mean) @ line)[:, None] * line


def without_the_first(x: Tensor) -> Tensor:
    """Erases what `signal` has without an error of a fit, which other rows would show."""
    return x * torch.arange(x.shape[1]).clamp(max=1)


@cache
def noise_audits() -> list[Audit]:
    return [efface.audit.rows(*noise(120, 4, seed), keep, folds=3, seed=seed) for seed in range(12)]


@cache
def signal_audit() -> Audit:
    return efface.audit.rows(*signal(), keep, task=signal()[0][:, 1], name="sex")


def keep(x: Tensor) -> Tensor:
    return x


class TestProbes:
    @pytest.mark.slow
    @pytest.mark.parametrize("family", ["linear probe", "MLP probe"])
    @pytest.mark.parametrize("name", ["accuracy", "information"])
    def test_rarely_above_chance_on_noise(self, family: str, name: str) -> None:
        above = [audit.find(family, name, "after").side == 1 for audit in noise_audits()]
        assert sum(above) <= 2  # of 12; the rule allows one in forty on the average

    @pytest.mark.parametrize("family", ["linear probe", "MLP probe"])
    @pytest.mark.parametrize("name", ["accuracy", "information"])
    def test_above_chance_on_signal(self, family: str, name: str) -> None:
        assert signal_audit().find(family, name, "before").verdict == "above chance"

    def test_only_the_mlp_reads_a_product(self) -> None:
        audit = efface.audit.rows(*xor(), keep)
        assert audit.find("linear probe", "accuracy", "after").verdict == "too weak to judge"
        assert audit.find("MLP probe", "accuracy", "after").value > 0.8
        assert audit.find("MLP probe", "information", "after").verdict == "above chance"

    def test_linear_probe_is_near_the_bayes_rate(self) -> None:
        x, z = signal(4000, 4, shift=2.0)
        bayes = 0.841  # Phi(1): two unit Gaussians two apart
        assert efface.audit.rows(x, z, keep, probes=["linear"]).find("linear probe", "accuracy", "after").value == (
            pytest.approx(bayes, abs=0.02)
        )

    @pytest.mark.parametrize("family", ["linear probe", "MLP probe"])
    def test_numbers_are_read_as_r2(self, family: str) -> None:
        x, _ = noise()
        rng = np.random.default_rng(1)
        audit = efface.audit.rows(x, 2 * x[:, 0] + rng.normal(size=len(x)), lambda x: 0 * x)
        assert audit.find(family, "R2", "before").value == pytest.approx(0.8, abs=0.12)
        assert audit.find(family, "R2", "after").side != 1
        assert audit.find(family, "R2", "after").chance == 0.0

    def test_several_numbers_at_once(self) -> None:
        x, _ = noise()
        audit = efface.audit.rows(x, x[:, :2], keep)
        assert audit.find("linear probe", "R2", "after").value > 0.95

    def test_chance_is_the_most_common_class(self) -> None:
        x, _ = noise(300)
        z = np.repeat([0, 1, 2], [200, 50, 50])
        finding = efface.audit.rows(x, z, keep, probes=["linear"]).find("linear probe", "accuracy", "before")
        assert finding.chance == pytest.approx(2 / 3)

    def test_rounding_errors_are_not_scaled_up(self) -> None:
        x, z = noise()
        x[:, 0] = 1e-12 * z
        audit = efface.audit.rows(x, z, keep, probes=["linear"])
        assert audit.find("linear probe", "accuracy", "after").side != 1

    def test_standardise_uses_training_rows_only(self) -> None:
        x = np.array([[0.0], [2.0], [100.0]])
        np.testing.assert_allclose(standardise(x, np.array([0, 1])), [[-1.0], [1.0], [99.0]])


class TestErasure:
    def test_erased_signal_is_at_chance_and_the_task_stays(self) -> None:
        x, z = signal()
        y = x[:, 3] + 0.1 * np.random.default_rng(1).normal(size=len(x))
        audit = efface.audit.rows(x, z, fit=lambda *_: without_the_first, task=Task(y, "y"), probes=["linear"])
        assert audit.find("linear probe", "accuracy", "before").side == 1
        after = audit.find("linear probe", "accuracy", "after")
        assert after.verdict == "at chance" and after.baseline == audit.find("linear probe", "accuracy", "before").value
        assert audit.find("task: y", "R2", "after").value > 0.9
        assert 0 < audit.find("edit", "share of the variance moved", "after").value < 0.5

    def test_class_means_of_the_fit_are_those_of_an_eraser_of_all_training_rows(self) -> None:
        audit = efface.audit.rows(*signal(), fit=mean_eraser, probes=["linear"])
        assert audit.find("guardedness", "class-mean gap, fit rows", "after").value < 1e-6
        assert audit.find("guardedness", "largest correlation, fit rows", "after").value < 1e-6

    def test_identity_changes_nothing(self) -> None:
        audit = signal_audit()
        for before in (f for f in audit.findings if f.condition == "before"):
            assert audit.find(before.family, before.name, "after").value == before.value
        change = audit.find("task: task", "change of R2", "change")
        assert (change.value, change.verdict) == (0.0, "no clear change")
        assert audit.find("edit", "share of the variance moved", "after").value == 0.0

    def test_damage_to_the_task_is_seen(self) -> None:
        x, z = signal()
        audit = efface.audit.rows(x, z, lambda x: 0 * x, task=(x[:, 1] > 0).astype(int), probes=["linear"])
        assert audit.find("task: task", "change of accuracy", "change").verdict == "lower than before"

    def test_no_row_changed_still_has_an_interval(self) -> None:
        x, z = signal()
        change = efface.audit.rows(x, z, keep, task=z, probes=["linear"]).find(
            "task: task", "change of accuracy", "change"
        )
        assert change.low is not None and change.high is not None
        assert change.low < 0.0 < change.high < 0.02

    def test_several_tasks(self) -> None:
        x, z = signal()
        audit = efface.audit.rows(x, z, keep, task=(Task(x[:, 1], "a"), Task(z, "b")), probes=["linear"])
        assert {f.family for f in audit.findings} >= {"task: a", "task: b"}


class TestLeakage:
    def test_the_eraser_never_sees_the_rows_that_are_scored(self) -> None:
        x, z = signal(100)
        x[:, -1] = np.arange(100)
        groups = np.arange(100) // 10
        seen: list[set[int]] = []

        def fit(rows: Tensor, labels: Tensor) -> Any:
            seen.append({int(i) for i in rows[:, -1]})
            assert torch.equal(labels, torch.from_numpy(z[sorted(seen[-1])]))
            return keep

        efface.audit.rows(x, z, fit=fit, groups=groups, probes=["linear"])
        assert len(seen) == 15
        folds = seen[::3]
        assert sorted(i for rows in folds for i in set(range(100)) - rows) == list(range(100))
        for rows, one, other in zip(folds, seen[1::3], seen[2::3], strict=True):
            assert one | other == rows and not one & other and abs(len(one) - len(other)) <= 10
            parts = [set(groups[sorted(part)]) for part in (set(range(100)) - rows, one, other)]
            assert sum(map(len, parts)) == 10 and set.union(*parts) == set(range(10))

    def test_probes_learn_from_rows_that_the_eraser_has_not_seen(self) -> None:
        """Of rows that it has seen, this eraser leaves the label, and of others nothing."""
        x, z = noise(200, 3)

        def fit(rows: Tensor, labels: Tensor) -> Any:
            known = {float(r): int(c) for r, c in zip(rows[:, 0], labels, strict=True)}

            def erase(given: Tensor) -> Tensor:
                marks = [3.0 * known[float(r)] if float(r) in known else 0.0 for r in given[:, 0]]
                return torch.stack([torch.tensor(marks, dtype=given.dtype), given[:, 1], given[:, 2]], 1)

            return erase

        scored: list[float] = []
        for view in views(torch.as_tensor(x), Labels.of(z, "z"), make_folds(200, 4), fit=fit, erase=None):
            assert len(view.crossed) == 2 and all(part.test is view.test for part in view.crossed)
            scored += [float(np.abs(part.after[np.r_[part.train, part.test], 0]).max()) for part in view.crossed]
        assert scored == [0.0] * 8

    def test_halves_have_all_classes_or_the_audit_says_which_is_rare(self) -> None:
        z = np.r_[np.zeros(40, int), np.ones(4, int)]
        for one, other in halves(np.arange(44), groups=np.arange(44) // 2, strata=z, seed=1):
            assert {*z[one]} == {*z[other]} == {0, 1}
        x, few = noise(60)[0], np.r_[np.zeros(58, int), 1, 1]
        with pytest.raises(InputError, match="half of a training fold has no row of z = 1"):
            efface.audit.rows(x, few, fit=mean_eraser, name="z", probes=["linear"])
        with pytest.raises(InputError, match="a training fold has one group .or row. only"):
            halves(np.arange(5), groups=np.zeros(9))

    def test_an_eraser_that_writes_to_its_input_spoils_nothing(self) -> None:
        x, z = signal()
        kept = x.copy()
        audit = efface.audit.rows(x, z, lambda rows: rows.mul_(0.0), probes=["linear"])
        np.testing.assert_array_equal(x, kept)
        assert audit.find("linear probe", "accuracy", "before").side == 1

    def test_a_concept_of_whole_groups_is_not_read_through_the_groups(self) -> None:
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(20), 20)
        x = 3 * rng.normal(size=(20, 30))[groups] + rng.normal(size=(400, 30))
        z = rng.permutation(np.arange(20) % 2)[groups]
        by_rows = efface.audit.rows(x, z, keep, probes=["linear"]).find("linear probe", "accuracy", "after")
        by_groups = efface.audit.rows(x, z, keep, probes=["linear"], groups=groups)
        assert by_rows.value > 0.95
        assert by_groups.find("linear probe", "accuracy", "after").side != 1

    @settings(max_examples=30)
    @given(n=st.integers(10, 60), folds=st.integers(2, 5), seed=st.integers(0, 99), grouped=st.booleans())
    def test_folds_part_the_rows(self, n: int, folds: int, seed: int, grouped: bool) -> None:
        groups = np.arange(n) % 7 if grouped else None
        splits = make_folds(n, folds, groups=groups, strata=np.arange(n) % 2, seed=seed)
        assert sorted(np.concatenate([test for _, test in splits])) == list(range(n))
        for train, test in splits:
            assert not set(train) & set(test) and len(train) + len(test) == n
            if groups is not None:
                assert not set(groups[train]) & set(groups[test])

    def test_strata_are_dealt_evenly(self) -> None:
        z = np.repeat([0, 1], [90, 10])
        assert [int(z[test].sum()) for _, test in make_folds(100, 5, strata=z)] == [2] * 5


class TestMoments:
    @settings(max_examples=25)
    @given(seed=st.integers(0, 10_000), d=st.integers(2, 6), k=st.integers(1, 4))
    def test_canonical_correlations_are_cosines_of_the_angles(self, seed: int, d: int, k: int) -> None:
        rng = np.random.default_rng(seed)
        x, z = rng.normal(size=(30, d)), rng.normal(size=(30, k))
        angles = subspace_angles(x - x.mean(0), z - z.mean(0))
        np.testing.assert_allclose(canonical_correlations(x, z), np.sort(np.cos(angles))[::-1], atol=1e-6)

    def test_gap_in_standard_deviations(self) -> None:
        x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
        assert class_mean_gap(x, np.array([0, 2, 0]), scale=10.0) == pytest.approx(0.5)

    def test_edit_size_of_zeroing_is_one(self) -> None:
        x, _ = noise()
        centred = x - x.mean(0)
        edit, spread = edit_size(centred, 0 * centred)
        assert edit.sum() / spread.sum() == pytest.approx(1.0)


class TestLabels:
    @pytest.mark.parametrize("z", [[0, 1, 1], ["a", "b", "b"], [False, True, True], torch.tensor([5, 7, 7])])
    def test_classes(self, z: Any) -> None:
        labels = Labels.of(z, "z")
        assert labels.is_categorical and labels.values.tolist() == [0, 1, 1]

    def test_kind_overrides(self) -> None:
        assert not Labels.of([0.0, 1.0], "z").is_categorical
        assert Labels.of([0.0, 1.0], "z", kind="categorical").is_categorical
        assert not Labels.of([0, 1, 2], "z", kind="continuous").is_categorical

    @pytest.mark.parametrize(
        ("z", "options", "match"),
        [
            ([1, 1, 1], {}, "has 1 class"),
            ([[0, 1], [1, 0]], {}, "one label a row"),
            ([1.0, 1.0], {}, "constant"),
            ([1.0, float("nan")], {}, "NaN"),
            ([0, 1], {"classes": ("a",)}, "1 names"),
            (["a", "b"], {"kind": "continuous"}, "not numbers"),
        ],
    )
    def test_refused(self, z: Any, options: dict[str, Any], match: str) -> None:
        with pytest.raises(InputError, match=match):
            Labels.of(z, "z", **options)


class TestInput:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({}, "either erase="),
            ({"erase": keep, "fit": mean_eraser}, "not both"),
            ({"erase": lambda x: x[:, :2]}, "shape must stay"),
            ({"erase": lambda x: x / 0}, "NaN or infinite"),
            ({"erase": keep, "folds": 1}, "at least 2"),
            ({"erase": keep, "probes": ["forest"]}, "unknown probes"),
            ({"erase": keep, "groups": [1, 2]}, "groups has 2"),
            ({"erase": keep, "groups": np.arange(50) % 2}, "2 groups cannot be split into 5"),
            ({"erase": keep, "task": [1.0, 2.0]}, "2 labels for 50 rows"),
        ],
    )
    def test_says_what_to_write(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(InputError, match=match):
            efface.audit.rows(*signal(50), **options)

    def test_bad_data(self) -> None:
        x, z = signal(50)
        with pytest.raises(InputError, match=r"expected \(n, d\)"):
            efface.audit.rows(x[:, 0], z, keep)
        with pytest.raises(InputError, match="z has 49"):
            efface.audit.rows(x, z[1:], keep)
        with pytest.raises(InputError, match="1 of 50 rows"):
            efface.audit.rows(np.where(np.arange(50)[:, None] == 3, np.nan, x), z, keep)
        with pytest.raises(InputError, match="no row of concept = rare"):
            efface.audit.rows(x, np.where(np.arange(50) == 3, "rare", "usual"), keep)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_the_eraser_is_given_the_dtype_of_the_rows(self, dtype: torch.dtype) -> None:
        x, z = signal(60)
        seen: list[torch.dtype] = []
        efface.audit.rows(torch.from_numpy(x).to(dtype), z, lambda x: seen.append(x.dtype) or x, probes=["linear"])
        assert seen == [dtype]

    def test_numpy_erasers_will_do(self) -> None:
        x, z = signal(60)
        audit = efface.audit.rows(x, z, lambda x: np.zeros(x.shape), probes=["linear"])
        assert audit.find("linear probe", "accuracy", "after").side != 1

    def test_the_same_seed_gives_the_same_audit(self) -> None:
        first, again, other = (efface.audit.rows(*signal(60), keep, folds=2, seed=seed) for seed in (3, 3, 4))
        assert first == again != other


class TestWords:
    @pytest.mark.slow
    def test_what_is_left_is_said(self) -> None:
        x, z = xor(d=3)  # with more columns the error of the fit is large enough for the linear probe
        x[:, 2] += 1.5 * z
        said = efface.audit.rows(x, z, fit=mean_eraser, name="sex").conclusions
        assert said[0].startswith(
            "NOT erased: sex is out of reach of the linear probe, but the MLP probe still reads it"
        )
        assert said[1].startswith("The linear probe is at chance for sex after erasure")
        assert said[2].startswith("The MLP probe still reads sex after erasure")

    def test_what_is_gone_is_said_without_boasting(self) -> None:
        said = efface.audit.rows(*signal(), lambda x: 0 * x, name="sex").conclusions
        assert said[0].endswith("That is no proof that none can.")

    def test_nothing_erased_is_said(self) -> None:
        said = signal_audit().conclusions
        assert said[0] == "NOT erased: the linear probe and the MLP probe still find sex."

    def test_a_probe_that_read_nothing_before_says_so(self) -> None:
        said = efface.audit.rows(*noise(), keep, name="sex", probes=["linear"]).conclusions
        assert said[0].startswith("WARNING: too weak to judge: no probe tried here could read sex even before")
        assert said[1].startswith("The linear probe could not read sex even before")

    def test_a_fitted_eraser_is_trusted_and_that_is_said(self) -> None:
        assert any("cannot be checked" in c for c in efface.audit.rows(*signal(60), keep, probes=["linear"]).caveats)


class TestNoFalseComfort:
    """What looks like an erasure that works and is none."""

    def test_rows_of_the_fit_are_told(self) -> None:
        x, z = signal(400, 40)
        eraser = LeaceEraser.fit(x, z)
        own = efface.audit.rows(x, z, eraser, probes=["linear"], name="sex")
        assert own.conclusions[0].startswith("WARNING: these look like rows that the eraser was fitted on")
        assert own.find("linear probe", "accuracy", "after").verdict == "rows of the fit?"
        fresh = efface.audit.rows(*signal(400, 40, seed=1), eraser, probes=["linear"], name="sex")
        assert not any("fitted on" in said for said in fresh.conclusions)

    def test_a_quantity_gives_rows_of_the_fit_away_too(self) -> None:
        x, _ = noise(300, 5)
        z = x @ np.arange(5.0) + np.random.default_rng(1).normal(size=300)
        audit = efface.audit.rows(x, z, LeaceEraser.fit(x, z), probes=["linear"])
        assert audit.warnings and "fitted on" in audit.warnings[0]

    @pytest.mark.parametrize("extra", [0, 20])
    def test_rows_of_the_fit_among_few_others_are_told(self, extra: int) -> None:
        x, z = signal(200, 120, shift=2.5)
        y, w = signal(extra + 1, 120, shift=2.5, seed=1)
        eraser = LeaceEraser.fit(x, z)
        own = efface.audit.rows(np.r_[x, y], np.r_[z, w], eraser, probes=["linear"])
        assert own.conclusions[0].startswith("WARNING: these look like rows that the eraser was fitted on")

    @pytest.mark.parametrize("d", [1, 3, 100])
    def test_fresh_rows_are_not_taken_for_those_of_the_fit(self, d: int) -> None:
        for seed in range(60):
            x, z = noise(100, d, seed)
            assert not looks_fitted(x, np.eye(2)[z], free=True, seed=seed)

    @staticmethod
    def inside_and_fresh(d: int, fresh: int, seed: int) -> tuple[Finding, Finding]:
        """What `fit` finds of LEACE in 400 rows, and what fresh rows show of one fitted on a training fold of them."""
        x, z = signal(400, d, shift=2.5, seed=seed)
        inside = efface.audit.rows(x, z, fit=LeaceEraser.fit, probes=["linear"])
        eraser = LeaceEraser.fit(x[:320], z[:320])
        others = efface.audit.rows(*signal(fresh, d, shift=2.5, seed=seed + 100), eraser, probes=["linear"])
        found, truth = (audit.find("linear probe", "accuracy", "after") for audit in (inside, others))
        assert None not in (found.low, found.high, truth.low, truth.high)
        return found, truth

    @pytest.mark.parametrize("seed", range(3))
    def test_what_is_left_on_fresh_rows_is_found_without_them(self, seed: int) -> None:
        """Rows of the fit say "at chance", as class means are equal there; fresh ones are read, and `fit` says so."""
        found, truth = self.inside_and_fresh(120, 1500, seed)
        assert found.verdict == truth.verdict == "above chance"
        assert found.low <= truth.value <= found.high  # type: ignore[operator]

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_with_more_columns_than_rows_the_verdict_is_that_of_fresh_rows(self, seed: int) -> None:
        """Fresh rows are as few here. A probe has 160 rows inside and 320 of them, so intervals overlap at best."""
        found, truth = self.inside_and_fresh(600, 400, seed)
        assert found.verdict == truth.verdict == "above chance"
        assert found.low <= truth.high and truth.low <= found.high  # type: ignore[operator]

    @pytest.mark.parametrize("perfect", [lambda x: 0 * x, without_the_first])
    def test_a_perfect_eraser_is_at_chance_with_few_rows(self, perfect: Any) -> None:
        sides = [
            efface.audit.rows(
                *signal(120, 80, shift=3.0, seed=seed), fit=lambda *_: perfect, probes=["linear"], seed=seed
            ).find("linear probe", "accuracy", "after")
            for seed in range(4)
        ]
        assert all(found.side == 0 for found in sides)

    def test_fewer_rows_than_columns_are_told(self) -> None:
        x, z = signal(120, 80, shift=3.0)
        audit = efface.audit.rows(x, z, fit=lambda *_: lambda x: 0 * x, probes=["linear"])
        assert "48 rows for an eraser, and as many for a probe, are few for 80 columns" in audit.warnings[0]
        audit = efface.audit.rows(x[:, :40], z, fit=lambda *_: lambda x: 0 * x, probes=["linear"])
        assert not audit.warnings

    def test_below_chance_is_a_warning(self) -> None:
        x, z = signal(200, 60, shift=2.0)
        y, w = signal(40, 60, shift=2.0, seed=1)
        x, z, eraser = np.r_[x, y], np.r_[z, w], LeaceEraser.fit(x, z)
        groups = np.zeros(240, dtype=int)
        for label in (0, 1):  # groups with a row of each class, so that folds have as many of both
            groups[z == label] = np.arange((z == label).sum())
        audit = efface.audit.rows(x, z, eraser, groups=groups, probes=["linear"])
        after = audit.find("linear probe", "accuracy", "after")
        assert after.verdict == "below chance"
        assert any(w.startswith("WARNING: the linear probe does worse than any constant guess") for w in audit.warnings)

    def test_many_columns_are_read_at_a_penalty_that_suits_them(self) -> None:
        rng = np.random.default_rng(0)
        z = rng.integers(0, 4, 400)
        x = rng.normal(size=(400, 150)) + 0.3 * rng.normal(size=(4, 150))[z]
        bits = efface.audit.rows(x, z, keep, probes=["linear"]).find("linear probe", "information", "after")
        assert bits.side == 1 and bits.value > 0.5

    def test_penalties_do_not_come_from_rows_of_the_fit(self) -> None:
        """What is known by heart of words survives LEACE, though class means of the training rows are opposite."""
        rng = np.random.default_rng(0)
        words = rng.integers(0, 30, 400)
        x = rng.normal(size=(30, 10))[words] + 0.05 * rng.normal(size=(400, 10))
        audit = efface.audit.rows(x, words % 2, fit=LeaceEraser.fit, probes=["mlp"], folds=3)
        assert audit.find("MLP probe", "accuracy", "after").value > 0.9

    def test_a_rare_class_is_read_by_its_loss(self) -> None:
        rng = np.random.default_rng(0)
        z = (rng.random(600) < 0.1).astype(int)
        x = rng.normal(size=(600, 3))
        x[:, 0] += 1.6 * z
        audit = efface.audit.rows(x, z, keep, probes=["linear"], name="rare")
        assert audit.conclusions[0].startswith("NOT erased: the linear probe still finds rare")
        right, bits = (audit.find("linear probe", name, "after") for name in ("accuracy", "information"))
        assert right.side != 1 and right.verdict == "read by another score" and not bits.detail
        assert " bits (95% interval" in audit.conclusions[1]

    @pytest.mark.parametrize(
        ("before", "after", "caution"),
        [
            ((0.8, 0.7, 0.9), (0.5, 0.45, 0.55), ""),
            ((0.8, 0.7, 0.9), (0.65, 0.49, 0.81), "too few rows to judge"),
            ((0.9, 0.8, 0.95), (0.5, 0.34, 0.66), "too few rows to judge"),
            ((0.55, 0.45, 0.65), (0.5, 0.4, 0.6), "too weak to judge"),
            ((0.8, 0.7, 0.9), (0.2, 0.1, 0.3), ""),
            ((0.8, 0.7, 0.9), (0.45, 0.41, 0.495), "no better than a guess"),
        ],
    )
    def test_what_keeps_a_number_from_being_taken_at_its_word(self, before: Any, after: Any, caution: str) -> None:
        pair = [
            Finding("accuracy", value, "linear probe", side, low, high, chance=0.5, unit="share")
            for side, (value, low, high) in (("before", before), ("after", after))
        ]
        assert [f.caution for f in judged(pair, constant=0.48)] == ["", caution]
        reading = Reading.of(judged(pair, constant=0.48))
        assert reading.passes is (caution in ("", "no better than a guess") and after[0] > 0.3)
        assert reading.below is (after[0] < 0.3)

    def test_a_probe_may_read_what_it_could_not_before(self) -> None:
        x, z = noise()
        mark = torch.as_tensor(z)
        audit = efface.audit.rows(x, z, lambda rows: torch.cat([rows[:, 1:], mark[:, None]], 1), probes=["linear"])
        assert audit.warnings[0].startswith("NOT erased")

    @pytest.mark.parametrize("grouped", [False, True])
    def test_copies_across_folds_are_told(self, grouped: bool) -> None:
        x, z = (np.repeat(part, 2, axis=0) for part in signal(100))
        groups = np.repeat(np.arange(100), 2) if grouped else None
        audit = efface.audit.rows(x, z, fit=mean_eraser, groups=groups, probes=["linear"])
        assert any("copies of rows of their training fold" in said for said in audit.warnings) is not grouped

    def test_tables_of_few_values_have_no_copies(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.integers(0, 3, (300, 2)).astype(float)
        audit = efface.audit.rows(x, (x[:, 0] > rng.integers(0, 3, 300)), keep, probes=["linear"])
        assert not any("copies" in said for said in audit.warnings)

    def test_the_histogram_shows_what_is_read(self) -> None:
        """Class means of XOR lie upon one another; what the MLP probe makes of the rows does not."""
        audit = efface.audit.rows(*xor(400, 2), keep, folds=3)
        figure = next(f for f in audit.figures if f.kind == "histogram" and f.title.startswith("After"))
        assert "MLP probe" in figure.title
        first, second = (np.average(s.x, weights=s.y) for s in figure.series)
        assert second - first > 1

    def test_a_task_that_could_not_be_done_says_nothing(self) -> None:
        x, z = signal()
        said = efface.audit.rows(x, z, keep, task=noise(seed=5)[1], probes=["linear"]).conclusions
        assert said[-1].startswith("The task (task) could not be done even before")

    def test_an_identity_has_no_interval_that_is_a_point(self) -> None:
        audit = efface.audit.rows(*signal(), keep, task=signal()[0][:, 1], probes=["linear"])
        assert all(f.low is None or f.low < f.high for f in audit.findings)  # type: ignore[operator]

    def test_ctrl_c_in_a_network_is_not_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = "sklearn.neural_network._multilayer_perceptron.BaseMultilayerPerceptron._backprop"
        monkeypatch.setattr(network, lambda *_: signal_module.raise_signal(signal_module.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            efface.audit.rows(*signal(60), keep, probes=["mlp"])
