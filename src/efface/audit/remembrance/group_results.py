"""Each group next to the others of its dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.classes import Class
from efface.audit.remembrance.disparity import common_odds_ratio, difference, permutation_p
from efface.audit.remembrance.effects import Changes
from efface.audit.remembrance.plan import Plan
from efface.audit.remembrance.registry import STRATA, UNKNOWN
from efface.audit.remembrance.totals import Totals

Floats = NDArray[np.float64]
_BLOCK = 100


@dataclass(frozen=True)
class Disparity:
    """A group next to the others of its dimension: differences of changes, and odds of omission after.

    Attributes:
        dimension: Of groups.
        group: Which.
        raw: Mean change less that of the others.
        adjusted: The same within strata of popularity and relations.
        p: P-value of the adjusted one, by permutation, as it is; `Measured` has it adjusted for all that is claimed.
        odds: Common odds ratio of omission, over strata; None where it is not defined.
        low: Lower end of its interval.
        high: Upper end.
    """

    dimension: str
    group: str
    raw: float
    adjusted: float
    p: float
    odds: float | None
    low: float | None
    high: float | None


def disparities(first: Totals, classes: Sequence[Class], strata: NDArray[np.str_], plan: Plan) -> tuple[Disparity, ...]:
    """Each group that is shown next to the others of its dimension, those withheld among them."""
    registry, everyone, found = first.answers.registry, classes[0].members, first.mentioned
    layer = np.unique(np.char.add(np.char.add(strata, "/"), registry.relation), return_inverse=True)[1]
    pairs = []
    for each in classes:
        if each.kind in registry.dimensions and not each.stratum:
            others = everyone & (registry.group(each.kind) != UNKNOWN) & ~each.members
            if others.sum() >= plan.smallest_cell:
                pairs.append((each, others))
    times = plan.exchanges(len(classes))
    numbers = [_differences(found, each.members, others, layer, times, plan.seed) for each, others in pairs]
    return tuple(
        Disparity(each.kind, each.name, *three, *_odds(first, each.members, others, strata, plan))
        for (each, others), three in zip(pairs, numbers, strict=True)
    )


def _differences(
    found: Changes,
    members: NDArray[np.bool_],
    others: NDArray[np.bool_],
    layer: NDArray[np.int64],
    permutations: int,
    seed: int,
) -> tuple[float, float, float]:
    """Raw, within layers, and the p-value of the latter."""
    both = members | others
    part = (found.change[both], found.n[both], members[both])
    raw, within = difference(*part, np.zeros(int(both.sum()), dtype=int)), difference(*part, layer[both])
    return raw, within, permutation_p(*part, layer[both], permutations=permutations, seed=seed)


def _odds(
    first: Totals, members: NDArray[np.bool_], others: NDArray[np.bool_], strata: NDArray[np.str_], plan: Plan
) -> tuple[float | None, float | None, float | None]:
    """Odds ratio of omission after, by strata, with percentiles over Poisson resamples of entities."""
    missed, rows = first.missed, first.paired
    layers = [strata == name for name in (*STRATA, UNKNOWN) if (strata == name).any()]
    sides = [[side & layer for layer in layers] for side in (members, others)]

    def ratio(weight: Floats) -> Floats:
        sums = ([value[there] @ weight[there] for there in side] for side in sides for value in (missed, rows))
        return common_odds_ratio(*map(np.stack, sums))

    value = float(ratio(np.ones((len(rows), 1)))[0])
    if not np.isfinite(value):
        return None, None, None
    rng, blocks = np.random.default_rng(plan.seed), max(1, plan.draws // _BLOCK)
    drawn = [ratio(rng.poisson(1.0, size=(len(rows), _BLOCK)).astype(np.float64)) for _ in range(blocks)]
    low, high = np.nanquantile(np.concatenate([*drawn, [value]]), [plan.alpha / 2, 1 - plan.alpha / 2])
    return value, min(float(low), value), max(float(high), value)
