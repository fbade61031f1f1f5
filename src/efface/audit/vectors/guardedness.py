"""Moments that linear guardedness is about, and the size of the edit.

No linear predictor beats a constant in any convex loss if and only if the class means are equal, if and only if the
cross-covariance of X and Z is zero (Belrose et al., arXiv:2306.03819, theorems 3.1 and 3.4). Both are read here on the
rows the eraser was fitted on, where an exact eraser makes them zero, and on held-out rows, where it cannot.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface._text import shown
from efface.audit.finding import Finding
from efface.audit.vectors.folds import CONDITIONS, View
from efface.audit.vectors.labels import Labels
from efface.core.doors import check_call
from efface.report.data import AFTER, BEFORE
from efface.stats.intervals import bootstrap_interval

Floats = NDArray[np.float64]

_SMALLEST_SPREAD = 1e-6
_SHUFFLES = 50
_TINY = np.finfo(np.float64).tiny
_FIT_SHUFFLES, _FIT_SHARE, _HALF, _FAR = 20, 0.01, 0.5, 5


def class_mean_gap(x: Floats, classes: NDArray[np.int64], *, scale: float) -> float:
    """Largest distance between two class means, `max ||m_a - m_b||`, in units of `scale`.

    Args:
        x: Rows `(n, d)`.
        classes: Class indices `(n,)`; a class without rows is passed over.
        scale: Standard deviation to measure in, e.g. `total_spread(x)`.

    >>> class_mean_gap(np.array([[0.0], [2.0]]), np.array([0, 1]), scale=2.0)
    1.0
    """
    check_call(class_mean_gap, locals())
    _check_rows(x=x)
    if classes.shape != (len(x),) or classes.dtype.kind not in "iu" or classes.min() < 0:
        raise InputError(f"classes are {_said(classes)}: expected ({len(x)},) whole numbers of at least 0")
    if not 0 < scale < np.inf:
        raise InputError(f"scale is {shown(scale)}: write a positive number")
    present, places = np.unique(classes, return_inverse=True)
    members = np.eye(len(present))[:, places]
    means = (members @ x) / members.sum(axis=1, keepdims=True)
    gaps = [float(np.linalg.norm(a - b)) for a, b in combinations(means, 2)]
    return max(gaps, default=0.0) / scale


def _check_rows(**arrays: Floats) -> None:
    """Refuse what is no rows `(n, d)` of finite numbers, and several of different lengths."""
    for name, x in arrays.items():
        if x.ndim != 2 or x.size == 0 or x.dtype.kind not in "biuf" or not np.isfinite(x).all():
            raise InputError(f"{name} is {_said(x)}: expected rows (n, d) of finite numbers, at least one")
    if len({len(x) for x in arrays.values()}) > 1:
        given = ", ".join(f"{len(x)} of {name}" for name, x in arrays.items())
        raise InputError(f"there are {given}: give the same rows")


def _said(x: NDArray[Any]) -> str:
    return f"{x.dtype} of shape {x.shape}"


def total_spread(x: Floats) -> float:
    """Root of the total variance, sqrt(tr Sigma), of rows `(n, d)`."""
    return float(np.sqrt(x.var(axis=0).sum()))


def canonical_correlations(x: Floats, z: Floats) -> Floats:
    """Canonical correlations of rows `(n, d)` and columns `(n, k)`, largest first.

    The singular values of U'V, with U and V orthonormal bases of the centred X and Z; directions with a spread under
    1e-6 of the widest are left out, since there rounding decides.

    Does not guarantee: anything about other rows. With `d` near `n` they are near 1 whatever the data.

    >>> canonical_correlations(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [2.0], [4.0]])).round(6)
    array([1.])
    """
    check_call(canonical_correlations, locals())
    _check_rows(x=x, z=z)
    cosines = np.linalg.svd(_basis(x).T @ _basis(z), compute_uv=False)
    return np.clip(cosines, 0.0, 1.0).astype(np.float64)


def _basis(x: Floats) -> Floats:
    centred = x - x.mean(axis=0)
    # The Gram matrix squares the spreads; at the threshold, 1e-12 of the largest, float64 still resolves them.
    squares, directions = np.linalg.eigh(centred.T @ centred)
    kept = squares > _SMALLEST_SPREAD**2 * squares.max(initial=np.finfo(np.float64).tiny)
    return centred @ (directions[:, kept] / np.sqrt(squares[kept]))


def looks_fitted(x: Floats, z: Floats, *, free: bool, seed: int = 0) -> bool:
    """Whether rows go with their labels so much less than with shuffled ones that an eraser must have seen them.

    An eraser makes the covariance of its own rows with their labels zero. On other rows, however well the concept is
    erased, there is what chance brings: as much as shuffled labels show. A hundredth of that is no chance; nor is half
    of it, if it lies far outside of what shuffles give, but for pairs of rows that differ in little else.

    Args:
        x: Rows `(n, d)` after erasure.
        z: Columns of the labels `(n, k)`.
        free: Whether no rows belong together, so that they are no such pairs.
        seed: Seed of the shuffles.

    Does not guarantee: to know rows of which the eraser has seen a part only, or many others besides.

    >>> x, z = np.array([[1.0], [2.0], [1.0], [2.0]]), np.array([[0.0], [0.0], [1.0], [1.0]])
    >>> looks_fitted(x, z, free=True), looks_fitted(x + z, z, free=True)
    (True, False)
    """
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.maximum(spread, max(float(spread.max(initial=0.0)) * _SMALLEST_SPREAD, _TINY))
    z = z - z.mean(axis=0)
    rng = np.random.default_rng(seed)
    shuffled = [float(np.linalg.norm(x.T @ rng.permutation(z))) for _ in range(_FIT_SHUFFLES)]
    mean, spread_by_chance = float(np.mean(shuffled)), float(np.std(shuffled))
    most = min(_HALF * mean, mean - _FAR * spread_by_chance) if free else 0.0
    return float(np.linalg.norm(x.T @ z)) < max(_FIT_SHARE * mean, most)


def edit_size(before: Floats, after: Floats, *, centre: Floats | None = None) -> tuple[Floats, Floats]:
    """The edit of each row and what it is compared with: `||x' - x||^2` and `||x - centre||^2`, `(n,)` each.

    The ratio of their sums estimates E||x' - x||^2 / tr Sigma.
    """
    check_call(edit_size, locals())
    _check_rows(before=before, after=after)
    if before.shape != after.shape or (centre is not None and centre.shape != before.shape[1:]):
        given = ", ".join(_said(x) for x in (before, after, centre) if x is not None)
        raise InputError(f"before, after and centre are {given}: expected (n, d) twice, and (d,)")
    middle = before.mean(axis=0) if centre is None else centre
    return ((after - before) ** 2).sum(axis=1), ((before - middle) ** 2).sum(axis=1)


class EditSize:
    """Edit size on held-out rows, gathered fold by fold."""

    def __init__(self, n: int, *, seed: int = 0) -> None:
        self.seed = seed
        self._edit, self._spread = np.zeros(n), np.zeros(n)

    def add(self, view: View) -> None:
        """Take in one fold's test rows."""
        centre = view.before[view.train].mean(axis=0)
        test = view.test
        self._edit[test], self._spread[test] = edit_size(view.before[test], view.after[test], centre=centre)

    def finding(self, *, groups: ArrayLike | None = None, level: float = 0.95) -> Finding:
        """Share of the total variance that the edit moved."""
        interval = bootstrap_interval(self._edit, self._spread, groups=groups, level=level, seed=self.seed)
        return Finding.of(
            "share of the variance moved",
            interval,
            family="edit",
            condition=AFTER,
            n=len(self._edit),
            seed=self.seed,
            unit="share",
            note="squared length of the edit over the total variance, held-out rows; 0% is no edit",
        )


