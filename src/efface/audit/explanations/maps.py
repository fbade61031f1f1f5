"""Is a map of importance better than one that knows nothing? Keep and drop curves, next to controls, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from efface._errors import InputError
from efface.audit.audit import Audit
from efface.audit.explanations.map_text import CAVEATS, conclude
from efface.audit.explanations.measured import (
    CONTROL,
    MAP,
    OVER,
    SIZE,
    Measured,
    Subject,
    check_together,
    family,
    hits,
    kept_at,
    removed_at,
)
from efface.audit.figure import Figure, Series, Table
from efface.audit.finding import Finding
from efface.core.doors import check_call
from efface.core.provenance import called, provenance
from efface.report.data import NO_DIFFERENCE
from efface.stats.intervals import Interval, bootstrap_interval, paired_interval, wilson_interval

FEWEST = 10
"""Images from which differences are given an interval."""


def maps(
    subjects: Sequence[Subject],
    fractions: Sequence[float],
    *,
    at: float = 0.05,
    title: str = "What does the model need to see?",
    level: float = 0.95,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Audit:
    """How much of a model's answers the pixels at the top of each map carry, next to controls.

    Findings: family `"map"` (or `"control"`; `"map on <name>"` of a named subject), under each name conditions
    `"5% kept"`: share of images whose class stays when only those pixels stay; `"5% removed"`: when only those go; of
    masks `"mask keeps"`: mean share of the image; from 10 images on `"over the best control"`: the paired difference
    of the first to the control that keeps most, on the same model.

    Args:
        subjects: Models, each with its maps and controls.
        fractions: Shares of pixels at which was measured.
        at: Which of them the findings and conclusions are about.
        title: Title of the audit.
        level: Confidence level.
        seed: Seed of resampling.
        settings: How the maps were made: plain data.

    Raises:
        InputError: If something is missing or does not fit together.

    Does not guarantee: that the best control is the best in truth: it is chosen on the same images, which makes the
    comparison a little harder for the maps. That a map is right about the world: there is no truth in here.
    """
    check_call(maps, locals())
    if not all(isinstance(subject, Subject) for subject in subjects):
        raise InputError("subjects hold something else than Subject: give one Subject(name, methods, controls) a model")
    call = called("efface.audit.maps", locals())
    n = check_together(subjects, fractions, at)
    place = list(fractions).index(at)
    bests = {subject.name: strongest(subject, place) for subject in subjects}
    findings: list[Finding] = []
    for subject in subjects:
        best = bests[subject.name]
        for name, measured in subject.methods.items():
            findings += _findings(family(MAP, subject), name, measured, place, at, level, seed)
            if n >= FEWEST:
                findings.append(_over(subject, name, best, place, level, seed))
        for name, measured in subject.controls.items():
            found = _findings(family(CONTROL, subject), name, measured, place, at, level, seed)
            small = bool(subject.name) and len(subjects) > 1 and name != best
            findings += [replace(f, detail=True) for f in found] if small else found
    return Audit(
        title,
        conclusions=conclude(subjects, findings, bests, n=n, at=at),
        findings=tuple(findings),
        figures=tuple(_curves(kind, subjects, fractions, bests, level) for kind in ("keep", "drop")),
        tables=tuple(_table(kind, subjects, fractions, level) for kind in ("keep", "drop")),
        caveats=CAVEATS,
        settings={"images": n, "fractions": list(fractions), "seed": seed, **(settings or {})},
        provenance=provenance(data=_data(subjects), seed=seed, call=call),
    )


def _data(subjects: Sequence[Subject]) -> dict[str, Any]:
    """What was measured of each map and control, by its name."""
    sides = ((subject.name, kind) for subject in subjects for kind in (subject.methods, subject.controls))
    return {
        f"{name} on {model}" if model else name: {k: v for k, v in vars(measured).items() if v is not None}
        for model, kind in sides
        for name, measured in kind.items()
    }


def strongest(subject: Subject, place: int) -> str:
    """The control that keeps the class most often, in the column of a fraction."""
    return max(subject.controls, key=lambda name: float(np.asarray(subject.controls[name].keep)[:, place].mean()))


def _share(values: Any, level: float) -> Interval:
    """Wilson's interval; of shares of several draws an image it is a little too wide."""
    return wilson_interval(float(values.sum()), len(values), level=level)


