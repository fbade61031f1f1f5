"""Confidence intervals: Wilson for proportions, bootstrap over rows or groups for ratios of sums.

Accuracy, information in bits, R2 and edit size are all ratios of sums over rows, and so are their paired
differences; one bootstrap serves them all. Where all rows agree resampling sees no spread, and would say that it knows
the value exactly: shares and their changes then have Wilson's interval, and other numbers have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface._validate import check_int, check_positive_int, to_tensor
from efface.core.doors import check_call, fits, shown
from efface.core.labels import read_groups

Floats = NDArray[np.float64]

_NORMAL = NormalDist()
_RESAMPLED_AT_MOST = 4000
_CELLS = 2**22
_MOST_DRAWS = 1_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, the level, and how it was made."""

    value: float
    low: float
    high: float
    level: float
    method: str

    @property
    def has_width(self) -> bool:
        """Whether it says anything: one without width stands for a spread that was not seen, not for certainty."""
        return self.low < self.high


def wilson_interval(hits: float, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion.

    The set of p for which (p_hat - p)^2 <= z^2 p (1 - p) / n, with z the normal quantile of `(1 + level) / 2`.
    Source: Wilson, JASA 22 (1927). Equivalent to `scipy.stats.binomtest(hits, n).proportion_ci(level, "wilson")`.

    Args:
        hits: Number of successes, between 0 and `n`.
        n: Number of independent trials.
        level: Confidence level.

    Does not guarantee: coverage when the trials depend on each other; give `groups` to `proportion_interval` then.

    >>> i = wilson_interval(5, 10)
    >>> round(i.low, 3), round(i.high, 3)
    (0.237, 0.763)
    """
    check_positive_int(n, "n")
    check_call(wilson_interval, locals())
    if not 0 <= hits <= n:
        raise InputError(f"hits={hits} of n={n}: expected a number between 0 and n")
    z2 = _quantile(level) ** 2
    p = hits / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = float(np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2)))) / (1 + z2 / n)
    # Rounding must not leave an extreme proportion outside its own interval.
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)), level, f"Wilson, {n} rows")


def bootstrap_interval(
    numerator: ArrayLike,
    denominator: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of `sum(numerator) / sum(denominator)` by resampling rows, or whole groups of rows.

    Percentiles of the resampled ratio, taken further out than `(1 -+ level) / 2` so that few groups do not make the
    interval too short: at Phi(-+ sqrt(G / (G - 1)) t_{G - 1}) with G units (Hesterberg, arXiv:1411.5279, section 3.2).
    Above 4,000 units the same interval comes from the linearised standard error instead of resampling.

    Args:
        numerator: One value a row, `(n,)`.
        denominator: One value a row, `(n,)`; ones if not given, so that the ratio is a mean.
        groups: Group of each row, `(n,)`; rows of one group may depend on each other, groups may not.
        level: Confidence level.
        resamples: How many times to resample: at least `2 / (1 - level)`.
        seed: Seed of the resampling.

    Raises:
        InputError: If there are fewer than two units, lengths differ, the denominators sum to nothing, or so few
            resamples have no such percentiles.

    Does not guarantee: coverage for fewer than about ten groups, or for a ratio at the edge of its range.

    >>> bootstrap_interval([1.0, 2.0, 3.0, 4.0]).value
    2.5
    """
    check_call(bootstrap_interval, locals())
    sums = _unit_sums(numerator, denominator, groups)
    units = "rows" if groups is None else "groups"
    tail = expanded_tail(level, len(sums))
    check_draws(resamples, 1 - level, "resamples")
    totals = sums.sum(axis=0)
    if totals[1] <= 0:
        raise InputError("the denominators sum to zero: there is nothing to divide by")
    value = float(totals[0] / totals[1])
    if len(sums) > _RESAMPLED_AT_MOST:
        half = -_NORMAL.inv_cdf(tail) * _linearised_error(sums, value)
        return Interval(value, value - half, value + half, level, f"linearised standard error, {len(sums)} {units}")
    draws = _resampled_ratios(sums, resamples, seed)
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1 - tail])
    return Interval(value, float(low), float(high), level, f"bootstrap over {len(sums)} {units}")


