"""S3: does it pay to be known already? Slope of being remembered on the logarithm of popularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_STEPS, _SMALL, _STEEPEST = 50, 1e-10, 30.0


@dataclass(frozen=True)
class Slope:
    """A slope with its error.

    Attributes:
        value: Change of the log odds of a hit for each unit of x.
        influence: What each entity adds to it, `(entities,)`: the error is the root of their squares' sum.
        rows: Rows that tell of it: those of queries that were neither always nor never hit.
    """

    value: float
    influence: Floats
    rows: int

    @property
    def error(self) -> float:
        """Standard error, clustered by entity."""
        return float(np.linalg.norm(self.influence))


def slope(hit: ArrayLike, x: ArrayLike, query: ArrayLike, entity: ArrayLike, *, entities: int) -> Slope | None:
    """The slope beta of `logit P(hit) = alpha_q + beta x`, an intercept a query, by Newton's method.

    The intercepts are eliminated: with `w = p (1 - p)` and x less its mean by w in each query, the step is
    `sum(xc (y - p)) / sum(w xc^2)`. Errors are clustered by entity (White's sandwich). Equivalent to
    `statsmodels.Logit(hit, [x, dummies of query]).fit(cov_type="cluster", cov_kwds={"groups": entity,
    "use_correction": False})`.

    Args:
        hit: 0 or 1, `(n,)`.
        x: `(n,)`.
        query: Whole numbers from 0, `(n,)`; queries that were always or never hit say nothing and are left out.
        entity: Whole numbers from 0, `(n,)`.
        entities: How many there are.

    Returns:
        The slope, or None where x or hits do not vary within queries, or x tells hits apart without error.

    Does not guarantee: freedom from bias where a query has few entities.
    """
    y, given, asked = np.asarray(hit, dtype=np.float64), np.asarray(x, dtype=np.float64), np.asarray(query)
    varied = _varied(y, asked)
    y, given, whose = y[varied], given[varied], np.asarray(entity)[varied]
    query = np.unique(asked[varied], return_inverse=True)[1]
    if not len(y) or not np.ptp(given):
        return None
    scale = float(given.std())
    scaled = (given - given.mean()) / scale
    intercept, beta = _log_odds(np.bincount(query, y) / np.bincount(query)), 0.0
    for _ in range(_STEPS):
        p, w, centred = _fitted(intercept, beta, scaled, query)
        curvature = float((w * centred**2).sum())
        if curvature < _SMALL:
            return None
        step = float((centred * (y - p)).sum()) / curvature
        means = np.bincount(query, w * scaled) / np.bincount(query, w)
        intercept = intercept + np.bincount(query, y - p) / np.bincount(query, w) - step * means
        beta += step
        if abs(beta) > _STEEPEST:
            return None
        if abs(step) < _SMALL:
            break
    else:
        return None
    p, w, centred = _fitted(intercept, beta, scaled, query)
    influence = np.bincount(whose, centred * (y - p), entities) / (w * centred**2).sum()
    return Slope(beta / scale, influence / scale, len(y))


def _varied(y: Floats, query: NDArray[np.int64]) -> NDArray[np.bool_]:
    share = np.bincount(query, y) / np.maximum(np.bincount(query), 1)
    return (share[query] > 0) & (share[query] < 1)


def _log_odds(p: Floats) -> Floats:
    return np.log(p / (1 - p))


def _fitted(intercept: Floats, beta: float, x: Floats, query: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Probabilities, their variances, and x less its weighted mean in each query."""
    p = 1 / (1 + np.exp(-np.clip(intercept[query] + beta * x, -_STEEPEST, _STEEPEST)))
    w = p * (1 - p)
    means = np.bincount(query, w * x) / np.bincount(query, w)
    return p, w, x - means[query]
