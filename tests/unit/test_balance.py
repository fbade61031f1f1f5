"""The harmonic mean of completeness, generality and locality."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from efface import InputError
from efface.audit.pipelines.balance import harmonic, harmonic_interval
from efface.stats.intervals import wilson_interval


def test_the_published_numbers() -> None:
    # Semantic Surgery, table 1 without feedback, H of means: 4.0, 6.4, 87.38 -> 92.18
    assert float(harmonic(1 - 0.04, 1 - 0.064, 0.8738)) == pytest.approx(0.9218, abs=1e-4)
    assert float(harmonic(0.3, 0.7, 0.9)) == pytest.approx(stats.hmean([0.3, 0.7, 0.9]))


def test_nothing_erased_or_nothing_kept_is_zero() -> None:
    assert float(harmonic(0.0, 1.0, 1.0)) == 0 == float(harmonic(1.0, 1.0, 0.0))


def test_the_interval_covers() -> None:
    rng, shares, n = np.random.default_rng(0), (0.9, 0.8, 0.7), 120
    true = float(harmonic(*shares))
    intervals = [harmonic_interval([[rng.random(n) < p] for p in shares]) for _ in range(200)]
    assert np.mean([i.low <= true <= i.high for i in intervals]) >= 0.95
    assert np.mean([i.high - i.low for i in intervals]) < 0.2


@pytest.mark.parametrize("n", [2, 4, 16])
@pytest.mark.parametrize("hit", [0, 1])
def test_agreement_is_no_certainty(n: int, hit: int) -> None:
    """H of parts that all say 100 % (or 0 %) is as open as each of them, never a point."""
    interval, part = harmonic_interval([[[hit] * n], [[hit] * n]]), wilson_interval(n * hit, n)
    assert (interval.low, interval.high) == (pytest.approx(part.low), pytest.approx(part.high))


def test_every_part_may_lie_at_the_end_of_its_interval() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sets = [rng.random(rng.integers(2, 30)) < p for p in (1.0, 0.9, 0.3)]
        parts = [wilson_interval(float(s.sum()), len(s)) for s in sets]
        whole = harmonic_interval([[s] for s in sets])
        for i, part in enumerate(parts):
            for end in (part.low, part.high):
                moved = [end if j == i else p.value for j, p in enumerate(parts)]
                assert whole.low - 1e-9 <= float(harmonic(*moved)) <= whole.high + 1e-9


def test_sets_count_evenly_whatever_their_size() -> None:
    interval = harmonic_interval([[[1] * 10], [[1] * 10, [0] * 1000]])
    assert interval.value == pytest.approx(stats.hmean([1.0, 0.5]))


@pytest.mark.parametrize(
    ("groups", "says"),
    [([[]], "group 0 needs"), ([[[1, 1]], [[1]]], "group 1 needs"), ([[[2, 2]]], "outside of 0 to 1")],
)
def test_bad_input(groups: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        harmonic_interval(groups)  # type: ignore[arg-type]
