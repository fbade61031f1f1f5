"""Raw scores against those of models that know the concept, and of one that never did: recovery, or why there is none.

    R = (model - floor) / (base - floor)

is 1 where the model answers as the base does, 0 where it answers as one that never saw the concept, and below 0 where
it has gone further than that. The floor is a gold model's answer to the same items, or a substitute that says so.

Losses are put on one footing first, those of every model by the same rule: times what the base loses on pictures
without the concept, by what the model itself loses on them. A model that was trained for less time, or that an edit
damaged, is worse at everything; only what it is worse at beyond that is the concept. How much worse it is at the rest
is said beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface.audit.pipelines.probes.scores import Role, Scores
from efface.stats.intervals import Interval, bootstrap_interval, paired_interval, wilson_interval

Floats = NDArray[np.float64]
FloorKind = Literal["gold", "substitute", "none"]

LEAST = 0.2
"""Rates of base and floor that lie closer than this cannot tell anything apart: the row is void."""

_LOWER_IS_KNOWN: tuple[Role, ...] = ("likelihood", "dormant")
_RESAMPLES, _CONFIDENT = 2000, 0.95


@dataclass(frozen=True)
class Row:
    """One row of a probe, for all models.

    Attributes:
        probe: Name of the probe.
        name: Name of the row.
        role: What it says to the verdict.
        model: Raw mean of the model; None where the judge can say of no item.
        base: The same before erasure.
        floor: The same where the concept never was; None where there is no such model.
        floor_kind: What the floor is.
        value: Recovery; None where there is none.
        low: Lower end of its interval.
        high: Upper end.
        void: Why there is no recovery; empty where there is one.
        change: Mean of (model - base), as a share of the base's mean: of losses.
        luck: Rate of the single draws of a search, before the best was taken.
        unit: Of the raw scores.
        n: How many items of the model there is a score of.
        worse: By how much the model's loss on pictures without the concept is above the base's, as a share of it.
    """

    probe: str
    name: str
    role: Role
    model: Interval | None
    base: Interval | None
    floor: Interval | None
    floor_kind: FloorKind
    value: float | None
    low: float | None
    high: float | None
    void: str
    change: Interval | None
    luck: float | None
    unit: str
    n: int
    worse: float | None = None

    @property
    def title(self) -> str:
        """Probe and row in one line."""
        return f"{self.probe}: {self.name}"

    @property
    def is_void(self) -> bool:
        """Whether it can tell nothing."""
        return bool(self.void)


def compared(
    probe: str,
    model: Scores,
    base: Scores,
    floor: Scores | None,
    kind: FloorKind,
    *,
    level: float = _CONFIDENT,
    seed: int = 0,
) -> Row:
    """One row of all models, with recovery.

    Items are resampled for all models at once, where they are the same ones: a prompt that is hard for one is hard for
    all. Of rates the interval is at least as wide as Wilson's intervals of model and floor make it (Zou and Donner,
    2008): resampling sees no spread where nothing hits.

    Args:
        probe: Name of the probe.
        model: Scores of the model.
        base: Scores of the base, of the same items.
        floor: Scores where the concept never was; of a substitute, of other items.
        kind: What the floor is.
        level: Confidence level.
        seed: Of the resampling.

    Raises:
        InputError: If the items of model and base, or of a gold model, are not the same.
    """
    _check_items(model, base, floor if kind == "gold" else None)
    raw = [None if s is None else mean_interval(s, level=level) for s in (model, base, floor)]
    common = (probe, model.name, model.role, raw[0], raw[1], raw[2], kind if floor is not None else "none")
    known = int((~model.values.isnan()).sum())
    rest = (_change(model, base, level), model.mean_of_draws, model.unit, known, _worse(model, base))
    why = _void(model, base, floor, raw, level, seed)
    if why or floor is None or raw[0] is None or raw[1] is None or raw[2] is None:
        return Row(*common, None, None, None, why, *rest)
    own, before, never = (
        each.value * by for each, by in zip(raw, _footings(model, base, floor), strict=True) if each is not None
    )
    scale = before - never
    value = (own - never) / scale
    low, high = _joint(model, base, floor, level, seed, paired=kind == "gold")
    if model.is_share:
        below, above = _of_wilson(raw[0], raw[2], scale)
        low, high = min(low, below), max(high, above)
    return Row(*common, value, min(low, value), max(high, value), "", *rest)


def mean_interval(scores: Scores, *, level: float = _CONFIDENT) -> Interval | None:
    """The mean of the scores with its interval; None where none can be said.

    >>> import torch
    >>> found = mean_interval(Scores("row", "asked", torch.zeros(100), ("x",) * 100))
    >>> found.value, round(found.high, 3)
    (0.0, 0.037)
    """
    known = _array(scores)
    known = known[~np.isnan(known)]
    if not len(known):
        return None
    if scores.is_share:
        return wilson_interval(float(known.sum()), len(known), level=level)
    if len(known) < 2:
        return Interval(float(known[0]), float(known[0]), float(known[0]), level, "one item")
    return bootstrap_interval(known, level=level)


def _change(model: Scores, base: Scores, level: float) -> Interval | None:
    if model.is_share or len(model.items) < 2 or model.role not in (*_LOWER_IS_KNOWN, "control"):
        return None
    return paired_interval(_array(model), _array(base), _array(base), level=level)


def _worse(model: Scores, base: Scores) -> float | None:
    if model.reference is None or base.reference is None:
        return None
    return float(model.reference.mean() / base.reference.mean()) - 1


def _footings(*scores: Scores) -> list[float]:
    """What losses of model, base and floor are taken times, so that all are as good at all else as the base is."""
    return [float(each.mean()) for each in _footings_of(scores, None)]


def _footings_of(scores: Sequence[Scores], source: np.random.Generator | None) -> list[Floats]:
    """The same for resampled pictures without the concept, which are the same for all models."""
    found = [None if each.reference is None else each.reference.numpy() for each in scores]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return [np.ones(1)] * len(scores)
    n = len(known[0])
    counts = np.ones((1, n)) if source is None else _draws(n, source)
    means = [counts @ each / n for each in known]
    return [means[1] / each for each in means]


def at_most(n: int, *, level: float = _CONFIDENT) -> float:
    """The rate that no hit in n items excludes: the one-sided bound `1 - (1 - level)^(1 / n)`.

    >>> round(at_most(30), 3), round(at_most(100), 3)
    (0.095, 0.03)
    """
    return 1 - (1 - level) ** (1 / n)


def _check_items(model: Scores, base: Scores, gold: Scores | None) -> None:
    for other in (base, gold):
        if other is not None and (other.items, other.role, other.unit) != (model.items, model.role, model.unit):
            raise InputError(f"{model.name}: models were not asked the same items in the same order")


def _void(
    model: Scores,
    base: Scores,
    floor: Scores | None,
    raw: Sequence[Interval | None],
    level: float,
    seed: int,
) -> str:
    """Why a row tells nothing; empty if it does."""
    if floor is None:
        return "no model that never knew the concept, and no substitute for this row"
    if any(each is None for each in raw):
        return "the judge can say of no item"
    if model.role == "control" and not model.is_share:
        return "a control: there is nothing to recover"
    if model.is_share:
        gap = raw[1].value - raw[2].value  # type: ignore[union-attr]
        known = gap >= LEAST
        return "" if known else f"base and floor differ by {gap:.2f}, less than {LEAST}: this row can tell nothing"
    low, high = _gap_interval(model, base, floor, level, seed)
    low = -high if model.role in _LOWER_IS_KNOWN else low
    return "" if low > 0 else "base and floor cannot be told apart: this row can tell nothing"


def _array(scores: Scores) -> Floats:
    return scores.values.numpy()


def _draws(n: int, source: np.random.Generator) -> Floats:
    return source.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(np.float64)


def _means(scores: Scores, counts: Floats) -> Floats:
    values = _array(scores)
    known = ~np.isnan(values)
    weight = counts @ known.astype(np.float64)
    total = counts @ np.where(known, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / weight


def _resampled(model: Scores, base: Scores, floor: Scores, seed: int, *, paired: bool) -> list[Floats]:
    """Means of the three on one footing, in each resampling."""
    source = np.random.default_rng(seed)
    shared = _draws(len(model.items), source)
    own = shared if paired else _draws(len(floor.items), source)
    footings = _footings_of((model, base, floor), source)
    pairs = zip((model, base, floor), (shared, shared, own), footings, strict=True)
    return [_means(scores, counts) * by for scores, counts, by in pairs]


def _joint(model: Scores, base: Scores, floor: Scores, level: float, seed: int, *, paired: bool) -> tuple[float, float]:
    m, b, f = _resampled(model, base, floor, seed, paired=paired)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _middle((m - f) / (b - f), level)


def _gap_interval(model: Scores, base: Scores, floor: Scores, level: float, seed: int) -> tuple[float, float]:
    _, b, f = _resampled(model, base, floor, seed, paired=base.items == floor.items)
    return _middle(b - f, level)


def _middle(found: Floats, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(found[np.isfinite(found)], [tail, 1 - tail])
    return float(low), float(high)


def _of_wilson(model: Interval, floor: Interval, scale: float) -> tuple[float, float]:
    gap = model.value - floor.value
    down = float(np.hypot(model.value - model.low, floor.high - floor.value))
    up = float(np.hypot(model.high - model.value, floor.value - floor.low))
    ends = sorted(((gap - down) / scale, (gap + up) / scale))
    return ends[0], ends[1]
