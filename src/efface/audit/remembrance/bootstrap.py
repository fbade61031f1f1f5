"""The pigeonhole bootstrap: entities and queries are resampled independently, and weights multiply.

With `w_e` and `v_q` how often an entity and a query were drawn, a resampled sum over a class of entities is
`sum_e w_e sum_q v_q M_eq`: one product of matrices for all draws. Source: Owen, "The pigeonhole bootstrap", Annals of
Applied Statistics 1 (2007), arXiv:0712.1111: its variance is right for effects of entities and of queries, and counts
what is left three times, so that intervals are too wide rather than too short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.panel import Matrix
from efface.stats.intervals import Interval, expanded_tail

Floats = NDArray[np.float64]
Resample = Literal["both", "queries"]
_NUMBERS = 2**21


def resampled(
    matrices: Mapping[str, Matrix],
    classes: NDArray[Any],
    *,
    free: NDArray[np.bool_],
    draws: int,
    seed: int,
    each: Callable[[Mapping[str, Floats]], None] | None = None,
) -> dict[str, Floats]:
    """Resampled sums of each matrix over each class of entities, `(classes, draws)`.

    Args:
        matrices: Name -> `(entities, queries)`.
        classes: Which entities a class has, `(classes, entities)`, 0 or 1.
        free: Which classes are samples of entities `(classes,)`: of the others, which are whole, only queries are
            resampled.
        draws: How many times.
        seed: Seed.
        each: Called with the sums of each entity by resampled queries, `(entities, draws of a block)`, block by block.
    """
    entities, queries = next(iter(matrices.values())).shape
    members = np.asarray(classes, dtype=np.float64)
    parts: dict[str, list[Floats]] = {name: [] for name in matrices}
    for of_entities, of_queries in _weights(entities, queries, draws, seed):
        sums = {name: np.asarray(matrix @ of_queries) for name, matrix in matrices.items()}
        if each is not None:
            each(sums)
        for name, found in sums.items():
            drawn = members[free] @ (found * of_entities)
            block = np.empty((len(members), found.shape[1]))
            block[free], block[~free] = drawn, members[~free] @ found
            parts[name].append(block)
    return {name: np.concatenate(blocks, axis=1) for name, blocks in parts.items()}


def _weights(entities: int, queries: int, draws: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """How often each entity and each query is drawn, `(entities, b)` and `(queries, b)`, a block of draws at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, _NUMBERS // max(entities, queries))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        yield _counts(rng, entities, count), _counts(rng, queries, count)


def _counts(rng: np.random.Generator, units: int, draws: int) -> Floats:
    """Counts of `units` draws of as many units with replacement, a column a resample."""
    drawn = rng.integers(0, units, size=(units, draws)) * draws + np.arange(draws)
    return np.bincount(drawn.ravel(), minlength=units * draws).reshape(units, draws).astype(np.float64)


def ratio_interval(value: float, draws: Floats, units: int, *, level: float, what: str) -> Interval:
    """Percentiles of a resampled ratio, further out where units are few (Hesterberg, arXiv:1411.5279).

    Args:
        value: The estimate.
        draws: Its resampled values, NaN where a resample has nothing to divide by.
        units: How many independent units there are: of two kinds the fewer.
        level: Confidence level.
        what: What was resampled, in words.
    """
    tail = expanded_tail(level, max(2, units))
    known = draws[np.isfinite(draws)]
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (value, value)
    return Interval(value, min(value, float(low)), max(value, float(high)), level, f"pigeonhole bootstrap over {what}")
