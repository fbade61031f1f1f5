"""Figures of an audit of vectors, as data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface.audit.figure import Figure, Series
from efface.audit.finding import Finding
from efface.audit.vectors.folds import CONDITIONS, View
from efface.audit.vectors.labels import Labels
from efface.report.data import AFTER, BEFORE, CHANCE
from efface.stats.intervals import wilson_interval

_BINS = 32
_GROUPS_AT_MOST = 40
_CENTRAL = 0.995


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
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
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


class Separation:
    """Held-out rows along the line through the class means of the training rows, before and after.

    For a concept of two classes; the line is that of the rows *before* erasure, in both pictures.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self._position = {c: np.zeros(len(labels)) for c in CONDITIONS}

    def add(self, view: View) -> None:
        """Take in one fold's test rows."""
        x, z = view.before[view.train], self.labels.values[view.train]
        line = x[z == 1].mean(axis=0) - x[z == 0].mean(axis=0)
        line = line / max(float(np.linalg.norm(line)), np.finfo(np.float64).tiny)
        centre = x.mean(axis=0) @ line
        spread = max(float((x @ line).std()), np.finfo(np.float64).tiny)
        for condition in CONDITIONS:
            self._position[condition][view.test] = (view.rows(condition)[view.test] @ line - centre) / spread

    def figures(self) -> tuple[Figure, Figure]:
        """Two histograms with the same bins."""
        reach = float(max(np.quantile(np.abs(p), _CENTRAL) for p in self._position.values()))
        edges = np.linspace(-reach, reach, _BINS + 1)
        return self._figure(BEFORE, edges), self._figure(AFTER, edges)

    def _figure(self, condition: str, edges: NDArray[np.float64]) -> Figure:
        middles = tuple(((edges[:-1] + edges[1:]) / 2).tolist())
        series = [
            Series(name, middles, self._shares(condition, label, edges))
            for label, name in enumerate(self.labels.classes)
        ]
        return Figure(
            f"{condition.capitalize()} erasure",
            tuple(series),
            kind="histogram",
            x_label="position between the two class means (standard deviations)",
            y_label="share of the class",
            unit="share",
            caption=f"Held-out rows on the line through the two class means, {condition} erasure.",
        )

    def _shares(self, condition: str, label: int, edges: NDArray[np.float64]) -> tuple[float, ...]:
        position = self._position[condition][self.labels.values == label]
        counts = np.histogram(np.clip(position, edges[0], edges[-1]), edges)[0]
        return tuple((counts / len(position)).tolist())
