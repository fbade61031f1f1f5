"""Completeness, generality and locality of an erasure in one number, with the interval that the three share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface.stats.intervals import Interval, percentile_interval

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


def harmonic_interval(
    groups: Sequence[Sequence[ArrayLike]], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The harmonic mean of macro-averaged shares, its interval by resampling every set of images together.

    Args:
        groups: What is averaged harmonically: for each of these, sets of 0 or 1 an image, whose shares are averaged
            evenly. ACC_ir of nine concepts is one group of nine sets. A hit is a good thing: not showing what was
            erased, showing what should stay.
        level: Confidence level.
        resamples: How many times to resample the images of each set.
        seed: Seed of the resampling.

    Raises:
        InputError: If a group has no set, a set under two images, or hits outside of 0 to 1.

    Does not guarantee: an interval where every image of every set agrees; it then has no width.

    >>> harmonic_interval([[[1, 1, 1, 1]], [[1, 0, 1, 0], [1, 1, 1, 1]]]).value.__round__(3)
    0.857
    """
    rng = np.random.default_rng(seed)
    values, draws = [], []
    for i, sets in enumerate(groups):
        hits = [np.asarray(found, dtype=np.float64) for found in sets]
        if not hits or any(h.ndim != 1 or len(h) < _LEAST for h in hits):
            raise InputError(f"group {i} needs at least one set of at least {_LEAST} images each")
        if any(((h < 0) | (h > 1)).any() for h in hits):
            raise InputError(f"group {i} has hits outside of 0 to 1: write 0 or 1 for each image")
        values.append(np.mean([h.mean() for h in hits]))
        # The number of hits in a resample of n images is binomial.
        draws.append(np.mean([rng.binomial(len(h), h.mean(), size=resamples) / len(h) for h in hits], axis=0))
    value, n = float(harmonic(*values)), sum(np.size(found) for sets in groups for found in sets)
    return percentile_interval(value, harmonic(*draws), f"bootstrap over {n} images, by set", level=level)
