"""The pigeonhole bootstrap: entities and queries are resampled independently, and weights multiply.

With `w_e` and `v_q` how often an entity and a query were drawn, a resampled sum over a class of entities is
`sum_e w_e sum_q v_q M_eq`: one product of matrices for all draws. Source: Owen, "The pigeonhole bootstrap", Annals of
Applied Statistics 1 (2007), arXiv:0712.1111: its variance is right for effects of entities and of queries, and counts
what is left three times, which `crossed.narrowed` takes off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.panel import Matrix
from efface.stats.intervals import Interval, student_quantile, wilson_interval

Floats = NDArray[np.float64]
Resample = Literal["both", "queries"]
_NORMAL = NormalDist()
_NUMBERS = 2**21


def resampled(
    matrices: Mapping[str, Matrix],
    classes: NDArray[Any],
    *,
    free: NDArray[np.bool_],
    draws: int,
    seed: int,
    each: Callable[[Mapping[str, Floats]], None] | None = None,
    there: NDArray[np.int64] | slice | None = None,
    drawn: Iterable[tuple[NDArray[Any], NDArray[Any]]] | None = None,
) -> dict[str, Floats]:
    """Resampled sums of each matrix over each class of entities, `(classes, draws)`.

    Args:
        matrices: Name -> `(entities, queries)`.
        classes: Which entities a class has, `(classes, all entities)`, 0 or 1.
        free: Which classes are samples of entities `(classes,)`: of the others, which are whole, only queries are
            resampled.
        draws: How many times.
        seed: Seed.
        each: Called with the sums of each entity by resampled queries, `(entities, draws of a block)`, block by block.
        there: Which of all entities the matrices have; None for all of them.
        drawn: How often each entity and query is drawn, see `weights`; None draws it from the seed.
    """
    queries = next(iter(matrices.values())).shape[1]
    there = slice(None) if there is None else there
    entities, members = np.shape(classes)[1], np.asarray(classes, dtype=np.float64)[:, there]
    parts: dict[str, list[Floats]] = {name: [] for name in matrices}
    for all_entities, all_queries in weights(entities, queries, draws, seed) if drawn is None else drawn:
        of_entities, of_queries = all_entities[there].astype(np.float64), all_queries.astype(np.float64)
        sums = {name: np.asarray(matrix @ of_queries) for name, matrix in matrices.items()}
        if each is not None:
            each(sums)
        for name, found in sums.items():
            block = np.empty((len(members), found.shape[1]))
            block[free], block[~free] = members[free] @ (found * of_entities), members[~free] @ found
            parts[name].append(block)
    return {name: np.concatenate(blocks, axis=1) for name, blocks in parts.items()}


def weights(entities: int, queries: int, draws: int, seed: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """How often each entity and each query is drawn, `(entities, b)` and `(queries, b)`, a block of draws at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, _NUMBERS // max(entities, queries))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        yield _counts(rng, entities, count), _counts(rng, queries, count)


def _counts(rng: np.random.Generator, units: int, draws: int) -> NDArray[Any]:
    """Counts of `units` draws of as many units with replacement, a column a resample, as small as they can be kept."""
    drawn = rng.integers(0, units, size=(units, draws)) * draws + np.arange(draws)
    counts = np.bincount(drawn.ravel(), minlength=units * draws).reshape(units, draws)
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def few_units(level: float, units: int) -> float:
    """How many standard errors of a bootstrap an interval reaches: `sqrt(G / (G - 1)) t_{G - 1}`, of G units."""
    units = max(2, units)
    return float(np.sqrt(units / (units - 1))) * student_quantile((1 + level) / 2, units - 1)


def ratio_interval(value: float, draws: Floats, units: int, *, level: float, what: str) -> Interval:
    """Percentiles of a resampled ratio, further out where units are few (Hesterberg, arXiv:1411.5279).

    Where that is so far out that the resamples do not have it, so many of their standard deviations.

    Args:
        value: The estimate.
        draws: Its resampled values, NaN where a resample has nothing to divide by.
        units: How many independent units there are: of two kinds the fewer.
        level: Confidence level.
        what: What was resampled, in words.
    """
    known, reach = draws[np.isfinite(draws)], few_units(level, units)
    tail = _NORMAL.cdf(-reach)
    low = high = value
    if len(known) and tail * len(known) < 1:
        half = reach * float(known.std())
        low, high = value - half, value + half
    elif len(known):
        low, high = (float(each) for each in np.quantile(known, [tail, 1 - tail]))
    return Interval(value, min(value, low), max(value, high), level, f"pigeonhole bootstrap over {what}")


def share_interval(value: float, draws: Floats, *, units: int, level: float, what: str) -> Interval:
    """The same of a share, which ends at 0 and 1.

    One whose resamples agree, or one of all or nothing, has at least Wilson's interval over the units.
    """
    found = ratio_interval(value, draws, units, level=level, what=what)
    if value in (0.0, 1.0) or not found.has_width:
        wide = wilson_interval(value * units, units, level=level)
        return Interval(value, wide.low, wide.high, level, f"Wilson, each of {units} units as one trial")
    return Interval(value, max(0.0, found.low), min(1.0, found.high), level, found.method)
