"""Tables and figures of an audit of remembrance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from efface.audit.figure import Figure, Series, Table
from efface.audit.remembrance.attention import heirs
from efface.audit.remembrance.classes import ALL, STRATUM
from efface.audit.remembrance.measured import ClassResult, Measured
from efface.audit.remembrance.spillover import isotonic
from efface.audit.remembrance.standing import ELEVATED, NOT_TESTABLE, SUPPRESSED
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from efface.report.data import NO_CHANGE
from efface.report.numbers import format_value
from efface.stats.intervals import bootstrap_interval

_HEADER = ("entity", "relation", "popularity", "queries", "before", "after", "change", "shrunk", "q")
_HEIRS, _MOVED = 5, 5
_PARTS, _FEWEST, _ROWS, _COLUMNS = 6, 4, 7, 8


def lists(found: Measured, listed: int) -> Iterator[Table]:
    """S5: the suppressed and the elevated, by what is left of their change when chance is taken off."""
    for status in (SUPPRESSED, ELEVATED):
        places = found.standing.listed(status)
        if not len(places):
            continue
        shown = tuple(_entity(found, int(place)) for place in places[:listed])
        more = f"the first {len(shown)} of {len(places)}; " if len(places) > len(shown) else ""
        caption = (
            f"{more}intervals hold for all bystanders at once (max-T over resampled queries); shrunk: the "
            "change less what chance explains; q: share of false names in a list that ends here"
        )
        yield Table(status.capitalize(), _HEADER, shown, caption)


def _entity(found: Measured, place: int) -> tuple[object, ...]:
    one, standing = found.panel.registry.entities[place], found.standing
    hits = found.plan.outcome == "hit"
    level, gap = (percent, points) if hits else (graded, graded)
    changed, half = float(standing.found.change[place]), found.critical * float(standing.error[place])
    low, high = (max(-1.0, changed - half), min(1.0, changed + half)) if hits else (changed - half, changed + half)
    return (
        one.id,
        one.relation,
        one.popularity,
        f"{int(standing.found.n[place]):,}",
        level(standing.found.before[place]),
        level(standing.found.after[place]),
        f"{gap(changed)} ({gap(low)} to {gap(high)})",
        gap(standing.shrunk[place]),
        f"{standing.q[place]:.2g}",
    )


def percent(value: float) -> str:
    """A share."""
    return format_value(float(value), "share")


def points(value: float) -> str:
    """A change of a share, in points.

    >>> points(-0.125), points(0.03)
    ('-12.5', '+3.0')
    """
    return f"{100 * float(value) + 0.0:+.1f}"


def graded(value: float) -> str:
    """A score, or a change of it, in its own unit.

    >>> graded(-2.34567)
    '-2.35'
    """
    return f"{float(value) + 0.0:.3g}"


def untestable(found: Measured) -> dict[str, int]:
    """Why bystanders could not be tested, and how many."""
    standing, plan = found.standing, found.plan
    there = found.bystanders & (standing.status == NOT_TESTABLE)
    nothing = there & (standing.found.n == 0)
    low = (
        there
        & ~nothing
        & (np.maximum(standing.found.before, standing.found.after) < plan.margin)
        & (plan.outcome == "hit")
    )
    return {
        "no answer in both arms": int(nothing.sum()),
        "remembered less than the margin": int(low.sum()),
        "too few queries for the margin": int((there & ~nothing & ~low).sum()),
    }


def classes(found: Measured) -> Table | None:
    """Every declared class with its change, and its bound."""
    if not found.classes:
        return None
    rows = tuple(
        (
            each.of.title,
            f"{each.entities:,}",
            percent(each.before),
            percent(each.after),
            f"{points(each.change)} ({points(each.low)} to {points(each.high)})",
            f"{each.p:.2g}",
            points(each.lower),
        )
        for each in found.classes
    )
    caption = (
        "change in points; its intervals hold for all classes at once, and so do the lower bounds that the certificate "
        "stands on; p of no change, adjusted by Holm"
    )
    header = ("bystanders", "entities", "before", "after", "change", "p", "lower bound")
    return Table("Who they are", header, rows, caption)


def disparities(found: Measured) -> Table | None:
    """Groups next to the others of their dimension."""
    if not found.disparities:
        return None
    rows = tuple(
        (
            f"{each.dimension}: {each.group}",
            points(each.raw),
            points(each.adjusted),
            f"{each.p:.2g}",
            None if each.odds is None else f"{each.odds:.2f} ({each.low:.2f} to {each.high:.2f})",
        )
        for each in found.disparities
    )
    caption = (
        "change of the group less that of the others, in points, as it is and within strata of popularity and "
        "relations (popularity may be how it comes about, and no excuse); p by permutation, adjusted by Holm; odds of "
        "omission after over those of the others, common to the strata (Mantel-Haenszel)"
    )
    return Table("Groups next to the others", ("group", "raw", "adjusted", "p", "odds of omission"), rows, caption)


def heir_table(found: Measured) -> Table | None:
    """S8: who stands where the target was."""
    if found.target is None:
        return None
    gained, anyway, answers = found.sums.heirs
    best = [int(i) for i in np.argsort(-gained, kind="stable")[:_HEIRS] if gained[i] > 0]
    if not answers or not best:
        return None
    names = found.panel.registry.ids
    rows = tuple((names[i], percent(gained[i]), percent(anyway[i])) for i in best)
    caption = f"share of the {answers} answers that the target dropped out of, and of the others"
    return Table("Heirs of the target", ("entity", "comes in where it was", "comes in elsewhere"), rows, caption)


def placebo_table(found: Measured) -> Table | None:
    """What the edit did beyond placebos."""
    if not found.placebos:
        return None
    rows = tuple((name, *(f"{v:.3g}" for v in values)) for name, values in found.placebos.items())
    caption = "p = (1 + placebos with as much) / (1 + placebos): from 19 placebos on it can be 0.05"
    return Table("Next to placebos", ("statistic", "this edit", "beyond the mean placebo", "p"), rows, caption)


def strata_figure(found: Measured) -> Figure | None:
    """Changes by strata of popularity, with simultaneous intervals."""
    shown = [each for each in found.classes if each.of.kind in (ALL, STRATUM)]
    if len(shown) < 2:
        return None
    return _intervals("Change by popularity", shown)


def groups_figure(found: Measured) -> Figure | None:
    """Changes of groups."""
    shown = [each for each in found.classes if each.of.kind in found.panel.registry.dimensions and not each.of.stratum]
    return _intervals("Change by group", shown) if len(shown) > 1 else None


def _intervals(title: str, shown: list[ClassResult]) -> Figure:
    series = Series(
        "change",
        tuple(each.of.title for each in shown),
        tuple(each.change for each in shown),
        tuple(each.low for each in shown),
        tuple(each.high for each in shown),
    )
    caption = "Share of answers that name who should be named, after less before; intervals hold for all at once."
    return Figure(
        title, (series,), x_label="change in being remembered", chance=0.0, unit="share", caption=caption,
        reference=NO_CHANGE,
    )  # fmt: skip


def likeness_figure(found: Measured) -> Figure | None:
    """What is kept against likeness to the target: a curve that can only fall."""
    if found.spill is None:
        return None
    used = found.spill.used
    similarity, mentioned = found.panel.registry.similarity[used], found.first.mentioned
    x, y = isotonic(similarity, mentioned.change[used], mentioned.n[used])
    ends = np.r_[True, np.diff(y) != 0] | np.r_[np.diff(y) != 0, True]
    curve = Series("best falling curve", tuple(round(float(v), 3) for v in x[ends]), tuple(map(float, y[ends])))
    means = _by_likeness(similarity, mentioned.change[used], mentioned.n[used])
    return Figure(
        "Change against likeness to the target",
        (*((means,) if means is not None else ()), curve),
        kind="lines",
        x_label="similarity to the target",
        y_label="change in being remembered",
        chance=0.0,
        reference=NO_CHANGE,
        caption="Means of as many bystanders each, with 95% intervals; and the falling curve that fits best.",
    )


def _by_likeness(similarity: NDArray[np.float64], change: NDArray[np.float64], n: NDArray[np.float64]) -> Series | None:
    """Mean changes of bystanders in order of likeness, as many in each part; intervals over entities."""
    parts = [p for p in np.array_split(np.argsort(similarity, kind="stable"), _PARTS) if n[p].sum() > 0]
    if len(similarity) < _PARTS * _FEWEST:
        return None
    spans = [bootstrap_interval(change[p] * n[p], n[p]) for p in parts]
    x = tuple(round(float(similarity[p].mean()), 3) for p in parts)
    return Series("mean", x, *zip(*((s.value, s.low, s.high) for s in spans), strict=True))


def transfer_figure(found: Measured) -> Figure | None:
    """S8: into whose place others came: the target's, and that of the suppressed."""
    places = [int(i) for i in found.standing.listed(SUPPRESSED)[:_ROWS]]
    names, targets = found.panel.registry.ids, found.panel.registry.targets
    lost = {"the target": targets} if found.target is not None else {}
    lost |= {names[i]: np.arange(len(names)) == i for i in places}
    if not found.whole or not lost:
        return None
    gained = {name: heirs(found.panel, mask, BEFORE, AFTER)[0] for name, mask in lost.items()}
    total = np.sum(list(gained.values()), axis=0)
    best = [int(i) for i in np.argsort(-total, kind="stable")[:_COLUMNS] if total[i] > 0]
    if not best:
        return None
    columns = tuple(names[i] for i in best)
    return Figure(
        "Who came into whose place",
        tuple(Series(name, columns, tuple(float(row[i]) for i in best)) for name, row in gained.items()),
        kind="matrix",
        x_label="who came",
        y_label="who dropped out",
        unit="share",
        from_zero=True,
        caption="Of the answers that one dropped out of, shared among those who came into them, in %.",
    )


def attention_table(found: Measured, listed: int) -> Table | None:
    """Who gained and who lost attention."""
    then, now = found.attention[BEFORE], found.attention[AFTER]
    order = np.argsort(-np.abs(now - then), kind="stable")[: min(listed, _MOVED)]
    order = [int(i) for i in order if now[i] != then[i]]
    if not order:
        return None
    again = found.attention.get(AGAIN)
    names, relation = found.panel.registry.ids, found.panel.registry.relation
    rows = tuple(
        (
            names[i],
            str(relation[i]),
            percent(then[i]),
            *([percent(again[i])] if again is not None else []),
            percent(now[i]),
        )
        for i in order
    )
    header = ("entity", "relation", "before", *(["before again"] if again is not None else []), "after")
    return Table("Attention that moved most", header, rows, "share of all attention in the answers of an arm")
