"""Figures of an audit of vectors, as data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface.audit.figure import Figure, Series
from efface.audit.finding import Finding
from efface.audit.vectors.folds import CONDITIONS
from efface.audit.vectors.probes import ProbeScores
from efface.core.labels import read_groups
from efface.report.data import AFTER, CHANCE
from efface.stats.intervals import wilson_interval

_BINS = 32
_GROUPS_AT_MOST = 40
_CENTRAL, _LEAST_REACH = 0.995, 0.1


def before_after(title: str, findings: Sequence[Finding], *, x_label: str, caption: str = "") -> Figure:
    """Dots with whiskers, one row a family, one colour a condition; chance as a line, or as a tick in each row."""
    sides = {condition: [f for f in findings if f.condition == condition] for condition in CONDITIONS}
    series = [Series.of(side, found, [_short(f.family) for f in found]) for side, found in sides.items()]
    levels = {f.family: f.chance or 0.0 for f in findings}
    chance = findings[0].chance
    if len(set(levels.values())) > 1:
        series.append(Series(CHANCE, tuple(map(_short, levels)), tuple(levels.values())))
        chance = None
    return Figure(title, tuple(series), x_label=x_label, chance=chance, unit=findings[0].unit, caption=caption)


def _short(family: str) -> str:
    return family.removeprefix("task: ")


def by_group(title: str, hits: NDArray[np.float64], groups: ArrayLike, *, chance: float, caption: str) -> Figure | None:
    """Accuracy in each group with Wilson intervals, lowest first; None if there are more than forty groups."""
    names, codes = np.unique(read_groups(groups), return_inverse=True)
    if len(names) > _GROUPS_AT_MOST:
        return None
    counts, sums = np.bincount(codes), np.bincount(codes, hits)
    spans = [wilson_interval(float(s), int(n)) for s, n in zip(sums, counts, strict=True)]
    order = np.argsort([s.value for s in spans], kind="stable")
    series = Series(
        AFTER,
        tuple(str(names[i]) for i in order),
        tuple(spans[i].value for i in order),
        tuple(spans[i].low for i in order),
        tuple(spans[i].high for i in order),
    )
    return Figure(title, (series,), x_label="share of rows read right", chance=chance, unit="share", caption=caption)


def decisions(scores: ProbeScores) -> tuple[Figure, Figure]:
    """What a probe reads of two classes, before and after: its own log-odds for rows held out, in common bins.

    Class means on a line say little of what is read: they may lie upon one another where a probe tells the rows apart.
    """
    positions = {c: scores.decisions(c) for c in CONDITIONS}
    reach = max(_LEAST_REACH, *(float(np.quantile(np.abs(p), _CENTRAL)) for p in positions.values()))
    edges = np.linspace(-reach, reach, _BINS + 1)
    before, after = (_histogram(scores, c, positions[c], edges) for c in CONDITIONS)
    return before, after


def _histogram(scores: ProbeScores, condition: str, at: NDArray[np.float64], edges: NDArray[np.float64]) -> Figure:
    middles, (first, second) = tuple(((edges[:-1] + edges[1:]) / 2).tolist()), scores.labels.classes
    return Figure(
        f"{condition.capitalize()} erasure: what the {scores.family} makes of each row",
        tuple(
            Series(name, middles, _shares(at[scores.labels.values == label], edges))
            for label, name in enumerate((first, second))
        ),
        kind="histogram",
        x_label=f"log-odds that it gives to {second}",
        y_label="share of the class",
        unit="share",
        caption=f"Held-out rows, {condition} erasure: right of 0 the probe says {second}, left of it {first}.",
    )


def _shares(position: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[float, ...]:
    counts = np.histogram(np.clip(position, edges[0], edges[-1]), edges)[0]
    return tuple((counts / len(position)).tolist())
