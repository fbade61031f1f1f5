"""ROC figures of gates."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

import efface
import efface.audit
from efface import Concept, InputError
from efface.audit.pipelines import Readings
from efface.audit.pipelines.detection import ALARM, AUROC, DETECTION, FIRED
from efface.stats.roc import auroc, auroc_interval
from tests.pipelines import run_of, tiny

RNG = np.random.default_rng(0)
PRESENT, ABSENT = RNG.normal(1.0, 1.0, 60).round(1), RNG.normal(-1.0, 1.0, 90).round(1)  # with ties


def test_area_and_curve_agree_with_scikit_learn() -> None:
    labels, values = np.r_[np.ones(60), np.zeros(90)], np.r_[PRESENT, ABSENT]
    assert auroc(PRESENT, ABSENT) == pytest.approx(roc_auc_score(labels, values))
    series = efface.audit.detection({"star": Readings(PRESENT, ABSENT)}).figures[0].series[0]
    fpr, tpr, _ = roc_curve(labels, values, drop_intermediate=False)
    assert series.x == pytest.approx(fpr) and series.y == pytest.approx(tpr)


def test_findings() -> None:
    audit = efface.audit.detection({"star": Readings(PRESENT, ABSENT)})
    assert audit.find(DETECTION, "star", FIRED).value == pytest.approx((PRESENT > 0).mean())
    assert audit.find(DETECTION, "star", ALARM).value == pytest.approx((ABSENT > 0).mean())
    finding = audit.find(DETECTION, "star", AUROC)
    assert finding.low < finding.value < finding.high <= 1  # type: ignore[operator]
    assert "star: the gate fires at" in audit.conclusions[0]


def test_the_interval_of_the_area_covers() -> None:
    true = 0.9213504  # of normals two standard deviations apart
    rng = np.random.default_rng(1)
    hits = [auroc_interval(rng.normal(2, 1, 50), rng.normal(0, 1, 50), seed=i) for i in range(60)]
    assert 0.88 <= np.mean([i.low <= true <= i.high for i in hits]) <= 1.0


def test_no_overlap_is_not_certainty() -> None:
    interval = auroc_interval(np.ones(20), np.zeros(20))
    assert interval.value == 1.0 and 0.8 < interval.low < 0.9


@pytest.mark.parametrize(
    ("readings", "says"),
    [
        ({}, "there are no readings"),
        ({"star": Readings([1.0] * 4, [0.0] * 9)}, "present of 'star' has shape .4,.: give at least 5"),
        ({"star": Readings([1.0] * 9, [np.nan] * 9)}, "absent of 'star' has values that are not finite"),
    ],
)
def test_bad_readings(readings: dict[str, Readings], says: str) -> None:
    with pytest.raises(InputError, match=says):
        efface.audit.detection(readings)


def test_the_gate_of_an_erasure() -> None:
    pipe = tiny("sd1")
    words = ["circle", Concept("star")]
    erasure = efface.erase(pipe, words, method="semantic-surgery", preset="published", threshold=0.2, active_from=0.7)
    present = {"circle": [f"a {c} circle" for c in COLOURS], "star": [f"a {c} star" for c in COLOURS]}
    absent = [f"a {c} square" for c in COLOURS]
    audit = efface.audit.gate(pipe, erasure, present=present, absent=absent)
    for name, prompts in present.items():
        run = run_of(pipe)
        erasure.edited(run.view.encode(prompts), run)
        fired = [name in note["erased"] for note in run.log.last]
        assert audit.find(DETECTION, name, FIRED).value == pytest.approx(np.mean(fired))
    with pytest.raises(InputError, match="several concepts are erased: write present="):
        efface.audit.gate(pipe, erasure, present=absent, absent=absent)
    with pytest.raises(InputError, match="present has no prompts of 'star'"):
        efface.audit.gate(pipe, erasure, present={"circle": absent}, absent=absent)
    with pytest.raises(InputError, match="acts on every prompt, and has no gate"):
        other = efface.erase(pipe, "circle", method="negative-prompt")
        efface.audit.gate(pipe, other, present=absent, absent=absent)


COLOURS = ("red", "blue", "green", "small", "big", "yellow")
