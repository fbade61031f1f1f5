"""Raw scores against those of models that know the concept, and of one that never did: recovery, or why there is none.

    R = (model - floor) / (base - floor)

is 1 where the model answers as the base does, 0 where it answers as one that never saw the concept, and below 0 where
it has gone further than that. The floor is a gold model's answer to the same items, or a substitute that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    Losses of a gold model are put on the base's footing first: times what the base loses on pictures without the
    concept, by what the gold model loses on them. The model's own are left as they are, so that damage stays damage.

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
    floor = None if floor is None else _on_the_footing_of(base, floor)
    raw = [None if s is None else mean_interval(s, level=level) for s in (model, base, floor)]
    common = (probe, model.name, model.role, raw[0], raw[1], raw[2], kind if floor is not None else "none")
    rest = (_change(model, base, level), model.mean_of_draws, model.unit, int((~model.values.isnan()).sum()))
    why = _void(model, base, floor, raw, level, seed)
    if why or floor is None or raw[0] is None or raw[1] is None or raw[2] is None:
        return Row(*common, None, None, None, why, *rest)
    scale = raw[1].value - raw[2].value
    value = (raw[0].value - raw[2].value) / scale
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


def _on_the_footing_of(base: Scores, floor: Scores) -> Scores:
    """A floor of losses as it would be if the model were as good at all else as the base is."""
    if floor.reference is None or base.reference is None:
        return floor
    return replace(floor, values=floor.values * (base.reference / floor.reference))


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
    gap = raw[1].value - raw[2].value  # type: ignore[union-attr]
    if model.role in _LOWER_IS_KNOWN:
        gap = -gap
    if model.is_share and gap < LEAST:
        return f"base and floor differ by {gap:.2f}, less than {LEAST}: this row can tell nothing"
    if model.is_share:
        return ""
    low, _ = _gap_interval(base, floor, level, seed)
    low = low if model.role not in _LOWER_IS_KNOWN else -_gap_interval(base, floor, level, seed)[1]
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


def _resampled(all_of: Sequence[Scores], seed: int, paired: Sequence[bool]) -> list[Floats]:
    source = np.random.default_rng(seed)
    shared = _draws(len(all_of[0].items), source)
    return [_means(s, shared if same else _draws(len(s.items), source)) for s, same in zip(all_of, paired, strict=True)]


def _joint(model: Scores, base: Scores, floor: Scores, level: float, seed: int, *, paired: bool) -> tuple[float, float]:
    m, b, f = _resampled([model, base, floor], seed, [True, True, paired])
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (m - f) / (b - f)
    found = found[np.isfinite(found)]
    tail = (1 - level) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _gap_interval(base: Scores, floor: Scores, level: float, seed: int) -> tuple[float, float]:
    b, f = _resampled([base, floor], seed, [True, base.items == floor.items])
    gap = (b - f)[np.isfinite(b - f)]
    tail = (1 - level) / 2
    low, high = np.quantile(gap, [tail, 1 - tail])
    return float(low), float(high)


def _of_wilson(model: Interval, floor: Interval, scale: float) -> tuple[float, float]:
    gap = model.value - floor.value
    down = float(np.hypot(model.value - model.low, floor.high - floor.value))
    up = float(np.hypot(model.high - model.value, floor.value - floor.low))
    ends = sorted(((gap - down) / scale, (gap + up) / scale))
    return ends[0], ends[1]
