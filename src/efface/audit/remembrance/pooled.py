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
from efface._validate import check_positive_int
from efface.audit.remembrance.bootstrap import resampled, share_interval
from efface.audit.remembrance.crossed import narrowed
from efface.audit.remembrance.interference import Interference
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.systems import AGAIN, BEFORE
from efface.stats.intervals import Interval, check_draws, wilson_interval

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
        lost: What is lost beyond that, `again - kept`; None where too few were asked again.
        clear: Whether that is a loss for sure, all kinds that are looked at taken together.
        unsaid: Share of the pictures seen before of which the judge cannot say after.
    """

    kind: str
    pairs: int
    entities: int
    n: int
    kept: Interval
    again: Interval | None
    lost: Interval | None
    clear: bool
    unsaid: float


def pooled(
    found: Interference, kinds: Labels, *, draws: int = 2000, seed: int = 0, level: float = 0.95, looks: int = 1
) -> tuple[Kept, ...]:
    """What is kept of pairs, by kind, the kinds in order.

    Args:
        found: The pictures.
        kinds: Kind of each pair, `(erased, asked)`; `""` leaves a pair out.
        draws: Resamples, of erasures and of entities independently (a single erasure stands for itself).
        seed: Seed of resampling.
        level: Confidence level.
        looks: How many kinds are looked at in all: what is `clear` is so for all together (Bonferroni).

    Raises:
        InputError: If there is not one kind for each pair, or draws are too few for the level.
    """
    check_draws(draws, 1 - level)
    check_positive_int(looks, "looks")
    shape = (len(found.erased), len(found.asked))
    if np.shape(kinds) != shape:
        raise InputError(f"kinds has shape {np.shape(kinds)}, expected {shape}, one for each pair")
    of_pairs = np.asarray(kinds)
    names = sorted(set(of_pairs.reshape(-1).tolist()) - {""})
    then, now = (np.stack(each) for each in zip(*(found.counts(name) for name in found.erased), strict=True))
    then_again, again = (np.broadcast_to(each, shape) for each in found.counts(AGAIN))
    seen = np.broadcast_to(np.bincount(found.place, found.answers(BEFORE) == 1, shape[1]), shape)
    sums = {"n": then, "kept": now}
    free = np.array([len(found.erased) > 1])
    result = []
    for name in names:
        of = of_pairs == name
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
        values, share = _over(drawn, "kept", "n"), total["kept"] / total["n"]
        if free[0]:
            single = ((cells["kept"] - share * cells["n"]) ** 2).sum() / total["n"] ** 2
            values = narrowed(np.array([share]), values[None], np.array([single]))[0]
        kept = share_interval(share, values, **more)
        # Who was asked again was so once, whatever was erased: what counts are entities.
        alone = [float(each[0][of.any(axis=0)].sum()) for each in (then_again, again)]
        chance = wilson_interval(alone[1], int(alone[0]), level=level) if alone[0] else None
        lost, clear = None, False
        if alone[0] >= _FEWEST and chance is not None:
            lost = _less(chance, kept, what)
            strict = 1 - (1 - level) / looks
            narrow = share_interval(kept.value, values, **{**more, "level": strict})
            clear = _less(wilson_interval(alone[1], int(alone[0]), level=strict), narrow, what).low > 0
        unsaid = float(1 - total["n"] / max(1.0, np.where(of, seen, 0).sum()))
        result.append(Kept(name, int(of.sum()), asked, int(total["n"]), kept, chance, lost, clear, unsaid))
    return tuple(result)


def _less(one: Interval, other: Interval, what: str) -> Interval:
    """A difference of two shares from their intervals.

    Squares of the distances to the ends add up, as variances do (Zou and Donner, Statistics in Medicine 27, 2008). That
    holds where one of them is 0 or 1, which resampling cannot tell from certainty; of shares that go together, as these
    do, it is too wide rather than too short.
    """
    value = one.value - other.value
    low = value - float(np.hypot(one.value - one.low, other.high - other.value))
    high = value + float(np.hypot(one.high - one.value, other.value - other.low))
    return Interval(value, max(-1.0, low), min(1.0, high), one.level, f"of shares with intervals over {what}")


def _over(drawn: Mapping[str, Floats], top: str, bottom: str) -> Floats:
    """NaN where there is nothing to divide by."""
    one, other = drawn[top][0], drawn[bottom][0]
    return np.divide(one, other, out=np.full(len(one), np.nan), where=other > 0)


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
