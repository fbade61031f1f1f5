"""Sentences that follow from findings: what can still be read, what cannot, what else went.

Every sentence is chosen by where an interval lies; none is written for a particular data set or eraser.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from efface.audit.finding import Finding, by_measure
from efface.audit.vectors.judging import OF_THE_FIT, Reading
from efface.audit.vectors.labels import Labels
from efface.report.data import CHANGE, NOT_ERASED, TOO_FEW, WARNING
from efface.report.numbers import format_value as number


def measured(finding: Finding) -> str:
    """A number with its interval and what chance would be.

    >>> measured(Finding("accuracy", 0.5, low=0.4, high=0.6, chance=0.5, unit="share"))
    '50.0% right (95% interval 40.0% to 60.0%; chance 50.0%)'
    """
    value, chance = number(finding.value, finding.unit), number(finding.chance or 0.0, finding.unit)
    plain = "" if finding.name == "information" else f"{finding.name} "
    shown = f"{value} right" if finding.unit == "share" else f"{plain}{value}"
    if finding.low is None or finding.high is None:
        return f"{shown} (chance {chance})"
    span = f"{number(finding.low, finding.unit)} to {number(finding.high, finding.unit)}"
    return f"{shown} ({100 * finding.level:g}% interval {span}; chance {chance})"


def conclusions(findings: Sequence[Finding], name: str) -> Iterator[str]:
    """What sums up, warnings first; then a sentence for each probe and each task."""
    probed = readings(findings)
    yield from summary(probed, name)
    yield from (_probe_sentence(who, reading, name) for who, reading in probed.items())
    tasks = by_measure(f for f in findings if f.family.startswith(_TASK))
    yield from (_task_sentence(row[CHANGE], _of_task(findings, row[CHANGE].family)) for row in tasks if CHANGE in row)


def readings(findings: Iterable[Finding]) -> dict[str, Reading]:
    """Family of a probe -> all its scores."""
    families = dict.fromkeys(f.family for f in findings if f.family.endswith("probe"))
    return {family: Reading.of(f for f in findings if f.family == family) for family in families}


def _probe_sentence(family: str, reading: Reading, name: str) -> str:
    who, main = f"The {family}", reading.main
    change = f"{measured(main)}, against {number(reading.was.value, main.unit)} before"
    if reading.reads:
        return f"{who} still reads {name} after erasure: {change}."
    if not reading.could:
        said = f"{who} could not read {name} even before: {measured(reading.was)}."
        return f"{said} It is too weak to judge, and tells nothing about the erasure."
    if reading.has == OF_THE_FIT:
        return f"{who} reads nothing of {name} after erasure in these rows, which look like those of the fit: {change}."
    if reading.below:
        return f"{who} does worse than any constant guess for {name} after erasure: {change}."
    if reading.has == TOO_FEW:
        return f"{who} does not read {name} after erasure, but these rows are too few to tell: {change}."
    if main.side == 0:
        return f"{who} is at chance for {name} after erasure: {change}."
    return f"{who} does no better than a guess for {name} after erasure: {change}."


def summary(probed: Mapping[str, Reading], name: str) -> Iterator[str]:
    """Whether it is erased, as far as these probes can tell; with a warning for each thing that keeps them from it."""
    reads, passes, few, below = (
        [who for who, r in probed.items() if chosen(r)]
        for chosen in (_reads, _passes, lambda r: r.has == TOO_FEW and not r.reads, lambda r: r.below)
    )
    of_the_fit = any(r.has == OF_THE_FIT for r in probed.values())
    if reads and passes:
        hidden = " It is hidden from the simpler models only." if "linear probe" in passes else ""
        yield (
            f"{NOT_ERASED}{name} is out of reach of the {_join(passes)}, but the {_join(reads)} still reads it.{hidden}"
        )
    elif reads:
        yield f"{NOT_ERASED}the {_join(reads)} still {'finds' if len(reads) == 1 else 'find'} {name}."
    if of_the_fit:
        yield FIT_ROWS
    elif below:
        yield (
            f"{WARNING}the {_join(below)} {'does' if len(below) == 1 else 'do'} worse than any constant guess after "
            "erasure. These look like rows that the eraser was fitted on, where class means are equal by construction: "
            "audit others, or give fit instead of a fitted eraser."
        )
    elif not reads and passes:
        yield f"No probe tried here reads {name} better than chance any more. That is no proof that none can."
    elif few:
        yield (
            f"{WARNING}too few rows to judge: what could be read of {name} before erasure, by the {_join(few)}, lies "
            "within the intervals after it."
        )
    elif probed and not reads:
        yield (
            f"{WARNING}too weak to judge: no probe tried here could read {name} even before erasure, so that nothing "
            "follows about the erasure."
        )


def copied(copies: int, n: int) -> Iterator[str]:
    """A warning if rows are copies of rows that eraser and probes have learnt from."""
    if copies > _FEW_COPIES * n:
        yield (
            f"{WARNING}{copies:,} of {n:,} rows are copies of rows of their training fold, so that neither probes nor "
            "the eraser are tried on anything new there: leave copies out, or give those of one row the same group."
        )


def thin(rows: int, columns: int, readings: Iterable[Reading]) -> Iterator[str]:
    """A warning where erasers and probes have fewer rows than columns, and a probe is content (see `halves`).

    Args:
        rows: Of half a training fold.
        columns: Of each row.
        readings: Of the probes.
    """
    found = list(readings)
    if rows < columns and any(r.passes for r in found) and not any(r.reads for r in found):
        yield (
            f"{WARNING}{rows:,} rows for an eraser, and as many for a probe, are few for {columns:,} columns: whoever "
            "has more rows to learn from may read what is not read here."
        )


FIT_ROWS = (
    f"{WARNING}these look like rows that the eraser was fitted on: after erasure they go with the labels far less than "
    "with shuffled ones, as only its own rows do (or pairs that differ in the concept alone). What fresh rows still "
    "show cannot be seen here: audit others, or give fit instead of a fitted eraser."
)
"""What is said where the rows give themselves away."""

_TASK = "task: "
_FEW_COPIES = 0.01


def _reads(reading: Reading) -> bool:
    return reading.reads


def _passes(reading: Reading) -> bool:
    return reading.passes


def _of_task(findings: Sequence[Finding], family: str) -> Reading:
    return Reading.of(f for f in findings if f.family == family)


def _join(names: Sequence[str]) -> str:
    return " and the ".join(names)


def _task_sentence(change: Finding, task: Reading) -> str:
    if not task.could:
        done = measured(task.before[0])
        return f"The task ({change.family.removeprefix(_TASK)}) could not be done even before: {done}."
    what = "accuracy" if change.unit == "share" else "R2"
    words = {0: "shows no clear change", 1: "went up", -1: "went down"}[change.side or 0]
    subject = change.family.removeprefix(_TASK)
    value = _difference(change.value, change.unit)
    if change.low is None or change.high is None:
        return f"The task ({subject}) {words}: {what} changed by {value} in every fold alike."
    low, high = (_difference(v, change.unit) for v in (change.low, change.high))
    return f"The task ({subject}) {words}: {what} changed by {value} ({low} to {high})."


def _difference(value: float, unit: str) -> str:
    return f"{100 * value + 0.0:+.1f} points" if unit == "share" else f"{value:+.3f}"


def method(concept: Labels, *, n: int, d: int, folds: int, groups: Any, inside: bool) -> tuple[str, ...]:
    """How it was done, in two sentences."""
    held = "rows" if groups is None else f"groups ({len(set(map(str, groups)))} in all)"
    eraser = (
        "Erasers were fitted anew in each fold, on training rows only, and probed by what learns from other ones: one "
        "half of them is the eraser's and one the probes', then the other way round."
        if inside
        else "The eraser came fitted; the audit trusts that it was fitted on other rows than these."
    )
    what = f"{len(concept.classes)} classes" if concept.is_categorical else "a number"
    return (
        f"{n:,} rows of {d} numbers; the concept is {concept.name} ({what}). "
        f"{folds} folds of whole {held}: each in turn is held out, and fresh probes learn from the others. {eraser}",
    )


def caveats(concept: Labels, *, fitted_inside: bool, grouped: bool, fits: bool = True) -> tuple[str, ...]:
    """What the numbers do not show."""
    always = (
        "“At chance” means that the interval contains the chance level: these probes found nothing in these rows. "
        "A stronger probe, or more rows, may find something.",
        "Intervals cover which rows (or groups) were drawn, not the choice of folds, probes and seeds.",
    )
    accuracy = (
        "Accuracy counts right answers. Linear guardedness is about loss (the information in bits): a threshold can "
        "score above chance while the loss is no better than a constant guess.",
    )
    own = (
        "Erasers and probes had half of a training fold each, and scores are of what an eraser of so many rows leaves "
        "for a probe of as many. For erasers of class means that is about what any number of fresh rows would show of "
        "an eraser of the whole fold, and less where columns are more than the rows of a half. With few rows much is "
        "left by chance: the gap of class means on other rows shrinks as the root of columns over rows.",
    )
    trust = (
        "Whether the fitted eraser has seen some of these rows cannot be checked here; if so, the audit flatters it.",
    )
    loose = (
        "No groups were given: if rows of one person, sequence or file depend on each other, probes score too well, "
        "erasers look better than they are on new ones, and intervals are too short.",
    )
    return (
        *always,
        *(accuracy if concept.is_categorical else ()),
        *(own if fitted_inside and fits else () if fitted_inside else trust),
        *(() if grouped else loose),
    )
