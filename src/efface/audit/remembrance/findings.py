"""Findings of an audit of remembrance, from what was measured: the target first, so that neither side goes alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from efface.audit.finding import Finding
from efface.audit.remembrance import sums as of
from efface.audit.remembrance.attention import (
    effective_number,
    expected_exposure,
    gain_concentration,
    gini,
    lift,
    parity,
    shares,
    shift,
)
from efface.audit.remembrance.bootstrap import few_units, ratio_interval, share_interval
from efface.audit.remembrance.class_results import can_tell
from efface.audit.remembrance.effects import agresti_min
from efface.audit.remembrance.exposure import model_named
from efface.audit.remembrance.measured import Measured, merit_shares
from efface.audit.remembrance.panel import Panel
from efface.audit.remembrance.popularity import Slope
from efface.audit.remembrance.registry import UNKNOWN
from efface.audit.remembrance.spillover import POPULARITY, SIMILARITY
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from efface.report.data import CHANGE, NO_CHANGE, NO_DIFFERENCE
from efface.stats.intervals import Interval, wilson_interval

Floats = NDArray[np.float64]
_NORMAL = NormalDist()
TARGET, BYSTANDERS, ATTENTION, POPULAR = "target", "bystanders", "attention", "popularity"
GROUPS, LIKENESS, TRUTH, CERTIFICATE, PLACEBOS = "groups", "likeness", "answers", "certificate", "placebos"
REMEMBERED, OMISSION, RETENTION, COLLATERAL = "remembered", "omission", "remembered, given before", "collateral"


def headline(found: Measured) -> Iterator[Finding]:
    """What a reader has to see at once."""
    if found.target is None:
        yield Finding.without(REMEMBERED, "not applicable", "no entity is a target that queries ask for", TARGET)
    else:
        yield from _remembered(found, found.target, TARGET)
    yield from _remembered(found, 0, BYSTANDERS)
    yield from _omission(found)
    yield from _retention(found)


def _units(found: Measured, place: int) -> tuple[int, str]:
    """Independent units behind a class, and what was resampled, in words."""
    units, queries = int(found.sums.units[place]), int(found.sums.queries[place])
    of_entities = f"{int(found.sums.classes[place].members.sum())} entities and " if found.sums.free[place] else ""
    return units, f"{of_entities}{queries} queries"


def _ratio(found: Measured, place: int, top: str, bottom: str, less: str | None = None) -> Interval | None:
    exact, draws = found.sums.ratio(top, bottom, less)
    if not np.isfinite(exact[place]):
        return None
    units, what = _units(found, place)
    level = 1 - found.plan.alpha
    value = float(exact[place])
    if less is not None:
        interval = ratio_interval(value, draws[place], units, level=level, what=what)
        interval = replace(interval, low=max(-1.0, interval.low), high=min(1.0, interval.high))
        return interval if interval.has_width or not value else _paired(value, units, level)
    return share_interval(value, draws[place], units=units, level=level, what=what)


def _paired(value: float, units: int, level: float) -> Interval:
    """Agresti and Min's interval of a change that is the same in all resamples, each unit as one pair."""
    centre, error = (float(each) for each in agresti_min(units, value * units, abs(value) * units))
    half = _NORMAL.inv_cdf((1 + level) / 2) * error
    low, high = max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half))
    return Interval(value, low, high, level, f"Agresti-Min, each of {units} units as one pair")


def _caution(found: Measured, place: int) -> str:
    """What keeps a change from being told, whatever it is."""
    return "" if can_tell(int(found.sums.queries[place]), found.plan.alpha) else "too few queries to tell"


def _share(
    found: Measured, name: str, interval: Interval | None, family: str, condition: str, n: float, caution: str = ""
) -> Finding:
    if interval is None:
        why = "nobody of them was in an answer before" if name == RETENTION else "there is nothing to count"
        return Finding.without(name, "not applicable", why, family, condition=condition)
    changed = {"chance": 0.0, "reference": NO_CHANGE} if condition == CHANGE else {}
    more = {"unit": "share", "n": int(n), "seed": found.plan.seed, "caution": caution}
    return Finding.of(name, interval, family, condition, **more, **changed)


def _remembered(found: Measured, place: int, family: str) -> Iterator[Finding]:
    rows = found.sums.exact[of.N][place]
    for condition, top, less in ((BEFORE, of.THEN, None), (AFTER, of.NOW, None), (CHANGE, of.NOW, of.THEN)):
        caution = _caution(found, place) if less else ""
        yield _share(found, REMEMBERED, _ratio(found, place, top, of.N, less), family, condition, rows, caution)


def _omission(found: Measured) -> Iterator[Finding]:
    """S1: `1 - sum w Y / sum w`."""
    for condition, due, got in ((BEFORE, of.DUE_THEN, of.GOT_THEN), (AFTER, of.DUE_NOW, of.GOT_NOW)):
        kept = _ratio(found, 0, got, due)
        turned = (
            None if kept is None else Interval(1 - kept.value, 1 - kept.high, 1 - kept.low, kept.level, kept.method)
        )
        yield _share(found, OMISSION, turned, BYSTANDERS, condition, found.sums.exact[of.N][0])


