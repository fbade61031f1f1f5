"""The harmonic mean of completeness, generality and locality."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from efface import InputError
from efface.audit.pipelines.balance import harmonic, harmonic_interval


def test_the_published_numbers() -> None:
    # Semantic Surgery, table 1 without feedback, H of means: 4.0, 6.4, 87.38 -> 92.18
    assert float(harmonic(1 - 0.04, 1 - 0.064, 0.8738)) == pytest.approx(0.9218, abs=1e-4)
    assert float(harmonic(0.3, 0.7, 0.9)) == pytest.approx(stats.hmean([0.3, 0.7, 0.9]))


def test_nothing_erased_or_nothing_kept_is_zero() -> None:
    assert float(harmonic(0.0, 1.0, 1.0)) == 0 == float(harmonic(1.0, 1.0, 0.0))


def test_the_interval_covers() -> None:
    rng, shares, n = np.random.default_rng(0), (0.9, 0.8, 0.7), 120
    true = float(harmonic(*shares))
    intervals = [harmonic_interval([[rng.random(n) < p] for p in shares], resamples=400, seed=i) for i in range(200)]
    assert 0.90 <= np.mean([i.low <= true <= i.high for i in intervals]) <= 0.99


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
