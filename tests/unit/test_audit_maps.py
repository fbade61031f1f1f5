"""The audit of maps: shares and differences as a hand would count them, and words that follow from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import efface.audit
from efface import InputError
from efface.audit.audit import Audit
from efface.audit.explanations import Measured, Subject
from efface.stats.intervals import paired_interval, wilson_interval

FRACTIONS = (0.01, 0.05, 0.2)


def hits(share: float, n: int) -> np.ndarray:
    """The first rows hit, at every fraction."""
    return np.repeat((np.arange(n) < round(share * n)).astype(float)[:, None], len(FRACTIONS), 1)


def measured(keep: float, drop: float, n: int = 40, size: float | None = None) -> Measured:
    return Measured(hits(keep, n), hits(drop, n), None if size is None else np.full(n, size))


def subject(keep: float = 0.9, n: int = 40, name: str = "", method: str = "qfa", size: float | None = 0.2) -> Subject:
    controls = {"random": measured(0.1, 0.9, n), "brightness": measured(0.4, 0.5, n)}
    return Subject(name, {method: measured(keep, 0.3, n, size)}, controls)


def audited(*subjects: Subject, **more: Any) -> Audit:
    return efface.audit.maps(subjects or (subject(),), FRACTIONS, **more)


def test_numbers_are_shares_with_wilsons_interval() -> None:
    audit = audited()
    kept = audit.find("map", "qfa", "5% kept")
    assert (kept.value, kept.low, kept.high) == pytest.approx(
        [getattr(wilson_interval(36, 40), k) for k in ("value", "low", "high")]
    )
    assert kept.n == 40 and audit.find("map", "qfa", "5% removed").value == pytest.approx(0.3)
    assert audit.find("control", "random", "5% kept").value == pytest.approx(0.1)
    assert audit.find("map", "qfa", "mask keeps").value == pytest.approx(0.2)


def test_the_difference_is_paired_with_the_best_control() -> None:
    over = audited().find("map", "qfa", "over the best control")
    expected = paired_interval(hits(0.9, 40)[:, 1], hits(0.4, 40)[:, 1])
    assert (over.value, over.low, over.high) == (expected.value, expected.low, expected.high)
    assert over.verdict == "higher than the control" and "brightness" in over.note


def test_a_map_that_is_no_better_is_called_so() -> None:
    assert audited(subject(0.9)).conclusions[0].startswith("qfa: the 5% of pixels")
    assert audited(subject(0.4)).conclusions[0].startswith("NOT clearly better than a control. qfa")
    assert audited(subject(0.1)).find("map", "qfa", "over the best control").verdict == "lower than the control"
    assert audited(subject(0.1)).conclusions[0].startswith("NOT clearly better")


def test_few_images_have_no_differences_and_a_warning() -> None:
    audit = audited(subject(n=9))
    assert not [f for f in audit.findings if f.condition == "over the best control"]
    assert audit.conclusions[-1].startswith("9 images are few")
    assert not [c for c in audited().conclusions if "few" in c]
    assert audited(subject(n=1)).conclusions[-1].startswith("1 image is few")


def test_an_empty_mask_is_told() -> None:
    assert any("keep 0.4% of the images" in c for c in audited(subject(size=0.004)).conclusions)
    assert not any("NOT much to explain" in c for c in audited().conclusions)


def test_a_second_model_is_compared_with_its_own_controls() -> None:
    copy = Subject(
        "the copy", {"diet": measured(0.9, 0.3)}, {"random": measured(0.95, 0.9), "edge": measured(0.1, 0.9)}
    )
    audit = audited(subject(), copy)
    assert audit.find("map on the copy", "diet", "over the best control").verdict != "higher than the control"
    assert "random" in audit.conclusions[1]
    shown = {f.name: f.detail for f in audit.findings if f.family == "control on the copy"}
    assert shown == {"random": False, "edge": True}
    alone = {f.name: f.detail for f in audited(copy).findings if f.family == "control on the copy"}
    assert alone == {"random": False, "edge": False}


def test_curves_hold_every_method_the_best_control_and_chance() -> None:
    keep, drop = audited().figures
    assert [s.label for s in keep.series] == ["qfa", "brightness (control)", "random (control)"]
    assert keep.series[0].x == (1.0, 5.0, 20.0) and drop.series[0].y == pytest.approx((0.3,) * 3)
    assert [row[0] for row in audited().tables[0].rows] == ["qfa", "random", "brightness"]


def test_the_audit_survives_json() -> None:
    assert Audit.from_dict(audited().to_dict()) == audited()


@pytest.mark.parametrize(
    ("subjects", "says"),
    [
        ((), "no maps"),
        ((Subject("", {}, {"random": measured(0.1, 0.9)}),), "no maps"),
        ((Subject("", {"qfa": measured(0.9, 0.3)}),), "has no controls"),
        ((Subject("", {"qfa": measured(0.9, 0.3, 12)}, {"random": measured(0.1, 0.9, 11)}),), "11, 12"),
        (
            (Subject("", {"qfa": Measured(np.zeros((4, 2)), hits(0, 4))}, {"r": measured(0, 0, 4)}),),
            "expected \\(n, 3\\)",
        ),
        ((Subject("", {"qfa": Measured(2 + hits(0, 4), hits(0, 4))}, {"r": measured(0, 0, 4)}),), "outside \\[0, 1\\]"),
        ((Subject("", {"qfa": Measured(hits(0, 4), hits(0, 4), [0.1])}, {"r": measured(0, 0, 4)}),), "size of qfa"),
    ],
)
def test_what_cannot_be_audited(subjects: tuple[Subject, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        efface.audit.maps(subjects, FRACTIONS)


def test_the_headline_must_be_measured() -> None:
    with pytest.raises(InputError, match="none of the fractions"):
        audited(at=0.1)
