"""`efface.audit.similarity`: what an edit of embeddings does to cosine similarities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import efface.audit
from efface import InputError

FAMILY = "cosine similarity"


def rows(n: int = 40, d: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_cosines_are_those_of_numpy() -> None:
    x, y = rows(), rows(seed=1)
    audit = efface.audit.similarity(x, y, pairs=[(0, 1), (2, 3)])
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(x, y, strict=True)]
    assert audit.find(FAMILY, "with itself", "after").value == pytest.approx(np.mean(cosine))
    unit = y / np.linalg.norm(y, axis=1, keepdims=True)
    similar = unit @ unit.T
    assert audit.find(FAMILY, "pairs", "after").value == pytest.approx((similar[0, 1] + similar[2, 3]) / 2)
    others = (similar.sum() - len(y)) / (len(y) * (len(y) - 1))
    assert audit.find(FAMILY, "all others", "after").value == pytest.approx(others)


def test_the_order_is_the_correlation_of_each_row() -> None:
    x, y = rows(6), rows(6, seed=1)

    def similar(z: np.ndarray, i: int) -> np.ndarray:
        return np.array([z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j]) for j in range(6) if j != i])

    expected = np.mean([np.corrcoef(similar(x, i), similar(y, i))[0, 1] for i in range(6)])
    assert efface.audit.similarity(x, y).find(FAMILY, "order of the others", "after").value == pytest.approx(expected)


def test_a_rotation_changes_no_similarity() -> None:
    x = rows()
    turn = np.linalg.qr(rows(8, 8, seed=2))[0]
    audit = efface.audit.similarity(x, x @ turn, pairs=[(0, 1), (2, 3)])
    assert audit.find(FAMILY, "order of the others", "after").value == pytest.approx(1)
    assert audit.find(FAMILY, "pairs", "change").verdict == "no clear change"
    assert audit.find(FAMILY, "with itself", "after").value < 0.9


def test_what_erasing_the_difference_of_pairs_does_is_seen() -> None:
    x = rows(20)
    x[1::2] = x[::2]
    x[::2, 0] += 2
    y = x.copy()
    y[:, 0] = 0
    audit = efface.audit.similarity(x, y, pairs=[(i, i + 1) for i in range(0, 20, 2)])
    assert audit.find(FAMILY, "pairs", "change").verdict == "higher than before"
    assert audit.find(FAMILY, "pairs", "after").value == pytest.approx(1)
    assert "differ in the concept alone" in " ".join(audit.conclusions)


def test_another_width_after_leaves_out_what_cannot_be_compared() -> None:
    audit = efface.audit.similarity(rows(), torch.from_numpy(rows(d=3, seed=1)))
    assert {f.name for f in audit.findings} == {"order of the others", "all others"}


def test_equally_near_others_have_no_order_to_lose() -> None:
    assert efface.audit.similarity(np.eye(5), np.eye(5)).find(FAMILY, "order of the others", "after").value == 1
    assert efface.audit.similarity(np.eye(5), rows(5, 5)).find(FAMILY, "order of the others", "after").value == 0


def test_groups_widen_the_interval_of_rows_that_depend() -> None:
    x = np.repeat(rows(10), 20, axis=0)
    y = np.repeat(rows(10, seed=1), 20, axis=0)
    alone = efface.audit.similarity(x, y).find(FAMILY, "with itself", "after")
    grouped = efface.audit.similarity(x, y, groups=np.repeat(np.arange(10), 20)).find(FAMILY, "with itself", "after")
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("before", "after", "options", "says"),
    [
        (rows(), rows(39), {}, "39: give the same embeddings"),
        (rows(2), rows(2), {}, "at least 3"),
        (np.zeros((4, 2)), rows(4, 2), {}, "before has a row of zeros"),
        (rows(), np.full((40, 8), np.nan), {}, "after"),
        (rows(), rows(), {"pairs": [(0, 40)]}, "between 0 and 39"),
        (rows(), rows(), {"pairs": [0, 1]}, "expected \\(p, 2\\)"),
        (rows(), rows(), {"groups": [1, 2]}, "expected \\(40,\\)"),
    ],
)
def test_bad_input(before: np.ndarray, after: np.ndarray, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        efface.audit.similarity(before, after, **options)


def test_tiny_and_huge_embeddings_have_directions_and_complex_ones_are_refused() -> None:
    x = rows()
    audit = efface.audit.similarity(x * 1e-200, x * 1e200)
    assert audit.find(FAMILY, "with itself", "after").value == pytest.approx(1.0)
    with pytest.raises(InputError, match="before is complex"):
        efface.audit.similarity(x * 1j, x)