class Guardedness:
    """Class-mean gap and canonical correlations, gathered fold by fold.

    Args:
        labels: The concept.
        fitted_inside: Whether the eraser was fitted on each fold's training rows, so that those are its fit rows.
        seed: Seed of the shuffles behind the noise floor.
    """

    def __init__(self, labels: Labels, *, fitted_inside: bool, seed: int = 0) -> None:
        self.labels, self.fitted_inside, self.seed = labels, fitted_inside, seed
        self._fit: dict[str, list[float]] = {c: [] for c in CONDITIONS}
        self._held: dict[str, list[float]] = {c: [] for c in CONDITIONS}
        self._correlation: dict[str, list[float]] = {c: [] for c in CONDITIONS}
        self._floor: dict[str, list[float]] = {c: [] for c in CONDITIONS}

    def add(self, view: View) -> None:
        """Take in one fold."""
        rng = np.random.default_rng(self.seed)
        for condition in CONDITIONS:
            x = view.rows(condition)
            if self.fitted_inside:
                self._add_fit_rows(condition, x[view.train], view)
            if self.labels.is_categorical:
                self._add_test_rows(condition, x[view.test], view, rng)

    def findings(self) -> list[Finding]:
        """What was measured on fit rows (exact, no interval) and on held-out rows (with a noise floor)."""
        return [f for c in CONDITIONS for f in self._findings(c)]

    def _add_fit_rows(self, condition: str, x: Floats, view: View) -> None:
        columns = self.labels.columns()[view.train]
        self._correlation[condition].append(float(canonical_correlations(x, columns).max(initial=0.0)))
        if self.labels.is_categorical:
            self._fit[condition].append(self._gap(x, self.labels.values[view.train], view))

    def _add_test_rows(self, condition: str, x: Floats, view: View, rng: np.random.Generator) -> None:
        z = self.labels.values[view.test]
        self._held[condition].append(self._gap(x, z, view))
        shuffled = [self._gap(x, rng.permutation(z), view) for _ in range(_SHUFFLES)]
        self._floor[condition].append(float(np.mean(shuffled)))

    def _gap(self, x: Floats, classes: NDArray[np.int64], view: View) -> float:
        return class_mean_gap(x, classes, scale=total_spread(view.before[view.train]))

    def _findings(self, condition: str) -> list[Finding]:
        rows = (
            ("largest correlation, fit rows", self._correlation, None, "", _CORRELATION_NOTE, max),
            ("class-mean gap, fit rows", self._fit, None, "sd", _GAP_NOTE, max),
            ("class-mean gap, held-out rows", self._held, self._floor, "sd", _FLOOR_NOTE, np.mean),
        )
        return [
            Finding(
                name,
                float(summary(values[condition])),
                family="guardedness",
                condition=condition,
                n=len(self.labels),
                seed=self.seed,
                chance=None if floor is None else float(np.mean(floor[condition])),
                baseline=float(summary(values[BEFORE])) if condition == AFTER else None,
                unit=unit,
                note=note,
                detail=True,
            )
            for name, values, floor, unit, note, summary in rows
            if values[condition]
        ]


_CORRELATION_NOTE = "largest canonical correlation with the concept, largest over folds; 0 if linearly guarded"
_GAP_NOTE = "largest distance of two class means over the total standard deviation, largest over folds; 0 if guarded"
_FLOOR_NOTE = "mean over folds; chance is the gap that shuffled labels show: rows the eraser never saw do not reach 0"