def check_draws(draws: int, alpha: float, name: str = "draws") -> int:
    """As many resamples as have a percentile at each end, and no more than can be drawn.

    Raises:
        InputError: If there are fewer: the ends of their intervals would be those of a few draws. Or more.

    >>> check_draws(1, 0.05)
    Traceback (most recent call last):
    ...
    efface._errors.InputError: draws is 1: percentiles of 95% intervals need at least 40 resamples; 2000 are usual
    """
    least = math.ceil(2 / alpha - 1e-9)
    if check_positive_int(draws, name) < least:
        raise InputError(
            f"{name} is {draws}: percentiles of {100 * (1 - alpha):g}% intervals need at least {least} resamples; 2000 "
            "are usual"
        )
    if draws > _MOST_DRAWS:
        raise InputError(f"{name} is {draws}: write at most {_MOST_DRAWS:,}; 2000 are usual")
    return draws


def percentile_interval(value: float, draws: ArrayLike, method: str, *, level: float = 0.95) -> Interval:
    """Interval of an estimate by plain percentiles of its resampled values `(r,)`; it holds the estimate.

    >>> percentile_interval(2.0, [1.0, 2.0, 2.0, 3.0], "by hand", level=0.5).low
    1.75
    """
    tail = (1 - _level(level)) / 2
    check_draws(len(np.asarray(draws)), 1 - level, "the number of resamples")
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1 - tail])
    return Interval(value, min(value, float(low)), max(value, float(high)), level, method)


def paired_interval(
    after: ArrayLike, before: ArrayLike, denominator: ArrayLike | None = None, **options: Any
) -> Interval:
    """Interval of the change `sum(after - before) / sum(denominator)`, each row paired with itself.

    Takes the options of `bootstrap_interval`. For changes of a share there is `share_change_interval`.

    >>> paired_interval([1.0, 1.0, 0.0], [1.0, 0.0, 0.0]).value.__round__(3)
    0.333
    """
    check_call(paired_interval, locals())
    then, now = _floats(before, "before"), _floats(after, "after")
    if then.shape != now.shape:
        raise InputError(f"after has shape {now.shape}, before {then.shape}: give one row of each")
    gain = now - then
    interval = bootstrap_interval(gain, denominator, **options)
    return Interval(interval.value, interval.low, interval.high, interval.level, f"paired {interval.method}")


