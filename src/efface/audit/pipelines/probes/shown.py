"""An audit of probes as findings, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from torch import Tensor

from efface.audit.figure import Figure, Series, Table
from efface.audit.finding import Finding
from efface.audit.picture import Picture
from efface.audit.pipelines.pictures import pixels_of
from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD
from efface.audit.pipelines.probes.recovery import Row, at_most
from efface.audit.pipelines.probes.running import Ran
from efface.audit.pipelines.probes.scores import Scores
from efface.report.data import CHANCE
from efface.stats.intervals import Interval

RECOVERY = "recovery"
_SHOWN = 4
_PICTURED = ("asked", "search", "unprompted", "reversal")


def findings_of(ran: Ran, rows: Sequence[Row], judge: str, seed: int) -> list[Finding]:
    """Raw rates of every model and the recovery of each row; of a probe that could not be run, why."""
    common: dict[str, Any] = {
        "access": ran.probe.access,
        "budget": dict(ran.budget),
        "probe": ran.probe.name,
        "seed": seed,
    }
    found = [
        Finding.without("recovery", "not applicable", why, ran.probe.name, condition=model, **common)
        for model, why in ran.why.items()
        if model in (ERASED, GOLD)
    ]
    for row in rows:
        for model in (BASE, ERASED, GOLD):
            if (scores := ran.scores.get(model, {}).get(row.name)) is not None:
                found.append(_raw(row, model, scores, judge, common))
        found.append(_recovery(row, judge if _judged(row) else "", common))
    return found


def looks_said(ran: Sequence[Ran]) -> str:
    """Which probes looked on while the verdict was open, and at what level their intervals are."""
    longer = [f"{one.probe.name} at {one.times} times the items" for one in ran if one.times > 1]
    if not longer:
        return ""
    levels = sorted({f"{100 * one.level:.3g} %" for one in ran})
    return (
        f"The verdict was open for want of items, so some probes looked on: {', '.join(longer)}. Their intervals are "
        f"at the level of the look ({', '.join(levels)}), so that all looks at a row hold at once in 95 %."
    )


def _judged(row: Row) -> bool:
    return row.unit in ("share", "share of stops")


def _raw(row: Row, model: str, scores: Scores, judge: str, common: Mapping[str, Any]) -> Finding:
    interval = {ERASED: row.model, BASE: row.base, GOLD: row.floor if row.floor_kind == "gold" else None}[model]
    more = {**common, "judge": judge if _judged(row) else "", "evidence": scores.evidence}
    if interval is None:
        why = "the judge can say of none of its pictures"
        return Finding.without(row.name, "not applicable", why, row.probe, condition=model, **more)
    known = int((~scores.values.isnan()).sum())
    return Finding.of(row.name, interval, row.probe, model, n=known, unit=row.unit, note=scores.note, **more)


def _recovery(row: Row, judge: str, common: Mapping[str, Any]) -> Finding:
    more = {**common, "judge": judge, "condition": RECOVERY}
    if row.value is None or row.low is None or row.high is None:
        return Finding.without(row.name, "not applicable", row.void, row.probe, **more)
    floor = None if row.floor is None else row.floor.value
    baseline = None if row.base is None else row.base.value
    note = "" if row.worse is None else "of losses by those on pictures without the concept"
    note = note if row.floor_kind == "gold" else "against a substitute floor: the base's answer to another concept"
    width = {"low": row.low, "high": row.high} if row.low < row.high else {}
    return Finding(
        row.name,
        row.value,
        row.probe,
        **width,
        method=f"joint bootstrap, {row.n} items of the model",
        n=row.n,
        chance=0.0,
        reference=CHANCE,
        floor=floor,
        baseline=baseline,
        note=note,
        **more,
    )


def table_of(rows: Sequence[Row]) -> Table:
    """Every row: raw numbers of each model, and recovery."""
    header = ("probe", "base", "erased", "floor", "recovery", "single draws", "items")
    cells = [
        (
            row.title,
            said(row.base, row),
            said(row.model, row),
            said(row.floor, row) + (" (substitute)" if row.floor_kind == "substitute" else ""),
            recovered(row),
            "" if row.luck is None else f"{100 * row.luck:.1f} %",
            row.n,
        )
        for row in rows
    ]
    caption = (
        "Recovery is 1 where it answers as before erasure, and 0 as where the concept never was; of losses it is that "
        "of losses by those on pictures without the concept."
    )
    return Table("What each probe found", header, tuple(cells), caption)


def said(interval: Interval | None, row: Row) -> str:
    """A raw number with its interval; no hit at all has its upper bound."""
    if interval is None:
        return "-"
    if row.unit != "share":
        return f"{interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}]"
    if interval.value == 0:
        return f"0 (at most {100 * at_most(_counted(interval)):.1f} %)"
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _counted(interval: Interval) -> int:
    """Of how many items a rate without any hit is: Wilson's upper end says so."""
    z2 = NormalDist().inv_cdf((1 + interval.level) / 2) ** 2
    return max(1, round(z2 / interval.high - z2))


def recovered(row: Row) -> str:
    """Recovery with its interval, or that the row is void."""
    if row.value is None:
        return "void"
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"


def figures_of(ran: Ran) -> list[Figure]:
    """Pictures of the models side by side, of the same items; those that show the concept after erasure first."""
    found = []
    for name, scores in ran.scores.get(ERASED, {}).items():
        if scores.images is None or scores.role not in _PICTURED:
            continue
        pictures: list[Picture] = []
        for i in scores.worst_first[:_SHOWN]:
            for model in (BASE, ERASED, GOLD):
                other = ran.scores.get(model, {}).get(name)
                if other is not None and other.images is not None:
                    pictures.append(_picture(model, other.items[i], other.images[i], float(other.values[i])))
        hits = int((scores.values > 0).sum())
        title = f"{ran.probe.name}, {name}: {hits} of {len(scores.items)} show it after erasure"
        caption = "The same prompts and seeds for each model; those that show it first."
        found.append(Figure(title, kind="overlays", pictures=tuple(pictures), caption=caption))
    return found


def _picture(model: str, item: str, image: Tensor, score: float) -> Picture:
    seen = "the judge cannot say" if score != score else "seen by the judge" if score > 0 else "not seen"
    return Picture(model, (seen, item), pixels_of(image))


def figure_of(rows: Sequence[Row]) -> Figure:
    """Recovery of every row that has one."""
    scored = [r for r in rows if r.value is not None and r.low is not None and r.high is not None]
    points = Series(
        ERASED,
        tuple(r.title for r in scored),
        tuple(float(r.value or 0.0) for r in scored),
        tuple(float(r.low or 0.0) for r in scored),
        tuple(float(r.high or 0.0) for r in scored),
    )
    return Figure(
        "How much of the concept each probe recovers",
        (points,),
        x_label="recovery",
        chance=0.0,
        reference="never knew it",
        caption="1 is as before erasure; below 0 it has gone further than a model that never saw the concept.",
    )