def _findings(
    kind: str, name: str, measured: Measured, place: int, at: float, level: float, seed: int
) -> list[Finding]:
    found = []
    if measured.size is not None:
        size = np.asarray(measured.size, dtype=np.float64)
        if size.shape != (len(np.asarray(measured.keep)),):
            raise InputError(f"size of {name} has shape {size.shape}: expected one share an image")
        whole = bootstrap_interval(size, level=level, seed=seed) if len(size) > 1 else None
        more = {"n": len(size), "unit": "share", "seed": seed}
        found.append(
            Finding(name, float(size.mean()), kind, SIZE, **more)
            if whole is None
            else Finding.of(name, whole, kind, SIZE, **more)
        )
    for condition, values in ((kept_at(at), measured.keep), (removed_at(at), measured.drop)):
        column = np.asarray(values, dtype=np.float64)[:, place]
        found.append(Finding.of(name, _share(column, level), kind, condition, n=len(column), unit="share"))
    return found


def _over(subject: Subject, name: str, best: str, place: int, level: float, seed: int) -> Finding:
    ours, theirs = (
        np.asarray(m.keep, dtype=np.float64)[:, place] for m in (subject.methods[name], subject.controls[best])
    )
    gain = paired_interval(ours, theirs, level=level, seed=seed)
    more = {"n": len(ours), "seed": seed, "unit": "share", "chance": 0.0, "reference": NO_DIFFERENCE}
    note = f"the best control here is {best}, chosen on the same images"
    return Finding.of(name, gain, family(MAP, subject), OVER, note=note, **more)


def _rows(subject: Subject) -> list[tuple[str, Measured]]:
    suffix = f" (on {subject.name})" if subject.name else ""
    return [(f"{name}{suffix}", m) for kind in (subject.methods, subject.controls) for name, m in kind.items()]


def _table(kind: str, subjects: Sequence[Subject], fractions: Sequence[float], level: float) -> Table:
    rows = []
    for subject in subjects:
        for name, measured in _rows(subject):
            columns = hits(name, getattr(measured, kind), fractions).T
            rows.append((name, *(_cell(_share(column, level)) for column in columns)))
    what = "only the top pixels stay" if kind == "keep" else "the top pixels are removed"
    header = ("map or control", *(f"{100 * f:g}%" for f in fractions))
    return Table(f"Images whose class stays when {what}", header, tuple(rows), "Share of pixels in the columns")


def _cell(share: Interval) -> str:
    value, low, high = (f"{100 * v:.0f}" for v in (share.value, share.low, share.high))
    return f"{value}% ({low} to {high})"


def _curves(
    kind: str, subjects: Sequence[Subject], fractions: Sequence[float], bests: Mapping[str, str], level: float
) -> Figure:
    """Methods, the best control of the first model, and chance in person: the random order."""
    first = subjects[0]
    shown = [(name, m) for s in subjects for name, m in s.methods.items()]
    names = dict.fromkeys([bests[first.name], *(name for name in first.controls if name == "random")])
    shown += [(f"{name} (control)", first.controls[name]) for name in names]
    series = []
    for name, measured in shown:
        shares = [_share(column, level) for column in hits(name, getattr(measured, kind), fractions).T]
        y, low, high = (tuple(float(getattr(s, part)) for s in shares) for part in ("value", "low", "high"))
        series.append(Series(name, tuple(100 * float(f) for f in fractions), y, low, high))
    keep = kind == "keep"
    return Figure(
        "Keep curve: the top pixels alone" if keep else "Drop curve: all but the top pixels",
        tuple(series),
        kind="lines",
        x_label=f"% of pixels {'kept' if keep else 'removed'}",
        y_label="class stays",
        unit="share",
        caption="Higher and sooner is better: few pixels carry the answer."
        if keep
        else "Lower and sooner is better: the answer hangs on what was removed.",
    )
