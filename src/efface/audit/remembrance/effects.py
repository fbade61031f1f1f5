"""What an edit did to each entity: paired changes, their tests, what they could have shown, and their true size.

Everything is by query: replicates of one query are averaged before anything is tested, because they are no
independent witnesses. A change `d_q` of a query is in [-1, 1], and -1, 0 or 1 where it was asked once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._lazy import require
from efface.audit.remembrance.columns import EXTRA
from efface.audit.remembrance.panel import Panel

Floats = NDArray[np.float64]
_NORMAL = NormalDist()
_ROUNDING = 1e-9
_GRID = 2**22


@dataclass(frozen=True, eq=False)
class Changes:
    """Paired changes of each entity over the queries where it is relevant and both answers were given.

    Attributes:
        n: Queries of each entity, `(entities,)`.
        before: Share that hit before.
        after: Share that hit after.
        change: Mean change by query, after less before.
        squares: Sum over queries of the squared change.
        entity: Entity of each query's change, `(cells,)`.
        query: Query of each.
        value: The changes themselves.
        replicates: The most answers that a query was given.
    """

    n: Floats
    before: Floats
    after: Floats
    change: Floats
    squares: Floats
    entity: NDArray[np.int64]
    query: NDArray[np.int64]
    value: Floats
    replicates: int

    @property
    def error(self) -> Floats:
        """Standard error of each change, see `agresti_min`."""
        return agresti_min(self.n, self.change * self.n, self.squares)[1]

    def churn(self, among: NDArray[np.bool_]) -> float:
        """Share of discordant queries that cancel out, `(sum d^2 - |sum d|) / n` over all of some entities together.

        Of single answers it is `2 min(b, c) / n` of each.
        """
        cancelled = np.maximum(0.0, self.squares - np.abs(self.change * self.n))
        return float(cancelled[among].sum() / max(1.0, self.n[among].sum()))


def changes(panel: Panel, first: str, second: str, *, outcome: str = "hit") -> Changes:
    """Paired changes of each entity from one arm to another.

    Args:
        panel: The arms.
        first: Arm that is before.
        second: Arm that is after.
        outcome: `"hit"` or `"score"`.
    """
    count, then, now = means_by_cell(panel, first, second, outcome=outcome)
    kept = count > 0
    then, now = then[kept], now[kept]
    entity, query = (part[kept] for part in panel.cells)
    gap = np.where(np.abs(now - then) < _ROUNDING, 0.0, now - then)
    size = len(panel.registry)
    n, before, after, change, squares = (
        np.bincount(entity, weights, size).astype(np.float64) for weights in (np.ones(len(gap)), then, now, gap, gap**2)
    )
    each, replicates = np.maximum(n, 1), int(np.bincount(panel.asked).max(initial=1))
    return Changes(n, before / each, after / each, change / each, squares, entity, query, gap, replicates)


def means_by_cell(panel: Panel, first: str, second: str, *, outcome: str) -> tuple[Floats, Floats, Floats]:
    """Of each pair of entity and query how many answers it has, and their mean in both arms; 0 where it has none."""
    values = panel.hit if outcome == "hit" else panel.score
    used = (panel.relevant & panel.fine(first, second)).astype(np.float64)
    count = panel.by_cell(used)
    then, now = (panel.by_cell(values[arm] * used) / np.maximum(count, 1.0) for arm in (first, second))
    return count, then, now


@dataclass(frozen=True, eq=False)
class Evidence:
    """What tests need of each entity, `(entities,)`.

    Attributes:
        p: P-value of no change, see `p_values`.
        turned: Queries that changed, either way.
    """

    p: Floats
    turned: Floats


def evidence(found: Changes, queries: int | None = None, *, flips: int, seed: int, exact: bool = True) -> Evidence:
    """Test each entity, and count what turned; arguments as of `p_values`."""
    turned = np.bincount(found.entity, found.value != 0, len(found.n)).astype(np.float64)
    return Evidence(p_values(found, queries, flips=flips, seed=seed, exact=exact), turned)


def joined(parts: Iterable[tuple[Changes, Evidence]]) -> tuple[Changes, Evidence]:
    """Changes of all entities, from parts that have all rows of some of them each; of several, queries are not kept.

    Parts are added up one by one, so that no more than one of them is in memory.
    """
    return reduce(_added, parts)


def _added(one: tuple[Changes, Evidence], other: tuple[Changes, Evidence]) -> tuple[Changes, Evidence]:
    (left, first), (right, second) = one, other
    names = ("n", "before", "after", "change", "squares")
    sums = {name: getattr(left, name) + getattr(right, name) for name in names}
    none, replicates = np.empty(0, dtype=np.int64), max(left.replicates, right.replicates)
    p = np.minimum(first.p, second.p)  # of who is in another part it is 1
    changed = Changes(**sums, entity=none, query=none, value=np.empty(0), replicates=replicates)
    return changed, Evidence(p, first.turned + second.turned)


def agresti_min(n: ArrayLike, change: ArrayLike, squares: ArrayLike) -> tuple[Floats, Floats]:
    """Centre and standard error of a paired change, with half a query lost and half a query gained added.

    Of b lost and c gained of n: `d = (c - b) / (n + 2)` and `se = sqrt(b' + c' - (c' - b')^2 / n') / n'`, with
    `b' = b + 1/2`, `c' = c + 1/2`, `n' = n + 2`. Source: Agresti and Min, Statistics in Medicine 24 (2005). Where a
    query has several answers, b + c is the sum of squared mean changes, and c - b their sum.

    Args:
        n: Queries.
        change: Sum of the changes, c - b.
        squares: Sum of the squared changes, b + c.

    >>> [round(float(v), 4) for v in agresti_min(98, -5, 5)]
    [-0.05, 0.024]
    """
    more, sums = np.asarray(n, dtype=np.float64) + 2, np.asarray(change, dtype=np.float64)
    spread = np.asarray(squares, dtype=np.float64) + 1
    return sums / more, np.sqrt(np.maximum(0.0, spread - sums**2 / more)) / more


def p_values(found: Changes, queries: int | None = None, *, flips: int, seed: int, exact: bool = True) -> Floats:
    """P-value of no change of each entity: had the arms been exchanged in any queries, how often as much?

    Single answers: mid-p McNemar. Several answers a query: the same with changes of several sizes, exactly. Grades, and
    entities some of whose answers are missing: `flips` random exchanges, the same for all entities.

    Args:
        found: The changes.
        queries: How many queries there are; None takes those up to the last that changed anyone.
        flips: How many exchanges to draw for grades.
        seed: Seed of these.
        exact: Whether changes are multiples of one over the replicates.
    """
    size = len(found.n)
    if not exact:
        return _flipped(found, queries, flips, seed)
    steps = np.rint(found.value * found.replicates).astype(np.int64)
    if found.replicates == 1:
        lost, gained = (np.bincount(found.entity, steps == side, size) for side in (-1, 1))
        return mcnemar_midp(lost, gained)
    counts = np.stack([np.bincount(found.entity, np.abs(steps) == k, size) for k in range(1, found.replicates + 1)], 1)
    p = flip_midp(counts, np.bincount(found.entity, steps, size))
    # Where an answer is missing, changes are no multiples of one over the replicates.
    broken = np.abs(steps - found.value * found.replicates) > _ROUNDING * found.replicates
    odd = np.bincount(found.entity, broken, size) > 0
    return np.where(odd, _flipped(found, queries, flips, seed), p) if odd.any() else p


def mcnemar_midp(lost: ArrayLike, gained: ArrayLike) -> Floats:
    """Two-sided mid-p of McNemar's test.

    With k = min(b, c) and N = b + c: `2 P(Bin(N, 1/2) <= k) - P(Bin(N, 1/2) = k)`, and 1 for N = 0. Source: Fagerland,
    Lydersen and Laake, BMC Medical Research Methodology 13:91 (2013).

    >>> mcnemar_midp([0, 5], [0, 0]).round(5).tolist()
    [1.0, 0.03125]
    """
    binom = require("scipy.stats", extra=EXTRA).binom
    lost, gained = np.asarray(lost), np.asarray(gained)
    least, all_ = np.minimum(lost, gained), lost + gained
    p = 2 * binom.cdf(least, all_, 0.5) - binom.pmf(least, all_, 0.5)
    return np.where(all_ == 0, 1.0, np.minimum(1.0, p))


def flip_midp(counts: ArrayLike, sums: ArrayLike) -> Floats:
    """Two-sided mid-p of a sum of whole numbers whose signs are fair coins: `P(|S| > |s|) + P(|S| = |s|) / 2`.

    The distribution of `S = sum_i +-a_i` is read off its characteristic function `prod_k cos(k t)^{n_k}`, with n_k how
    many of the a_i are k, at as many points as it has values. For single answers it is `mcnemar_midp`.

    Args:
        counts: How many changes there are of size 1, 2, ..., `(m, sizes)`.
        sums: The sum of the changes, `(m,)`.

    >>> flip_midp([[5], [4]], [-5, 0]).round(5).tolist()
    [0.03125, 1.0]
    """
    counts, sums = np.asarray(counts, dtype=np.float64), np.abs(np.asarray(sums, dtype=np.int64))
    reach = int((counts * np.arange(1, counts.shape[1] + 1)).sum(axis=1).max(initial=0))
    points = 2 * reach + 1
    angle = 2 * np.pi * np.arange(points) / points
    cosines = np.cos(np.arange(1, counts.shape[1] + 1)[:, None] * angle)
    rows = max(1, _GRID // points)
    found = [_tails(counts[i : i + rows], sums[i : i + rows], cosines, reach) for i in range(0, len(counts), rows)]
    return np.where(sums == 0, 1.0, np.clip(np.concatenate([np.empty(0), *found]), 0.0, 1.0))


def _tails(counts: Floats, sums: NDArray[np.int64], cosines: Floats, reach: int) -> Floats:
    wave = np.ones((len(counts), cosines.shape[1]))
    for many, cosine in zip(counts.T, cosines, strict=True):
        wave *= cosine ** many[:, None]
    chance = np.fft.fft(wave, axis=1).real[:, : reach + 1] / cosines.shape[1]  # of S = 0, 1, ..., reach
    beyond = np.cumsum(chance[:, ::-1], axis=1)[:, ::-1]  # of S >= s
    rows = np.arange(len(sums))
    return 2 * beyond[rows, sums] - chance[rows, sums]


def _flipped(found: Changes, queries: int | None, flips: int, seed: int) -> Floats:
    """`(1 + #{|S| >= |s|}) / (flips + 1)`."""
    sparse = require("scipy.sparse", extra=EXTRA)
    queries = int(found.query.max(initial=0)) + 1 if queries is None else queries
    matrix = sparse.csr_array((found.value, (found.entity, found.query)), shape=(len(found.n), queries))
    reached, own = np.ones(len(found.n)), np.abs(found.change * found.n) - _ROUNDING
    rng, step = np.random.default_rng(seed), max(1, _GRID // len(found.n))
    for start in range(0, flips, step):
        signs = rng.choice([-1.0, 1.0], size=(queries, min(step, flips - start)))
        reached += (np.abs(matrix @ signs) >= own[:, None]).sum(axis=1)
    return reached / (flips + 1)


def power_to_see(n: ArrayLike, margin: ArrayLike, churn: ArrayLike, *, alpha: float) -> Floats:
    """Chance that a single paired test sees a loss of `margin`.

    `Phi((delta sqrt(n) - z sqrt(psi)) / sqrt(psi - delta^2))` with psi the share of discordant queries, which is the
    loss and the churn. Source: Connor, Biometrics 43 (1987), after Miettinen (1968).

    Args:
        n: Queries.
        margin: The loss delta.
        churn: Share of queries that turn without any effect, see `Changes.churn`.
        alpha: Level of the test, two-sided.

    Does not guarantee: the power after adjustment for many entities, which is less.

    >>> power_to_see([100, 1000], 0.05, 0.0, alpha=0.05).round(2).tolist()
    [0.61, 1.0]
    """
    norm = require("scipy.stats", extra=EXTRA).norm
    n, delta = np.asarray(n, dtype=np.float64), np.asarray(margin, dtype=np.float64)
    turned = np.asarray(churn, dtype=np.float64) + delta
    z = _NORMAL.inv_cdf(1 - alpha / 2)
    spread = np.sqrt(np.maximum(turned - delta**2, 1e-300))
    return np.where(delta > 0, norm.cdf((delta * np.sqrt(n) - z * np.sqrt(turned)) / spread), 0.0)


def shrunk(change: ArrayLike, error: ArrayLike) -> Floats:
    """Changes shrunk to none by how little is known: `d tau^2 / (tau^2 + se^2)`.

    tau^2 is the mean of `d^2 - se^2`, at least 0 (empirical Bayes about no change; Efron and Morris 1973): a small
    entity with a large change by chance does not lead the list.

    >>> shrunk([0.3, 0.3, -0.3], [0.1, 0.2, 0.1]).round(2).tolist()
    [0.26, 0.19, -0.26]
    """
    change, variance = np.asarray(change, dtype=np.float64), np.asarray(error, dtype=np.float64) ** 2
    if not len(change):
        return change
    tau2 = max(0.0, float((change**2 - variance).mean()))
    return change * tau2 / (tau2 + variance) if tau2 else np.zeros_like(change)
