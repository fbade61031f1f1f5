"""The area under the ROC curve: how often a value with the concept is above one without."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface.stats.intervals import Interval, percentile_interval, wilson_interval

Floats = NDArray[np.float64]

_RESAMPLES = 2000


def auroc(present: ArrayLike, absent: ArrayLike) -> float:
    """Probability that a value of the first is above one of the second, ties counting half (Mann and Whitney).

    Equivalent to `sklearn.metrics.roc_auc_score`, from two lists of values instead of labels.

    Args:
        present: One value for each case with the concept, `(n,)`; finite.
        absent: The same for cases without it, `(m,)`.

    >>> auroc([2.0, 3.0], [1.0, 2.0])
    0.875
    """
    p: Floats = np.asarray(present, dtype=np.float64)
    a: Floats = np.sort(np.asarray(absent, dtype=np.float64))
    below, upto = (int(np.searchsorted(a, p, side=side).sum()) for side in ("left", "right"))
    pairs = len(p) * len(a)
    return below / pairs + 0.5 * ((upto - below) / pairs)


def auroc_interval(
    present: ArrayLike, absent: ArrayLike, *, level: float = 0.95, seed: int = 0, unit: str = "rows"
) -> Interval:
    """The area with its interval, both kinds resampled; where nothing overlaps, Wilson's of the fewer kind.

    Args:
        present: `(n,)`, as for `auroc`.
        absent: `(m,)`.
        level: Confidence level.
        seed: Seed of the resampling.
        unit: What the values are of, for the name of the method.
    """
    p, a = (np.asarray(x, dtype=np.float64) for x in (present, absent))
    value, rng = auroc(p, a), np.random.default_rng(seed)
    if value in (0.0, 1.0):
        n = min(len(p), len(a))
        wide = wilson_interval(value * n, n, level=level)
        return Interval(value, wide.low, wide.high, level, wide.method)
    draws = [auroc(rng.choice(p, len(p)), rng.choice(a, len(a))) for _ in range(_RESAMPLES)]
    return percentile_interval(value, draws, f"bootstrap over {len(p)} and {len(a)} {unit}", level=level)
