"""Pairs of what was erased and what was asked for, pooled by kind: what is kept, and what would have been by chance.

Pictures of one pair are few; those of all pairs of a kind (siblings of what was erased, everything else, such as are as
much alike) are not. Erasures and entities are crossed, so that both are resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface.audit.remembrance.bootstrap import ratio_interval, resampled, share_interval
from efface.audit.remembrance.interference import Interference
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.systems import AGAIN, BEFORE
from efface.stats.intervals import Interval

Floats = NDArray[np.float64]
_FEWEST = 10
"""Pictures asked again below which nothing is said of chance."""
Labels = NDArray[np.str_]


@dataclass(frozen=True)
class Kept:
    """Pairs of one kind.

    Attributes:
        kind: What they are.
        pairs: How many pairs of an erasure and an entity there are.
        entities: Of how many entities.
        n: Pictures that showed what was asked for before, and of which the judge can say after.
        kept: Share of them that still do.
        again: The same of the pipeline before, asked again from other noise; None where nothing is known.
        lost: What is lost beyond that: `1 - kept / again`.
        unsaid: Share of the pictures seen before of which the judge cannot say after.
    """

    kind: str
    pairs: int
    entities: int
    n: int
    kept: Interval
    again: Interval | None
    lost: Interval | None
    unsaid: float


def pooled(
    found: Interference, kinds: Labels, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[Kept, ...]:
    """What is kept of pairs, by kind, the kinds in order.

    Args:
        found: The pictures.
        kinds: Kind of each pair, `(erased, asked)`; `""` leaves a pair out.
        draws: Resamples, of erasures and of entities independently (a single erasure stands for itself).
        seed: Seed of resampling.
        level: Confidence level.

    Raises:
        InputError: If there is not one kind for each pair.
    """
    shape = (len(found.erased), len(found.asked))
    if np.shape(kinds) != shape:
        raise InputError(f"kinds has shape {np.shape(kinds)}, expected {shape}, one for each pair")
    names = sorted(set(np.asarray(kinds).reshape(-1).tolist()) - {""})
    then, now = (np.stack(each) for each in zip(*(found.counts(name) for name in found.erased), strict=True))
    then_again, again = (np.broadcast_to(each, shape) for each in found.counts(AGAIN))
    seen = np.broadcast_to(np.bincount(found.place, found.answers(BEFORE) == 1, shape[1]), shape)
    sums = {"n": then, "kept": now, "n again": then_again, "again": again}
    free = np.array([len(found.erased) > 1])
    result = []
    for name in names:
        of = np.asarray(kinds) == name
        cells = {key: np.where(of, value, 0.0) for key, value in sums.items()}
        # Entities are resampled as the columns of these matrices, erasures as their rows.
        drawn = resampled(cells, np.ones((1, shape[0])), free=free, draws=draws, seed=seed)
        total = {key: float(value.sum()) for key, value in cells.items()}
        if not total["n"]:
            continue
        asked = int(of.any(axis=0).sum())
        of_erased = int(of.any(axis=1).sum())
        units = min(asked, of_erased) if free[0] else asked
        what = f"{of_erased} erasures and {asked} entities" if free[0] else f"{asked} entities"
        more = {"units": units, "level": level, "what": what}
        kept = share_interval(total["kept"] / total["n"], _over(drawn, "kept", "n"), **more)
        chance = lost = None
        if total["n again"]:
            chance = share_interval(total["again"] / total["n again"], _over(drawn, "again", "n again"), **more)
            if total["n again"] >= _FEWEST and total["again"]:
                ratios = _divided(_over(drawn, "kept", "n"), _over(drawn, "again", "n again"))
                lost = ratio_interval(1 - kept.value / chance.value, 1 - ratios, units, level=level, what=what)
        unsaid = float(1 - total["n"] / max(1.0, np.where(of, seen, 0).sum()))
        result.append(Kept(name, int(of.sum()), asked, int(total["n"]), kept, chance, lost, unsaid))
    return tuple(result)


def _over(drawn: Mapping[str, Floats], top: str, bottom: str) -> Floats:
    return _divided(drawn[top][0], drawn[bottom][0])


def _divided(top: Floats, bottom: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)


def relations_of(found: Interference, registries: Mapping[str, Registry]) -> Labels:
    """Relation of each entity to what was erased, `(erased, asked)`."""
    rows = []
    for name in found.erased:
        registry = registries[name]
        rows.append(registry.relation[registry.places(found.asked)])
    return np.stack(rows)


def likeness_of(found: Interference, registries: Mapping[str, Registry]) -> Floats:
    """Similarity of each entity to what was erased, `(erased, asked)`; NaN where it is not known."""
    return np.stack([registries[name].similarity[registries[name].places(found.asked)] for name in found.erased])


def binned(values: Floats, used: NDArray[np.bool_], bins: int) -> tuple[Labels, dict[str, float]]:
    """Pairs by how much alike they are, as many in each bin: labels as of `pooled`, and the middle of each bin."""
    known = used & np.isfinite(values)
    labels = np.full(values.shape, "", dtype="U12")
    if not known.any():
        return labels, {}
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(0, len(edges) - 2))
    middles = {}
    for i in range(max(1, len(edges) - 1)):
        own = known & (place == i)
        if own.any():
            labels[own] = f"{i:03d}"
            middles[f"{i:03d}"] = float(values[own].mean())
    return labels, middles


def spread(values: Sequence[str], erased: int) -> Labels:
    """A label an entity, the same whatever was erased, `(erased, asked)`."""
    return np.broadcast_to(np.asarray(values, dtype=np.str_), (erased, len(values)))
