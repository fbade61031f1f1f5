"""S7: do the changes of bystanders follow their likeness to the target?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._lazy import require
from efface.audit.remembrance.columns import EXTRA

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Design:
    """The regression `Delta_e = alpha + b1 sim_e + b2 ln pi_e + gamma_relation`, weighted by queries.

    Attributes:
        names: Its terms.
        used: Entities in it, `(entities,)`.
        solver: `(terms, used entities)`: what turns changes into coefficients, `(X' W X)^+ X' W`.
    """

    names: tuple[str, ...]
    used: NDArray[np.bool_]
    solver: Floats

    def fit(self, change: ArrayLike, there: NDArray[np.int64] | slice = slice(None)) -> Floats:
        """Coefficients of changes `(entities, ...)`; of some entities, what they add to them."""
        used = self.used[there]
        return (
            self.solver[:, np.isin(np.flatnonzero(self.used), np.arange(len(self.used))[there])]
            @ (np.asarray(change, dtype=np.float64)[used])
        )


SIMILARITY, POPULARITY = "similarity", "log popularity"


def design(
    n: ArrayLike, similarity: ArrayLike, popularity: ArrayLike, relation: Sequence[str], tested: ArrayLike
) -> Design | None:
    """The regression for entities that have what it needs; terms that do not vary are left out.

    Args:
        n: Queries of each entity, its weight.
        similarity: To the target.
        popularity: pi.
        relation: To the target.
        tested: Whom to take: bystanders.

    Returns:
        None where similarity is unknown or the same for all.
    """
    n, similarity, popularity = (np.asarray(each, dtype=np.float64) for each in (n, similarity, popularity))
    kind = np.asarray(relation)
    used = np.asarray(tested, dtype=bool) & (n > 0) & np.isfinite(similarity)
    popular = used & np.isfinite(popularity) & (popularity > 0)
    with_popularity = popular.sum() > used.sum() / 2 and np.ptp(popularity[popular]) > 0
    used = popular if with_popularity else used
    if used.sum() < 3 or not np.ptp(similarity[used]):
        return None
    kinds = sorted(set(kind[used].tolist()))[1:]
    terms = {"intercept": np.ones(used.sum()), SIMILARITY: similarity[used]}
    terms |= {POPULARITY: np.log(popularity[used])} if with_popularity else {}
    terms |= {f"is {name}": (kind[used] == name).astype(np.float64) for name in kinds}
    x, root = np.stack(list(terms.values()), axis=1), np.sqrt(n[used])
    return Design(tuple(terms), used, np.linalg.pinv(root[:, None] * x) * root)


def isotonic(similarity: ArrayLike, change: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """The curve of changes that falls with similarity and fits best, by scipy: similarities and values."""
    similarity, change, n = (np.asarray(each, dtype=np.float64) for each in (similarity, change, n))
    points, place = np.unique(similarity, return_inverse=True)
    weight = np.bincount(place, n)
    means = np.bincount(place, n * change) / weight
    fitted = require("scipy.optimize", extra=EXTRA).isotonic_regression(means, weights=weight, increasing=False)
    return points, np.asarray(fitted.x)