def proportion_interval(
    hits: ArrayLike, *, groups: ArrayLike | None = None, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of a share: Wilson for independent rows, bootstrap over groups otherwise.

    Groups that happen to agree show resampling too little spread, or none. So the interval is at least Wilson's over
    the rows; and if all rows hit or all miss, Wilson's with each *group* as one trial, which is wide on purpose.

    Args:
        hits: 0 or 1 for each row, `(n,)`.
        groups: Group of each row, if rows of one group may depend on each other.
        level: Confidence level.
        seed: Seed of the resampling.
    """
    hits = _floats(hits, "hits")
    rows = wilson_interval(float(hits.sum()), len(hits), level=level)
    if groups is None:
        return rows
    if rows.value in (0.0, 1.0):
        count = len(np.unique(read_groups(groups)))
        wide = wilson_interval(rows.value * count, count, level=level)
        return Interval(rows.value, wide.low, wide.high, level, f"Wilson, each of {count} groups as one trial")
    found = bootstrap_interval(hits, groups=groups, level=level, seed=seed)
    if not found.has_width:
        return rows
    # Percentiles of groups that are nearly all right can reach beyond what a share can be.
    low, high = max(0.0, min(found.low, rows.low)), min(1.0, max(found.high, rows.high))
    return Interval(found.value, low, high, level, found.method)


def mean_of_shares_interval(sets: Sequence[ArrayLike], *, level: float = 0.95) -> Interval:
    """Interval of the mean of shares of independent sets, each counting the same whatever its size.

    Squares of the distances from each share to the ends of its Wilson interval add up, as variances do.
    Source: Zou and Donner, Statistics in Medicine 27 (2008). Of one set it is Wilson's.

    Args:
        sets: 0 or 1 for each row, `(n,)`, for each set.
        level: Confidence level.

    >>> mean_of_shares_interval([[1, 1, 1, 1], [1, 0, 1, 0]]).value
    0.75
    """
    hits = [_floats(found, "hits") for found in sets]
    parts = [wilson_interval(float(h.sum()), len(h), level=level) for h in hits]
    value = float(np.mean([p.value for p in parts]))
    below, above = ([(getattr(p, end) - p.value) / len(parts) for p in parts] for end in ("low", "high"))
    low, high = value - float(np.linalg.norm(below)), value + float(np.linalg.norm(above))
    said = f"Wilson, {len(parts)} sets, {sum(map(len, hits))} rows"
    return Interval(value, max(0.0, low), min(1.0, high), level, said)


def share_change_interval(
    after: ArrayLike, before: ArrayLike, *, groups: ArrayLike | None = None, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of the change of a share, each row paired with itself.

    Where all rows change alike (as when none does) there is nothing to resample: then it is Wilson's for so many rows
    (or groups) that all hit, on that side of the change, or on both if there is none.

    Args:
        after: 0 or 1 for each row, `(n,)`.
        before: The same.
        groups: As for `proportion_interval`.
        level: Confidence level.
        seed: Seed of the resampling.

    >>> interval = share_change_interval([1, 1, 0, 0], [1, 1, 0, 0])
    >>> round(interval.low, 2), interval.value, round(interval.high, 2)
    (-0.49, 0.0, 0.49)
    """
    found = paired_interval(after, before, groups=groups, level=level, seed=seed)
    if found.has_width:
        return found
    units = len(np.asarray(after)) if groups is None else len(np.unique(read_groups(groups)))
    wide = wilson_interval(abs(found.value) * units, units, level=level)
    low, high = (-wide.high, wide.high) if found.value == 0 else (wide.low, wide.high)
    if found.value < 0:
        low, high = -wide.high, -wide.low
    said = f"Wilson's limit for {units} {'rows' if groups is None else 'groups'} that change alike"
    return Interval(found.value, low, high, level, said)


def _floats(values: ArrayLike, name: str) -> Floats:
    found = to_tensor(values, name)
    if found.is_complex():
        raise InputError(f"{name} is complex, expected real numbers: pass its real part, or its absolute value")
    return found.double().numpy(force=True)


def _unit_sums(numerator: ArrayLike, denominator: ArrayLike | None, groups: ArrayLike | None) -> Floats:
    top = _floats(numerator, "numerator")
    bottom = np.ones_like(top) if denominator is None else _floats(denominator, "denominator")
    if top.ndim != 1 or top.shape != bottom.shape:
        raise InputError(f"numerator {top.shape} and denominator {bottom.shape}: expected two of shape (n,)")
    sums = np.stack([top, bottom], axis=1)
    if groups is not None:
        codes = np.unique(read_groups(groups), return_inverse=True)[1]
        if codes.shape != top.shape:
            raise InputError(f"groups have shape {codes.shape}, expected one for each of the {len(top)} rows")
        sums = np.stack([np.bincount(codes, column) for column in sums.T], axis=1).astype(np.float64)
    if len(sums) < 2:
        raise InputError(f"an interval needs at least two independent rows or groups, got {len(sums)}")
    return sums


def _resampled_ratios(sums: Floats, resamples: int, seed: int) -> Floats:
    rng, units = np.random.default_rng(check_int(seed, "seed", least=0)), len(sums)
    step = max(1, _CELLS // units)
    parts = [
        rng.multinomial(units, np.full(units, 1 / units), size=min(step, resamples - start)) @ sums
        for start in range(0, resamples, step)
    ]
    top, bottom = np.concatenate(parts).T
    # A resample without any denominator says nothing about the ratio.
    return top[bottom > 0] / bottom[bottom > 0]


def _linearised_error(sums: Floats, value: float) -> float:
    residual = sums[:, 0] - value * sums[:, 1]
    units = len(sums)
    return float(np.sqrt(units / (units - 1) * (residual**2).sum()) / sums[:, 1].sum())


def expanded_tail(level: float, units: int) -> float:
    """Share of resampled values to leave out at each end, so that few units do not make the interval too short."""
    return _NORMAL.cdf(-float(np.sqrt(units / (units - 1))) * student_quantile((1 + _level(level)) / 2, units - 1))


def _quantile(level: float) -> float:
    return _NORMAL.inv_cdf((1 + _level(level)) / 2)


def _level(level: float) -> float:
    if not fits(level, float) or not 0 < level < 1:
        raise InputError(f"level is {shown(level)}, expected a number between 0 and 1, e.g. 0.95")
    return level


def student_quantile(p: float, dof: int) -> float:
    """Quantile of Student's t.

    Exact for one and two degrees of freedom; above, the expansion of Abramowitz and Stegun 26.7.5 (error under 1 %
    at three degrees, under 0.1 % from five).

    >>> round(student_quantile(0.975, 23), 3)
    2.069
    """
    if dof in _EXACT:
        return _EXACT[dof](p)
    z = _NORMAL.inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / dof**power for power, term in enumerate(terms))


_EXACT: dict[int, Callable[[float], float]] = {
    1: lambda p: float(np.tan(np.pi * (p - 0.5))),
    2: lambda p: float((2 * p - 1) * np.sqrt(2 / (4 * p * (1 - p)))),
}
