"""What single cells of entity and query add to a variance: the part that a pigeonhole bootstrap counts three times."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Products = Mapping[tuple[str, str], Floats]


def products(cells: Mapping[str, Floats], entity: NDArray[np.int64], members: Floats) -> dict[tuple[str, str], Floats]:
    """Sums over the cells of a class of each two of their numbers multiplied, `(classes,)`.

    Args:
        cells: Name -> a number a cell, `(cells,)`.
        entity: Entity of each cell, in order.
        members: `(classes, entities)`, 0 or 1.
    """
    start = np.flatnonzero(np.diff(entity, prepend=-1))
    inside, names = members[:, entity[start]], list(cells)
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i:]]
    if not len(start):
        return {pair: np.zeros(len(members)) for pair in pairs}
    return {(a, b): inside @ np.add.reduceat(cells[a] * cells[b], start) for a, b in pairs}


def of_cells(found: Products, weights: Mapping[str, Floats]) -> Floats:
    """Sum over cells of the squared `sum_k w_k x_k`, `(classes,)`.

    Args:
        found: As `products` gives it.
        weights: Name -> w of each class, `(classes,)`.
    """
    total = np.zeros(len(next(iter(weights.values()))))
    for one, left in weights.items():
        for other, right in weights.items():
            total += left * right * (found[one, other] if (one, other) in found else found[other, one])
    return total


def narrowed(exact: Floats, draws: Floats, cells: Floats) -> Floats:
    """Resamples of a pigeonhole bootstrap, drawn in about their estimate until their variance is right.

    With `V_e`, `V_q`, `V_eq` what sums by entity, by query and by cell say of the variance, the bootstrap has
    `V_e + V_q + V_eq`, where `V_e + V_q - V_eq` is right: each counts what single cells do. So twice `V_eq` comes off;
    what is left is at least `V_eq`, which is all of it where entities and queries do nothing. Sources: Owen, Annals of
    Applied Statistics 1 (2007); Cameron, Gelbach and Miller, Journal of Business & Economic Statistics 29 (2011).

    Args:
        exact: Estimates, `(classes,)`.
        draws: `(classes, draws)`; NaN where there is nothing.
        cells: `V_eq` of each, `(classes,)`: the sum over cells of the squares of what each does to the estimate.

    Does not guarantee: the variance where a few entities or queries have most of the rows.
    """
    known = np.isfinite(draws)
    mean = np.where(known, draws, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    variance = np.where(known, (draws - mean[:, None]) ** 2, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    right = np.maximum(cells, variance - 2 * cells)
    usable = (variance > 0) & np.isfinite(right)
    ratio = np.sqrt(np.where(usable, right, 1.0) / np.where(usable, variance, 1.0))
    return exact[:, None] + (draws - exact[:, None]) * ratio[:, None]
