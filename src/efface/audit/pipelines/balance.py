"""Completeness, generality and locality of an erasure in one number, with the interval that the three share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface.stats.intervals import Interval, mean_of_shares_interval

Floats = NDArray[np.float64]
_LEAST = 2


def harmonic(*shares: ArrayLike) -> Floats:
    """Harmonic mean of shares in [0, 1], elementwise over their shapes; 0 where one of them is 0.

    With `1 - ACC_e`, `1 - ACC_g` and `ACC_ir` this is H of MACE (arXiv:2403.06135) and Semantic Surgery (OpenReview
    3FTVceZQrh, section 4.2), which print 100 H.

    >>> float(harmonic(1.0, 1.0, 0.5)), float(harmonic(0.0, 1.0, 1.0))
    (0.75, 0.0)
    """
    stacked = np.stack(np.broadcast_arrays(*(np.asarray(share, dtype=np.float64) for share in shares)))
    if not ((stacked >= 0) & (stacked <= 1)).all():
        raise InputError("a share is outside of 0 to 1: divide per cents by 100")
    zero = (stacked == 0).any(axis=0)
    return np.where(zero, 0.0, len(stacked) / (1 / np.where(stacked == 0, 1.0, stacked)).sum(axis=0))


def harmonic_interval(groups: Sequence[Sequence[ArrayLike]], *, level: float = 0.95) -> Interval:
    """The harmonic mean of macro-averaged shares; its interval has every part at the ends of its own interval at once.

    So nothing that the interval of a part leaves open is closed by putting the parts together: H of parts that are all
    100 %, of four images each, reaches down to what four images can say. It is wider than it had to be where the parts
    are of like size.

    Args:
        groups: What is averaged harmonically: for each of these, sets of 0 or 1 an image, whose shares are averaged
            evenly. ACC_ir of nine concepts is one group of nine sets. A hit is a good thing: not showing what was
            erased, showing what should stay.
        level: Confidence level.

    Raises:
        InputError: If a group has no set, a set under two images, or hits outside of 0 to 1.

    >>> interval = harmonic_interval([[[1, 1, 1, 1]], [[1, 1, 1, 1], [1, 1, 1, 1]]])
    >>> round(interval.low, 2), interval.value, interval.high
    (0.57, 1.0, 1.0)
    """
    parts = []
    for i, sets in enumerate(groups):
        hits = [np.asarray(found, dtype=np.float64) for found in sets]
        if not hits or any(h.ndim != 1 or len(h) < _LEAST for h in hits):
            raise InputError(f"group {i} needs at least one set of at least {_LEAST} images each")
        if any(((h < 0) | (h > 1)).any() for h in hits):
            raise InputError(f"group {i} has hits outside of 0 to 1: write 0 or 1 for each image")
        parts.append(mean_of_shares_interval(hits, level=level))
    n = sum(np.size(found) for sets in groups for found in sets)
    value, low, high = (float(harmonic(*(getattr(p, end) for p in parts))) for end in ("value", "low", "high"))
    return Interval(value, low, high, level, f"of Wilson's intervals of {len(parts)} parts, {n} images")
