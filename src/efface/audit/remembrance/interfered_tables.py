"""Tables and figures of the card of an interference matrix."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from efface.audit.figure import Figure, Series, Table
from efface.audit.remembrance.matter import EVERYONE, STRATUM, Matter
from efface.audit.remembrance.pooled import Kept, binned, likeness_of, pooled
from efface.audit.remembrance.registry import STRATA, TARGET, UNRELATED
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from efface.audit.remembrance.tables import percent, points

_ERASURES, _WHOLE, _BINS, _HEIRS, _GROUPS = 20, 40, 8, 3, 14
_NOTHING = "nothing"


def kinds(of: Matter) -> Table:
    """What is kept, by kind of pair: the target first."""
    rows = tuple(_kind(family, one) for family, every in of.kinds.items() for one in every)
    header = ("of", "entities", "pictures", "kept", "asked again", "lost beyond chance, points")
    caption = (
        "pictures that showed what was asked for before; kept: the share that still does; asked again: the same of the "
        "pipeline without an erasure, from other noise; each interval is for itself, erasures and entities resampled"
    )
    return Table("What is kept", header, rows, caption)


def _kind(family: str, one: Kept) -> tuple[object, ...]:
    title = one.kind if family in (TARGET, EVERYONE) else f"{family}: {one.kind}"
    lost = None if one.lost is None else f"{points(one.lost.value)} ({points(one.lost.low)} to {points(one.lost.high)})"
    again = None if one.again is None else percent(one.again.value)
    kept = f"{percent(one.kept.value)} ({percent(one.kept.low)} to {percent(one.kept.high)})"
    return (title, str(one.entities), f"{one.n:,}", kept, again, lost)


def erasures(of: Matter, listed: int) -> Table:
    """A row an erasure: its target, its nearest, and all others; those that took most first."""
    found = of.found
    counted = [found.counts(name) for name in found.erased]
    rows = []
    for i in _by_loss(of)[:listed]:
        n, k = counted[i]
        near = of.others[i] & (of.relations[i] != UNRELATED)
        sides = [_of(k[which], n[which]) for which in (~of.others[i], near, of.others[i] & ~near)]
        rows.append((found.erased[i], *sides, _heirs(of, int(i))))
    more = f"the {len(rows)} of {len(found.erased)} that took most; " if len(rows) < len(found.erased) else ""
    header = ("erased", "itself", "related", "unrelated", "drawn in its place")
    return Table("Each erasure", header, tuple(rows), f"{more}pictures that are kept, of those that showed it before")


def _by_loss(of: Matter) -> np.ndarray:
    """Places of the erasures, those that took most of others first."""
    pairs = zip((of.found.counts(name) for name in of.found.erased), of.others, strict=True)
    return np.argsort([-float(((n - k) * others).sum()) for (n, k), others in pairs], kind="stable")


def _of(kept: np.ndarray, n: np.ndarray) -> str | None:
    return f"{int(kept.sum())} of {int(n.sum())}" if n.sum() else None


def _heirs(of: Matter, row: int) -> str | None:
    """What pictures of the target show after, the most frequent first."""
    found = of.found
    if found.shown is None:
        return None
    own = ~of.others[row][found.place] & (found.answers(BEFORE) == 1)
    shown = found.shown[found.arms.index(found.erased[row])][own]
    asked = [found.asked[e] for e in found.place[own]]
    names = [found.names[i] if i >= 0 else _NOTHING for i in shown]
    others = Counter(name for name, wanted in zip(names, asked, strict=True) if name != wanted)
    return ", ".join(f"{name} {many}" for name, many in others.most_common(_HEIRS)) or None


@dataclass(frozen=True)
class Fragile:
    """Whom erasures of others took: after how many of how many, and whether it went by chance, too."""

    name: str
    group: str
    lost: int
    of: int
    again: str


def fragile(of: Matter) -> list[Fragile]:
    """Everyone who went with another, the most often first; who has too few pictures is left out."""
    found = of.found
    counted = np.stack([np.stack(found.counts(name)) for name in found.erased])
    n, kept = (counted[:, j] * of.others for j in range(2))
    seen, again = found.counts(AGAIN)
    result = []
    for e, name in enumerate(found.asked):
        shown = (n[:, e] > 0) & (n[:, e] >= of.fewest)
        gone = int((shown & (kept[:, e] < n[:, e] / 2)).sum())
        if gone:
            result.append(Fragile(name, of.groups[e], gone, int(shown.sum()), _of(again[e], seen[e]) or "unknown"))
    return sorted(result, key=lambda each: (-each.lost / each.of, each.name))


def entities(of: Matter, listed: int) -> Table | None:
    """Who goes with others most often."""
    every = fragile(of)
    if not every:
        return None
    rows = tuple((each.name, each.group or None, f"{each.lost} of {each.of}", each.again) for each in every[:listed])
    more = f"the first {len(rows)} of {len(every)}; " if len(rows) < len(every) else ""
    caption = (
        f"{more}after how many erasures of something else most of its pictures are gone; kept when asked again: what "
        "is not kept then either is hardly drawn at all. Counts, without a test of each"
    )
    return Table("Who goes with others", ("entity", "group", "gone after", "kept when asked again"), rows, caption)


def matrix(of: Matter) -> Figure:
    """Erased by asked: each pair where they are few, else by group."""
    found = of.found
    n, kept = (np.stack(each) for each in zip(*(found.counts(name) for name in found.erased), strict=True))
    columns, groups = list(found.asked), of.groups
    what = ""
    if len(columns) > _WHOLE and len({*groups}) > 1:
        names = [name for name, _ in Counter(groups).most_common(_GROUPS)]
        member = np.array([[group == name for name in names] for group in groups], dtype=np.float64)
        n, kept = (n * of.others) @ member, (kept * of.others) @ member
        columns, groups, what = names, [], "groups of those asked for, without what was erased; "
    order = sorted(range(len(columns)), key=lambda e: (groups[e], e)) if groups else list(range(len(columns)))
    rows, most = [], ""
    chosen = np.arange(len(found.erased))
    if len(chosen) > _ERASURES:
        chosen, most = np.sort(_by_loss(of)[:_ERASURES]), f"the {_ERASURES} of {len(chosen)} erasures that took most; "
    for i, name in ((i, found.erased[i]) for i in chosen.tolist()):
        there = [e for e in order if n[i, e] >= max(1, of.fewest)]
        rows.append(Series(name, tuple(columns[e] for e in there), tuple(float(kept[i, e] / n[i, e]) for e in there)))
    return Figure(
        "Erased by asked: what is kept",
        tuple(rows),
        kind="matrix",
        x_label="asked for",
        y_label="erased",
        unit="share",
        groups={columns[e]: groups[e] if groups else "" for e in order},
        caption=(
            f"Share of the pictures that showed it before and still do; {most}{what}grey: none, or too few to be shown."
        ),
    )


def likeness(of: Matter, draws: int, seed: int) -> Figure | None:
    """Retention against similarity, with what would be kept by chance."""
    labels, middles = binned(likeness_of(of.found, of.registries), of.others, _BINS)
    every = pooled(of.found, labels, draws=draws, seed=seed) if middles else ()
    if len(every) < 2:
        return None
    x = tuple(round(middles[one.kind], 3) for one in every)
    spans = [one.kept for one in every]
    chance = [(place, one.again.value) for place, one in zip(x, every, strict=True) if one.again is not None]
    series = [Series(AGAIN, *(tuple(each) for each in zip(*chance, strict=True)))] if chance else []
    series.append(Series(AFTER, x, *zip(*((s.value, s.low, s.high) for s in spans), strict=True)))
    return Figure(
        "Kept against likeness to what was erased",
        tuple(series),
        kind="lines",
        x_label="similarity to what was erased",
        y_label="share kept",
        unit="share",
        caption="As many pairs at each point; bands: 95% intervals, erasures and entities resampled.",
    )


def strata(of: Matter) -> Figure | None:
    """What is kept of popular and of rare."""
    every = sorted(of.kinds.get(STRATUM, ()), key=lambda one: STRATA.index(one.kind) if one.kind in STRATA else 9)
    if len(every) < 2:
        return None
    names = tuple(one.kind for one in every)
    series = []
    if all(one.again is not None for one in every):
        spans = [one.again for one in every if one.again is not None]
        series.append(Series(AGAIN, names, *zip(*((s.value, s.low, s.high) for s in spans), strict=True)))
    series.append(Series(AFTER, names, *zip(*((o.kept.value, o.kept.low, o.kept.high) for o in every), strict=True)))
    caption = "Others by popularity: the head has the first third of all of it, the tail the last."
    return Figure("Kept by popularity", tuple(series), x_label="share kept", unit="share", caption=caption)


def transfers(of: Matter) -> Figure | None:
    """Where pictures of others went that were lost: group of what was asked for by group of what is shown."""
    found = of.found
    group = dict(zip(found.asked, of.groups, strict=True))
    first = of.registries[found.erased[0]]
    group |= {e.id: e.groups.get(first.dimensions[0], "") for e in first} if first.dimensions else {}
    if found.shown is None or len({*of.groups}) < 2:
        return None
    pairs: Counter[tuple[str, str]] = Counter()
    for i, name in enumerate(found.erased):
        gone = (found.answers(BEFORE) == 1) & (found.answers(name) == 0) & of.others[i][found.place]
        for e, s in zip(found.place[gone], found.shown[found.arms.index(name)][gone], strict=True):
            to = _NOTHING if s < 0 else group.get(found.names[s], "") or "others"
            pairs[group[found.asked[e]] or "others", to] += 1
    if not pairs:
        return None
    total: Counter[str] = Counter()
    for (one, _), many in pairs.items():
        total[one] += many
    order = [name for name, _ in total.most_common(_GROUPS)]
    columns = [*order, *sorted({to for _, to in pairs} - {*order})]
    rows = tuple(
        Series(f"{a} ({total[a]})", tuple(columns), tuple(pairs[a, b] / total[a] for b in columns)) for a in order
    )
    return Figure(
        "Where lost pictures go",
        rows,
        kind="matrix",
        x_label="what is shown instead",
        y_label="what was asked for (lost pictures)",
        unit="share",
        from_zero=True,
        caption="What pictures of others show that no longer show what they were asked for, in % of a row.",
    )
