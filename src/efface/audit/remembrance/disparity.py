"""S6: do losses fall on one group? Differences between groups, raw and within strata of popularity."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_NUMBERS = 2**22


def difference(change: ArrayLike, n: ArrayLike, member: ArrayLike, stratum: ArrayLike) -> float:
    """Mean change of a group less that of the others, within strata.

    `sum_h omega_h (D_gh - D_g'h)` with D the mean over queries, and `omega_h` the share of queries in stratum h, of
    strata that have both. With a single stratum it is the raw difference.

    Args:
        change: Mean change of each entity, `(m,)`.
        n: Queries of each.
        member: Whether it is of the group.
        stratum: Whole numbers from 0.

    >>> difference([-0.2, -0.2, 0.0, 0.0], [10, 10, 10, 10], [True, False, True, False], [0, 0, 1, 1])
    0.0
    """
    return float(_differences(change, n, np.asarray(member, dtype=np.float64)[:, None], stratum)[0])


def _differences(change: ArrayLike, n: ArrayLike, members: Floats, stratum: ArrayLike) -> Floats:
    """The same for many groupings, `(m, r)`."""
    n, stratum = np.asarray(n, dtype=np.float64), np.asarray(stratum)
    sums = np.asarray(change, dtype=np.float64) * n
    total, weight = np.zeros(members.shape[1]), np.zeros(members.shape[1])
    for one in np.unique(stratum):
        there = stratum == one
        inside, other = members[there], 1 - members[there]
        many, few = n[there] @ inside, n[there] @ other
        both = (many > 0) & (few > 0)
        gap = sums[there] @ inside / np.where(both, many, 1) - sums[there] @ other / np.where(both, few, 1)
        total += np.where(both, (many + few) * gap, 0.0)
        weight += np.where(both, many + few, 0.0)
    return total / np.where(weight > 0, weight, 1)


def permutation_p(
    change: ArrayLike, n: ArrayLike, member: ArrayLike, stratum: ArrayLike, *, permutations: int, seed: int
) -> float:
    """How often membership drawn anew within each stratum makes as large a difference.

    `(1 + #{|D*| >= |D|}) / (permutations + 1)`, two-sided.
    """
    member, stratum = np.asarray(member, dtype=np.float64), np.asarray(stratum)
    own = abs(difference(change, n, member, stratum)) - 1e-12
    rng, step, reached = np.random.default_rng(seed), max(1, _NUMBERS // max(1, len(member))), 0
    for start in range(0, permutations, step):
        drawn = np.repeat(member[:, None], min(step, permutations - start), axis=1)
        for one in np.unique(stratum):
            there = np.flatnonzero(stratum == one)
            drawn[there] = rng.permuted(drawn[there], axis=0)
        reached += int((np.abs(_differences(change, n, drawn, stratum)) >= own).sum())
    return (1 + reached) / (permutations + 1)


def common_odds_ratio(missed: ArrayLike, rows: ArrayLike, others_missed: ArrayLike, others: ArrayLike) -> Floats:
    """Odds of omission of a group over those of the others, common to all strata.

    With a omitted and b remembered of the group, c and d of the others, and N all of a stratum:
    `sum_h a_h d_h / N_h / sum_h b_h c_h / N_h`. Source: Mantel and Haenszel, JNCI 22 (1959). Equivalent to
    `statsmodels.stats.contingency_tables.StratifiedTable(...).oddsratio_pooled`.

    Args:
        missed: Omitted rows of the group, `(strata, ...)`; what comes after is kept, e.g. resamples.
        rows: All rows of the group.
        others_missed: Omitted rows of the others.
        others: All rows of the others.

    Returns:
        `(...)`; NaN where it is not defined.

    >>> float(common_odds_ratio([2.0], [12.0], [1.0], [11.0]))
    2.0
    """
    a, m, c, k = (np.asarray(each, dtype=np.float64) for each in (missed, rows, others_missed, others))
    whole = np.where(m + k > 0, m + k, 1)
    top, bottom = (a * (k - c) / whole).sum(axis=0), ((m - a) * c / whole).sum(axis=0)
    return np.where((top > 0) & (bottom > 0), top / np.where(bottom > 0, bottom, 1), np.nan)
