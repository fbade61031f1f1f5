"""Which digits go with an eraser of one: a known case, where a broad eraser takes too much and a placebo nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from efface import InputError, LeaceFitter
from efface.audit import Audit
from efface.audit.remembrance.probed import remembered_by_probes

Rows = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def digits() -> Rows:
    """Random features of digits, of which the later are rarer: ten classes with a head and a tail."""
    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    rng = np.random.default_rng(0)
    x = np.maximum(0, (images / 16) @ rng.normal(size=(64, 48)) / 8 + 0.1)
    sizes = np.geomspace(170, 24, 10).astype(int)
    kept = np.concatenate([np.flatnonzero(labels == k)[: sizes[k]] for k in range(10)])
    return x[kept], labels[kept]


def erase(*gone: int) -> Any:
    """LEACE of which of these a digit is, or none."""

    def fit(x: np.ndarray, z: np.ndarray) -> Any:
        of = torch.tensor(sum((z == str(k)) * (i + 1) for i, k in enumerate(gone))).long()
        eraser = LeaceFitter.fit(torch.tensor(x), of).eraser
        return lambda rows: eraser(torch.tensor(rows))

    return fit


def audited(digits: Rows, *gone: int, **options: Any) -> Audit:
    return remembered_by_probes(
        *digits, erase(*gone), target=[3], held_out=0.5, **{"probes": ["multiclass"], "draws": 200, **options}
    )


def change(audit: Audit, part: str, family: str) -> float:
    return next(p for p in audit.parts if p.title == part).find(family, "remembered", "change").value


@pytest.fixture(scope="module")
def narrow(digits: Rows) -> Audit:
    return audited(digits, 3)


def test_a_digit_goes_for_the_fixed_probe_and_less_for_one_that_is_fitted_anew(narrow: Audit) -> None:
    fixed, refitted = (change(narrow, f"multiclass, {how}", "target") for how in ("fixed", "refitted"))
    assert fixed < -0.6 and fixed < refitted - 0.2
    assert not [t for part in narrow.walk() for t in part.tables if t.title == "Suppressed"]


def test_an_eraser_of_four_digits_takes_three_too_many_and_most_from_the_rare(digits: Rows, narrow: Audit) -> None:
    broad = audited(digits, 3, 5, 8, 9).parts[0]
    named = {row[0] for part in broad.walk() for t in part.tables if t.title == "Suppressed" for row in t.rows}
    assert len(named) >= 2 and named <= {"5", "8", "9"}
    lost = broad.find("bystanders", "remembered", "change").value
    assert lost < change(narrow, "multiclass, fixed", "bystanders") - 0.05
    assert broad.find("popularity", "slope", "change").value > 0.5
    assert any("suppressed" in line for line in broad.warnings)


def test_probes_a_class_and_placebos(digits: Rows) -> None:
    audit = audited(digits, 3, probes=["one against the rest"], placebos=2)
    refitted = audit.parts[1]
    assert refitted.find("target", "remembered", "after").value < 0.1  # what LEACE guards
    assert any(table.title == "Next to placebos" for part in refitted.walk() for table in part.tables)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"probes": ["forest"]}, "probes has forest"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"target": [11]}, "which is none of the ids"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_what_cannot_be_audited_is_refused(digits: Rows, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        remembered_by_probes(*digits, erase(3), **{"target": [3], **options})


def test_a_class_of_three_rows_is_refused() -> None:
    with pytest.raises(InputError, match="class b has 3 rows"):
        remembered_by_probes(np.zeros((13, 2)), ["a"] * 10 + ["b"] * 3, lambda x, z: lambda rows: rows)