def _retention(found: Measured) -> Iterator[Finding]:
    """S4: `P(Y_A = 1 | Y_B = 1)` next to the same of the system before asked twice, and what is lost beyond chance."""
    rows = found.sums.exact[of.THEN][0]
    if AGAIN in found.panel.hit:
        again = _ratio(found, 0, of.BOTH_AGAIN, of.THEN_AGAIN)
        yield _share(found, RETENTION, again, BYSTANDERS, AGAIN, found.sums.exact[of.THEN_AGAIN][0])
    yield _share(found, RETENTION, _ratio(found, 0, of.BOTH, of.THEN), BYSTANDERS, AFTER, rows)
    if AGAIN not in found.panel.hit:
        why = "there is no arm 'before again', and so nothing says what is forgotten by chance"
        yield Finding.without(COLLATERAL, "not run", why, BYSTANDERS, condition=AFTER)
        return
    lost, draws = found.sums.lost((of.BOTH, of.THEN), (of.BOTH_AGAIN, of.THEN_AGAIN))
    if not np.isfinite(lost[0]):
        why = "nobody was in an answer before and again"
        yield Finding.without(COLLATERAL, "not applicable", why, BYSTANDERS, condition=AFTER)
        return
    units, what = _units(found, 0)
    span = ratio_interval(float(lost[0]), draws[0], units, level=1 - found.plan.alpha, what=what)
    span = replace(span, high=min(1.0, span.high))
    note = "share of what the system remembers twice that the edit took; the control is the system before, asked twice"
    yield Finding.of(
        COLLATERAL, span, BYSTANDERS, AFTER, unit="share", n=int(rows), seed=found.plan.seed, chance=0.0,
        reference=NO_DIFFERENCE, note=note, caution=_caution(found, 0),
    )  # fmt: skip


def answers(found: Measured) -> Iterator[Finding]:
    """S9: refusals, which are no omissions, and names that nobody has."""
    panel = found.panel
    total = len(panel.asked)
    for arm in (BEFORE, AFTER):
        refused = int((panel.status[arm] != 0).sum())
        share = wilson_interval(refused, total, level=1 - found.plan.alpha)
        yield Finding.of("refused or failed", share, TRUTH, arm, unit="share", n=total)
    if any(np.isnan(panel.unresolved[arm]).any() for arm in (BEFORE, AFTER)):
        why = "the ledger does not say how many names nobody has"
        yield Finding.without("unresolved names", "not run", why, TRUTH, condition=AFTER, detail=True)
        return
    fine = (panel.status[BEFORE] == 0) & (panel.status[AFTER] == 0)
    for arm in (BEFORE, AFTER):
        mean = float(panel.unresolved[arm][fine].mean()) if fine.any() else 0.0
        yield Finding("unresolved names", mean, TRUTH, arm, unit="an answer", n=int(fine.sum()))


def attention(found: Measured, standard: str) -> Iterator[Finding]:
    """S2 and S8: shift, diversity, parity of attention, next to what exchanged arms show."""
    panel, seed = found.panel, found.plan.seed
    then, now = found.attention[BEFORE], found.attention[AFTER]
    if not then.sum() or not now.sum():
        yield Finding.without("shift", "not applicable", "one of the arms mentions nobody", ATTENTION, condition=AFTER)
        return
    chance = found.sums.chance
    moved = float(shift(then, now))
    p = (1 + int((chance["shift"] >= moved - 1e-12).sum())) / (of.FLIPS + 1)
    again = float(shift(then, found.attention[AGAIN])) if AGAIN in found.attention else None
    note = f"half the sum of changes of shares; p = {p:.3f}; chance: median of {of.FLIPS} exchanges of before and after"
    for name, statistic in (("effective number", effective_number), ("gini", gini)):
        gap = statistic(now) - statistic(then)
        usual = np.quantile(chance[name], [0.025, 0.975])
        said = f"change {gap:+.3f}; exchanges of before and after give {usual[0]:+.3f} to {usual[1]:+.3f}"
        more = {"n": len(panel.asked), "detail": True}
        for arm, told in ((BEFORE, ""), (AFTER, said)):
            yield Finding(name, statistic(found.attention[arm]), ATTENTION, arm, note=told, **more)
    yield Finding(
        "shift", moved, ATTENTION, AFTER, unit="share", n=len(panel.asked), seed=seed,
        chance=float(np.median(chance["shift"])), baseline=again, note=note,
    )  # fmt: skip
    if again is not None:
        yield Finding("shift", again, ATTENTION, AGAIN, unit="share", n=len(panel.asked))
    gains = gain_concentration(then, now)
    yield Finding("concentration of gains", gains, ATTENTION, AFTER, detail=True, note="1 where one has all of it")
    yield from _parities(found, standard)


def expected(found: Measured, attention: str) -> Iterator[Finding]:
    """S2: expected exposure, where the model of users is known by its name."""
    model = model_named(attention)
    if model is None or not found.whole:
        return
    for arm in (BEFORE, AFTER):
        said = expected_exposure(found.panel, arm, model)
        note = (
            f"mean over queries of sum (eps - eps*)^2, with eps* what merit is due; EE-D {said.disparity:.3f}, "
            f"EE-R {said.relevance:.3f}"
        )
        yield Finding("loss of expected exposure", said.loss, ATTENTION, arm, note=note, detail=True)


