"""One pass over the resamples: sums of hits and attention of each class, from which S1, S2, S4, S7 and S10 follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.bootstrap import Resample, resampled
from efface.audit.remembrance.classes import Class
from efface.audit.remembrance.panel import Panel
from efface.audit.remembrance.spillover import Design
from efface.audit.remembrance.standing import Standing
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE

Floats = NDArray[np.float64]
N, THEN, NOW, BOTH = "rows", "hits before", "hits after", "hits before and after"
N_AGAIN, THEN_AGAIN, BOTH_AGAIN = "rows again", "hits before, of those", "hits before and again"
DUE_THEN, GOT_THEN, DUE_NOW, GOT_NOW = "merit before", "merit hit before", "merit after", "merit hit after"
SEEN_THEN, SEEN_NOW = "attention before", "attention after"


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of each class, and their resamples.

    Attributes:
        classes: What they are of.
        exact: Name -> `(classes,)`.
        draws: Name -> `(classes, draws)`.
        largest: Largest error of a bystander in each resample, in its standard errors, `(draws,)`.
        slopes: Coefficients of the spillover in each resample, `(terms, draws)`, if there is one.
    """

    classes: Sequence[Class]
    exact: Mapping[str, Floats]
    draws: Mapping[str, Floats]
    largest: Floats
    slopes: Floats | None = None

    def ratio(self, top: str, bottom: str, less: str | None = None) -> tuple[Floats, Floats]:
        """`(top - less) / bottom` of each class, and of each resample; NaN where there is nothing to divide by."""
        pairs = []
        for sums in (self.exact, self.draws):
            under = sums[bottom]
            over = sums[top] if less is None else sums[top] - sums[less]
            pairs.append(np.where(under > 0, over / np.where(under > 0, under, 1), np.nan))
        return pairs[0], pairs[1]


def matrices_of(panel: Panel) -> dict[str, NDArray[Any]]:
    """What is summed, a value a row `(n,)`."""
    before, after = panel.hit[BEFORE], panel.hit[AFTER]
    paired = panel.relevant & panel.fine(BEFORE, AFTER)
    found = {N: paired * 1.0, THEN: before * paired, NOW: after * paired, BOTH: before * after * paired}
    # With one merit for all and no answer missing the sums by merit are those already there.
    if np.ptp(panel.merit[panel.relevant]) > 0 or (panel.relevant & ~paired).any():
        for due, got, arm in ((DUE_THEN, GOT_THEN, BEFORE), (DUE_NOW, GOT_NOW, AFTER)):
            found[due] = panel.merit * panel.fine(arm)
            found[got] = found[due] * panel.hit[arm]
    if AGAIN in panel.hit:
        twice = panel.relevant & panel.fine(BEFORE, AGAIN)
        found |= {N_AGAIN: twice * 1.0, THEN_AGAIN: before * twice, BOTH_AGAIN: before * panel.hit[AGAIN] * twice}
    answered = panel.fine(BEFORE, AFTER)
    return {**found, SEEN_THEN: panel.exposure[BEFORE] * answered, SEEN_NOW: panel.exposure[AFTER] * answered}


@dataclass
class _Entities:
    """What is kept of each entity's resampled changes: the largest error, and the slopes."""

    standing: Standing
    spill: Design | None
    largest: list[Floats] = field(default_factory=list)
    slopes: list[Floats] = field(default_factory=list)

    def __call__(self, sums: Mapping[str, Floats]) -> None:
        rows, own = sums[N], self.standing.found.change[:, None]
        change = np.where(rows > 0, (sums[NOW] - sums[THEN]) / np.where(rows > 0, rows, 1), own)
        able = np.isfinite(self.standing.shrunk)
        far = np.abs(change[able] - own[able]) / self.standing.error[able][:, None]
        self.largest.append(far.max(axis=0, initial=0.0))
        if self.spill is not None:
            self.slopes.append(self.spill.fit(change))


def summed(
    panel: Panel,
    classes: Sequence[Class],
    free: NDArray[np.bool_],
    standing: Standing,
    spill: Design | None,
    *,
    draws: int,
    resample: Resample,
    seed: int,
) -> Sums:
    """Sums of all classes with their resamples.

    Args:
        panel: The arms.
        classes: Of which entities.
        free: Which classes are samples of entities; the others, such as the target, are whole.
        standing: What each entity's change is.
        spill: Regression on likeness, if there is one.
        draws: How many resamples.
        resample: `"both"` entities and queries, or `"queries"` where the entities asked for are all there are.
        seed: Seed.
    """
    values = matrices_of(panel)
    members = np.stack([each.members for each in classes]).astype(np.float64)
    kept = _Entities(standing, spill)
    found = resampled(
        {name: panel.matrix(value) for name, value in values.items()},
        members,
        free=free & (resample == "both"),
        draws=draws,
        seed=seed,
        each=kept,
    )
    exact = {name: members @ panel.by_entity(value) for name, value in values.items()}
    for sums in (exact, found):
        for due, got, rows, hits in ((DUE_THEN, GOT_THEN, N, THEN), (DUE_NOW, GOT_NOW, N, NOW)):
            sums.setdefault(due, sums[rows])
            sums.setdefault(got, sums[hits])
    slopes = np.concatenate(kept.slopes, axis=1) if kept.slopes else None
    return Sums(classes, exact, found, np.concatenate(kept.largest), slopes)
