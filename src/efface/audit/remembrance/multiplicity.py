"""Many claims at once: adjusted p-values by statsmodels, simultaneous intervals by the largest error of a resample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._lazy import require
from efface.audit.remembrance.columns import EXTRA

Floats = NDArray[np.float64]
Rule = Literal["holm", "bh", "by"]
_NAMES = {"holm": "holm", "bh": "fdr_bh", "by": "fdr_by"}


def adjusted(p: ArrayLike, rule: Rule) -> Floats:
    """P-values adjusted for how many there are.

    Args:
        p: `(m,)`.
        rule: `"holm"` (chance of any false claim), `"bh"` (share of false claims, Benjamini and Hochberg 1995) or
            `"by"` (the same whatever the dependence, Benjamini and Yekutieli 2001).

    >>> adjusted([0.01, 0.04], "holm").tolist(), adjusted([], "bh").tolist()
    ([0.02, 0.04], [])
    """
    p = np.asarray(p, dtype=np.float64)
    if not len(p):
        return p
    tests = require("statsmodels.stats.multitest", extra=EXTRA)
    return tests.multipletests(p, method=_NAMES[rule])[1]


def one_budget(smallest: Sequence[float]) -> list[float]:
    """By what to multiply the p-values of each family of claims, so that all families have one error budget.

    A family is looked into where its smallest p-value is, by Benjamini and Hochberg over families; of m families R are,
    and their claims are made at R / m of the level. If nothing is there, any claim of any family is then as rare as the
    level says, and of families that are looked into the average error is. Source: Benjamini and Bogomolov, JRSS B 76
    (2014).

    Args:
        smallest: The smallest adjusted p-value of each family over the level of its claims; NaN where nothing was
            tested, which counts as no family.

    >>> one_budget([0.4, 2.0]), one_budget([0.9, 0.6]), one_budget([0.9, float("nan")])
    ([2.0, 1.0], [1.0, 1.0], [1.0, 1.0])
    """
    values = np.asarray(smallest, dtype=np.float64)
    there = np.flatnonzero(np.isfinite(values))
    rank = np.empty(len(values), dtype=np.int64)
    rank[there[np.argsort(values[there], kind="stable")]] = np.arange(1, len(there) + 1)
    chosen = [k for k in rank[there] if values[there][rank[there] == k][0] <= k / len(there)]
    looked_into = int(max(chosen, default=0))
    return [
        1.0 if i not in there else len(there) / (looked_into if rank[i] <= looked_into else int(rank[i]))
        for i in range(len(values))
    ]


def max_t(draws: ArrayLike, errors: ArrayLike, *, level: float, two_sided: bool) -> float:
    """How many standard errors a simultaneous bound lies away from its estimate.

    The quantile at `level` over resamples of `max_c e_c / se_c` (or of `|e_c|`), with e_c how far a resampled value
    of class c is above its estimate.

    Args:
        draws: Resampled values less the estimates, `(c, r)`; NaN where a resample has nothing of a class.
        errors: Standard errors, `(c,)`, above 0.
        level: Confidence level.
        two_sided: Whether errors below count as well.
    """
    scaled = np.asarray(draws, dtype=np.float64) / np.asarray(errors, dtype=np.float64)[:, None]
    largest = np.nanmax(np.abs(scaled) if two_sided else scaled, axis=0, initial=0.0)
    return float(np.quantile(largest, level))
