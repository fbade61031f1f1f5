"""Statistics of remembrance as they are written down, in loops; and ledgers whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance import Ledger
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE


def flip_p(changes: list[float]) -> float:
    """P(|S| > |s|) + P(|S| = |s|) / 2 over all signs; 1 where the sum is nothing."""
    own = abs(sum(changes))
    if own < 1e-9:
        return 1.0
    sums = [
        abs(sum(s * c for s, c in zip(signs, changes, strict=True))) for signs in product((-1, 1), repeat=len(changes))
    ]
    more = sum(s > own + 1e-9 for s in sums) + 0.5 * sum(abs(s - own) <= 1e-9 for s in sums)
    return more / len(sums)


def pigeonhole(
    matrix: NDArray[Any], members: NDArray[Any], of_entities: NDArray[Any], of_queries: NDArray[Any]
) -> float:
    """One resampled sum, a cell at a time."""
    total = 0.0
    for e, q in product(range(matrix.shape[0]), range(matrix.shape[1])):
        total += members[e] * of_entities[e] * of_queries[q] * matrix[e, q]
    return total


def transfer(before: list[set[int]], after: list[set[int]], target: int, heir: int) -> float:
    """T(target -> heir): mean over answers that the target dropped out of."""
    parts = [
        (heir in now - then) / len(now - then) if now - then else 0.0
        for then, now in zip(before, after, strict=True)
        if target in then - now
    ]
    return sum(parts) / len(parts)


def common_odds_ratio(tables: list[tuple[float, float, float, float]]) -> float:
    """Mantel and Haenszel, of (missed, remembered) of the group and of the others, a stratum each."""
    top = sum(a * d / (a + b + c + d) for a, b, c, d in tables)
    return top / sum(b * c / (a + b + c + d) for a, b, c, d in tables)


def simulated(
    rng: np.random.Generator,
    *,
    entities: int,
    queries: int,
    hit: float | NDArray[Any] = 0.7,
    shared: float = 0.5,
    loss: float | NDArray[Any] = 0.0,
    by_entity: float = 0.0,
    by_query: float = 0.0,
    seeds: int = 1,
    again: bool = False,
) -> Ledger:
    """Every entity is relevant to every query; runs share `shared` of the first one's draws; an edit takes `loss`.

    `by_entity` and `by_query` are spreads of the chance to be remembered.
    """
    shape = (entities, queries, seeds)
    chance = np.broadcast_to(np.asarray(hit, dtype=np.float64).reshape(-1, 1, 1), shape)
    chance = chance + by_entity * rng.normal(size=(entities, 1, 1)) + by_query * rng.normal(size=(1, queries, 1))
    chance = np.clip(chance, 0, 1)
    base = rng.random(shape)

    def run(p: NDArray[Any]) -> NDArray[Any]:
        kept = rng.random(shape) < shared
        return np.where(kept, base, rng.random(shape)) < p

    lost = chance - np.asarray(loss, dtype=np.float64).reshape(-1, 1, 1)
    arms = {BEFORE: base < chance, AFTER: run(lost), **({AGAIN: run(chance)} if again else {})}
    return crossed(arms)


def crossed(arms: Mapping[str, NDArray[Any]]) -> Ledger:
    """A ledger of hits `(entities, queries, seeds)`, all relevant."""
    entities, queries, seeds = next(iter(arms.values())).shape
    place = np.indices((entities, queries, seeds)).reshape(3, -1)
    rows = {
        "entity": np.tile(place[0], len(arms)),
        "query": np.tile(place[1], len(arms)),
        "seed": np.tile(place[2], len(arms)),
        "arm": np.repeat(np.arange(len(arms)), place.shape[1]),
        "hit": np.concatenate([hits.reshape(-1) for hits in arms.values()]),
        "merit": np.ones(place.shape[1] * len(arms)),
    }
    names = ([f"e{i:05d}" for i in range(entities)], [f"q{i:05d}" for i in range(queries)])
    return Ledger.of_codes(*names, list(arms), rows)