def _parities(found: Measured, standard: str) -> Iterator[Finding]:
    due = merit_shares(found, standard)
    kinds = {name: found.panel.registry.group(name) for name in found.panel.registry.dimensions}
    if len(set(found.strata.tolist()) - {UNKNOWN}) > 1:
        kinds[POPULAR] = found.strata
    for kind, labels in kinds.items():
        known = labels != UNKNOWN
        names, place = np.unique(labels[known], return_inverse=True)
        target = shares(np.bincount(place, due[known], len(names)))
        for arm in (BEFORE, AFTER):
            got = shares(np.bincount(place, found.attention[arm][known], len(names)))
            note = f"1 where each of {len(names)} groups has the share that it is due by {standard}"
            yield Finding(f"parity by {kind}", float(parity(got, target)), ATTENTION, arm, note=note, detail=True)


def popularity(found: Measured) -> Iterator[Finding]:
    """S3: slope of being remembered on popularity, and lean of attention."""
    slopes = found.slopes
    why = "popularity is not known, does not vary, or tells hits apart without error"
    ready = [arm for arm in (BEFORE, AFTER) if slopes[arm] is not None]
    if not found.whole:
        yield Finding.without(
            "slope", "not run", "it needs all rows at once, and they are streamed", POPULAR, condition=AFTER
        )
    elif len(ready) < 2:
        yield Finding.without("slope", "not applicable", why, POPULAR, condition=AFTER)
    else:
        for arm in ready:
            yield _of_slope(found, slopes[arm], None, arm)  # type: ignore[arg-type]
        yield _of_slope(found, slopes[AFTER], slopes[BEFORE], CHANGE)  # type: ignore[arg-type]
    merit = merit_shares(found, "merit")
    for arm in (BEFORE, AFTER):
        lean = lift(found.attention[arm], merit, found.panel.registry.popularity)
        if lean is not None:
            yield Finding(
                "lean of attention", lean, POPULAR, arm, detail=True, note="E_attention[ln pi] - E_merit[ln pi]"
            )


def _of_slope(found: Measured, slope: Slope, less: Slope | None, condition: str) -> Finding:
    influence = slope.influence - (0 if less is None else less.influence)
    value, error = slope.value - (0 if less is None else less.value), float(np.linalg.norm(influence))
    clusters = int((influence != 0).sum())
    half = few_units(1 - found.plan.alpha, clusters) * error
    method = f"sandwich, clustered by {clusters} entities"
    span = Interval(value, value - half, value + half, 1 - found.plan.alpha, method)
    more = {"chance": 0.0, "reference": NO_CHANGE} if condition == CHANGE else {}
    note = "change of the log odds of being remembered for e times the popularity"
    return Finding.of("slope", span, POPULAR, condition, n=slope.rows, note=note, **more)


def likeness(found: Measured) -> Iterator[Finding]:
    """S7: coefficients of the regression of changes on likeness to the target."""
    if found.spill is None or found.sums.slopes is None:
        why = "similarity to the target is not known, or the same for all"
        yield Finding.without(SIMILARITY, "not applicable", why, LIKENESS)
        return
    values = found.spill.fit(found.first.mentioned.change)
    for name, value, draws in zip(found.spill.names, values, found.sums.slopes, strict=True):
        if name == "intercept":
            continue
        queries = int(found.sums.queries[0])
        span = ratio_interval(float(value), draws, queries, level=1 - found.plan.alpha, what=f"{queries} queries")
        note = "change of being remembered for one more of it" if name in (SIMILARITY, POPULARITY) else ""
        more = {"n": int(found.spill.used.sum()), "seed": found.plan.seed, "note": note, "detail": name != SIMILARITY}
        yield Finding.of(name, span, LIKENESS, **more)


def certificate(found: Measured) -> Iterator[Finding]:
    """S10."""
    if found.certificate is None:
        yield Finding.without("smallest margin", "not applicable", "a class has no answers of both arms", CERTIFICATE)
        return
    said = found.certificate
    factor = "no number of rows" if said.factor is None else f"{said.factor:.2f} times as many entities and queries"
    status = f"{said.status}, because {said.why}" if said.why else said.status
    note = (
        f"for a margin of {100 * said.margin:g} points: {status}; {factor} would do; chance to certify it if "
        f"nothing changed {100 * said.power:.0f}%"
    )
    more = {"unit": "share", "n": int(found.sums.exact[of.N][0]), "seed": found.plan.seed, "note": note}
    yield Finding(
        "smallest margin", said.smallest, CERTIFICATE, AFTER, caution="not testable" if said.why else "", **more
    )


def refusals_rose(panel: Panel) -> tuple[float, float]:
    """Share of refused and failed answers, before and after."""
    before, after = (float((panel.status[arm] != 0).mean()) for arm in (BEFORE, AFTER))
    return before, after
