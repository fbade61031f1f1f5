"""All that is measured of one ledger, before it is put into words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface.audit.remembrance.attention import shares, shift
from efface.audit.remembrance.certificate import Certificate, excess
from efface.audit.remembrance.class_results import ClassResult, class_results
from efface.audit.remembrance.classes import Class, declared
from efface.audit.remembrance.effects import Changes, Evidence, joined
from efface.audit.remembrance.group_results import Disparity, disparities
from efface.audit.remembrance.multiplicity import adjusted, one_budget
from efface.audit.remembrance.panel import Panel, Rows
from efface.audit.remembrance.plan import Plan
from efface.audit.remembrance.popularity import Slope, slope
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.spillover import Design, design
from efface.audit.remembrance.standing import SUPPRESSED, Standing, stand, stricter
from efface.audit.remembrance.sums import Sums, summed
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE, PLACEBO
from efface.audit.remembrance.totals import Totals, tested, totals

Floats = NDArray[np.float64]
CHECK = 0.01
"""False discovery rate of the lists of the system before asked twice, which should name nobody."""
TARGET = Class("target", "target", np.zeros(0, dtype=bool))


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything.

    Attributes:
        panel: The answers; it has the rows too where `whole`.
        first: What the first pass over the rows found.
        whole: Whether all rows were there at once; what needs that is left out otherwise.
    """

    panel: Panel
    first: Totals
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
    whole: bool = True

    @property
    def target(self) -> int | None:
        """Place of the target among the classes of the sums."""
        last = len(self.sums.classes) - 1
        return last if self.sums.classes[last].kind == TARGET.kind else None


def measure(rows: Rows, registry: Registry, plan: Plan) -> Measured:
    """Measure it.

    Raises:
        InputError: If an arm is missing or unbalanced, or nobody who is no target is relevant anywhere.
    """
    placebos = tuple(arm for arm in rows.arms if arm.startswith(PLACEBO))
    arms = (BEFORE, AFTER, *([AGAIN] if AGAIN in rows.arms else []))
    first = totals(rows, registry, arms, plan)
    found, tests = first.found
    asked = first.asked > 0
    bystanders = asked & ~registry.targets
    if not bystanders.any():
        raise InputError("nobody but the target is relevant to a query: ask for those who should be remembered too")
    options = {name: getattr(plan, name) for name in ("margin", "fdr", "alpha", "min_power", "rule")}
    options |= {"exact": plan.outcome == "hit"}
    standing = stand(found, bystanders, tests=tests, **options)
    check = {**options, "fdr": min(plan.fdr, CHECK)}
    twice = None if first.again is None else stand(first.again[0], bystanders, tests=first.again[1], **check)
    strata = registry.strata()
    answered = bystanders & (found.n > 0)
    classes, withheld = declared(registry, strata, answered if answered.any() else bystanders, plan.smallest_cell)
    spill = design(found.n, registry.similarity, registry.popularity, registry.relation.tolist(), bystanders)
    hit = asked & registry.targets
    listed = [*classes, *([Class(TARGET.kind, TARGET.name, hit)] if hit.any() else [])]
    # The target is all that it is, and so is a single entity: nothing is known of others like it.
    free = [plan.resample == "both" and each.kind != TARGET.kind and each.members.sum() > 1 for each in listed]
    sums = summed(rows, arms, first, listed, np.array(free), standing, spill, plan)
    results, certificate = class_results(first, classes, sums, plan)
    judged, results, gaps = _within_budget(standing, results, disparities(first, classes, strata, plan), plan)
    whole = rows.parts == 1
    return Measured(
        first.answers,
        first,
        plan,
        strata,
        bystanders,
        judged,
        twice,
        sums,
        spill,
        results,
        tuple(withheld),
        gaps,
        certificate,
        {arm: shares(first.exposure[arm]) for arm in arms},
        {arm: _slope(first.answers, arm, bystanders) if whole else None for arm in arms},
        _placebos(rows, registry, placebos, standing, bystanders, plan, options),
        float(np.quantile(sums.largest, 1 - plan.alpha)),
        whole,
    )


def _within_budget(
    standing: Standing, results: tuple[ClassResult, ...], gaps: tuple[Disparity, ...], plan: Plan
) -> tuple[Standing, tuple[ClassResult, ...], tuple[Disparity, ...]]:
    """Claims about entities and claims about classes and groups: each adjusted for all of its family, and for both."""
    p = adjusted([each.p for each in (*results, *gaps)], "holm")
    known = standing.q[np.isfinite(standing.q)]
    smallest = [known.min(initial=np.inf) / plan.fdr, p.min(initial=np.inf) / plan.alpha]
    of_entities, of_classes = one_budget(smallest)
    told = np.minimum(1.0, p * of_classes).tolist()
    return (
        stricter(standing, of_entities, fdr=plan.fdr, min_power=plan.min_power),
        tuple(replace(each, p=value) for each, value in zip(results, told, strict=False)),
        tuple(replace(each, p=value) for each, value in zip(gaps, told[len(results) :], strict=True)),
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
    rows: Rows,
    registry: Registry,
    arms: Sequence[str],
    standing: Standing,
    bystanders: NDArray[np.bool_],
    plan: Plan,
    options: Mapping[str, object],
) -> dict[str, tuple[float, float, float]]:
    """Statistic -> value, excess over the placebos, p-value."""
    if not arms:
        return {}

    def statistics(stood: Standing, moved: float) -> tuple[float, float, float]:
        n = stood.found.n[bystanders]
        loss = -float((stood.found.change[bystanders] * n).sum() / max(1.0, n.sum()))
        return loss, moved, float((stood.status == SUPPRESSED).sum())

    own = statistics(standing, _of_arm(rows, registry, AFTER, plan)[1])
    found = []
    for arm in arms:
        (changed, tests), moved = _of_arm(rows, registry, arm, plan)
        found.append(statistics(stand(changed, bystanders, tests=tests, **options), moved))  # type: ignore[arg-type]
    columns = np.array(found).T
    names = ("mean loss of bystanders", "shift of attention", "suppressed bystanders")
    return {name: (value, *excess(value, column)) for name, value, column in zip(names, own, columns, strict=True)}


def _of_arm(rows: Rows, registry: Registry, arm: str, plan: Plan) -> tuple[tuple[Changes, Evidence], float]:
    """Changes from before to an arm with their tests, and the shift of attention."""
    seen = {BEFORE: np.zeros(len(registry)), arm: np.zeros(len(registry))}

    def parts() -> Iterator[tuple[Changes, Evidence]]:
        for panel in rows.panels(registry, (BEFORE, arm)):
            fine = panel.fine(BEFORE, arm)
            for name in seen:
                seen[name] += panel.by_entity(panel.exposure[name] * fine)
            yield tested(panel, BEFORE, arm, plan)

    found = joined(parts())
    return found, float(shift(shares(seen[BEFORE]), shares(seen[arm])))


def merit_shares(found: Measured, standard: str) -> Floats:
    """Attention that each entity is due by a standard: `"merit"`, `"popularity"` or `"uniform"`."""
    asked = found.first.asked > 0
    if standard == "merit":
        return shares(found.first.merit)
    if standard == "uniform":
        return shares(asked.astype(np.float64))
    popularity = found.panel.registry.popularity
    if not np.isfinite(popularity[asked]).all():
        raise InputError("standard='popularity' needs the popularity of everyone: give it, or write standard='merit'")
    return shares(np.where(asked, popularity, 0.0))
