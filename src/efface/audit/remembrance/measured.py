"""All that is measured of one ledger, before it is put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface.audit.remembrance.attention import exposures, shares, shift
from efface.audit.remembrance.certificate import Certificate, excess
from efface.audit.remembrance.class_results import ClassResult, class_results
from efface.audit.remembrance.classes import Class, declared
from efface.audit.remembrance.effects import changes
from efface.audit.remembrance.group_results import Disparity, disparities
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.panel import Panel, aligned
from efface.audit.remembrance.plan import Plan
from efface.audit.remembrance.popularity import Slope, slope
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.spillover import Design, design
from efface.audit.remembrance.standing import SUPPRESSED, Standing, stand
from efface.audit.remembrance.sums import Sums, summed
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE, PLACEBO

Floats = NDArray[np.float64]
TARGET = Class("target", "target", np.zeros(0, dtype=bool))


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything."""

    panel: Panel
    plan: Plan
    strata: NDArray[np.str_]
    bystanders: NDArray[np.bool_]
    standing: Standing
    again: Standing | None
    sums: Sums
    spill: Design | None
    classes: tuple[ClassResult, ...]
    withheld: tuple[str, ...]
    disparities: tuple[Disparity, ...]
    certificate: Certificate | None
    attention: Mapping[str, Floats]
    slopes: Mapping[str, Slope | None]
    placebos: Mapping[str, tuple[float, float, float]]
    critical: float

    @property
    def target(self) -> int | None:
        """Place of the target among the classes of the sums."""
        last = len(self.sums.classes) - 1
        return last if self.sums.classes[last].kind == TARGET.kind else None


def measure(ledger: Ledger, registry: Registry, plan: Plan) -> Measured:
    """Measure it.

    Raises:
        InputError: If an arm is missing or unbalanced, or nobody who is no target is relevant anywhere.
    """
    placebos = tuple(arm for arm in ledger.arms if arm.startswith(PLACEBO))
    arms = (BEFORE, AFTER, *([AGAIN] if AGAIN in ledger.arms else []))
    panel = aligned(ledger, registry, arms)
    found = changes(panel, BEFORE, AFTER, outcome=plan.outcome)
    asked = panel.by_entity(panel.relevant) > 0
    bystanders = asked & ~registry.targets
    if not bystanders.any():
        raise InputError("nobody but the target is relevant to a query: ask for those who should be remembered too")
    again = changes(panel, BEFORE, AGAIN, outcome=plan.outcome) if AGAIN in arms else None
    options = {name: getattr(plan, name) for name in ("margin", "fdr", "alpha", "min_power", "rule", "seed")}
    options |= {"flips": plan.draws, "exact": plan.outcome == "hit"}
    standing = stand(found, bystanders, **options)
    twice = None if again is None else stand(again, bystanders, **options)
    strata = registry.strata()
    answered = bystanders & (found.n > 0)
    classes, withheld = declared(registry, strata, answered if answered.any() else bystanders, plan.smallest_cell)
    spill = design(found.n, registry.similarity, registry.popularity, registry.relation.tolist(), bystanders)
    hit = asked & registry.targets
    listed = [*classes, *([Class(TARGET.kind, TARGET.name, hit)] if hit.any() else [])]
    free = np.array([each.kind != TARGET.kind for each in listed])
    sums = summed(panel, listed, free, standing, spill, draws=plan.draws, resample=plan.resample, seed=plan.seed)
    results, certificate = class_results(panel, classes, sums, found.squares, plan)
    return Measured(
        panel,
        plan,
        strata,
        bystanders,
        standing,
        twice,
        sums,
        spill,
        results,
        tuple(withheld),
        disparities(panel, classes, found, strata, plan),
        certificate,
        exposures(panel, arms),
        {arm: _slope(panel, arm, bystanders) for arm in arms},
        _placebos(ledger, registry, placebos, standing, bystanders, panel, options),
        float(np.quantile(sums.largest, 1 - plan.alpha)),
    )


def _slope(panel: Panel, arm: str, bystanders: NDArray[np.bool_]) -> Slope | None:
    """Of being remembered on log popularity; one intercept for all where queries have one entity each."""
    popularity = panel.registry.popularity
    known = bystanders & np.isfinite(popularity) & (popularity > 0)
    used = panel.relevant & panel.fine(arm) & known[panel.entity]
    if not used.any():
        return None
    query = panel.query[used]
    alone = len(np.unique(query)) * 2 > len(query)
    return slope(
        panel.hit[arm][used] > 0,
        np.log(popularity[panel.entity[used]]),
        np.zeros_like(query) if alone else query,
        panel.entity[used],
        entities=len(panel.registry),
    )


def _placebos(
    ledger: Ledger,
    registry: Registry,
    arms: Sequence[str],
    standing: Standing,
    bystanders: NDArray[np.bool_],
    panel: Panel,
    options: Mapping[str, object],
) -> dict[str, tuple[float, float, float]]:
    """Statistic -> value, excess over the placebos, p-value."""
    if not arms:
        return {}

    def statistics(one: Panel, stood: Standing, arm: str) -> tuple[float, float, float]:
        n = stood.found.n[bystanders]
        loss = -float((stood.found.change[bystanders] * n).sum() / max(1.0, n.sum()))
        seen = exposures(one, (BEFORE, arm))
        return loss, float(shift(seen[BEFORE], seen[arm])), float((stood.status == SUPPRESSED).sum())

    own = statistics(panel, standing, AFTER)
    found = []
    for arm in arms:
        other = aligned(ledger, registry, (BEFORE, arm))
        found.append(statistics(other, stand(changes(other, BEFORE, arm), bystanders, **options), arm))  # type: ignore[arg-type]
    columns = np.array(found).T
    names = ("mean loss of bystanders", "shift of attention", "suppressed bystanders")
    return {name: (value, *excess(value, column)) for name, value, column in zip(names, own, columns, strict=True)}


def merit_shares(panel: Panel, standard: str) -> Floats:
    """Attention that each entity is due by a standard: `"merit"`, `"popularity"` or `"uniform"`."""
    asked = panel.by_entity(panel.relevant) > 0
    if standard == "merit":
        return shares(panel.by_entity(panel.merit))
    if standard == "uniform":
        return shares(asked.astype(np.float64))
    popularity = panel.registry.popularity
    if not np.isfinite(popularity[asked]).all():
        raise InputError("standard='popularity' needs the popularity of everyone: give it, or write standard='merit'")
    return shares(np.where(asked, popularity, 0.0))
