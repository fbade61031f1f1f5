"""What an edit does to each feature: how much of its variance is changed, and which values leave their range."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import EffaceWarning

_SHARE, _FEW, _ROOM, _NAMED = 0.01, 5, 1e-3, 3


def column_edits(
    x: NDArray[Any], erased: NDArray[Any], weight: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Mean squared change of each column over its variance, `(d,)`; 0 for constant ones.

    >>> column_edits(np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 1.0]]))
    array([1., 0.])
    """
    x, change = x.astype(np.float64), erased.astype(np.float64) - x
    centred = x - np.average(x, axis=0, weights=weight)
    variance = np.average(centred**2, axis=0, weights=weight)
    moved = np.average(change**2, axis=0, weights=weight)
    return np.divide(moved, variance, out=np.zeros_like(moved), where=variance > 0)


def joint_range(x: NDArray[Any], before: NDArray[Any] | None = None) -> NDArray[Any]:
    """Least and greatest value of each column, `(2, d)`, with those of earlier batches."""
    own = np.stack([x.min(axis=0), x.max(axis=0)])
    return own if before is None else np.stack([np.minimum(own[0], before[0]), np.maximum(own[1], before[1])])


def tell_of_ranges(x: NDArray[Any], erased: NDArray[Any], ranges: NDArray[Any], names: Sequence[str]) -> None:
    """Warn of columns of which many values leave the range that they had in the fit, by more than a thousandth of it.

    Many are one in a hundred, and more than five: the ends of a range that knows no bound are passed by a few.
    """
    room = _ROOM * (ranges[1] - ranges[0])
    low, high = ranges[0] - room, ranges[1] + room
    out = ((erased < low) | (erased > high)) & (x >= low) & (x <= high)
    shares, least = out.mean(axis=0), max(_SHARE, _FEW / len(x))
    worst = [i for i in np.argsort(-shares, kind="stable") if shares[i] > least]
    if worst:
        told = "; ".join(
            f"{names[i]} in {shares[i]:.1%} of rows (it was {ranges[0][i]:.4g} to {ranges[1][i]:.4g}, and is "
            f"{erased[:, i].min():.4g} to {erased[:, i].max():.4g})"
            for i in worst[:_NAMED]
        )
        more = f"; and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
        warnings.warn(
            f"erased values leave the range that their column had in the fit: {told}{more}", EffaceWarning, stacklevel=4
        )
