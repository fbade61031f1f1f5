"""Sentences that follow from findings: what can still be read, what cannot, what else went.

Every sentence is chosen by where an interval lies; none is written for a particular data set or eraser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from efface.audit.finding import Finding, by_measure
from efface.audit.vectors.labels import Labels
from efface.report.data import AFTER, BEFORE, CHANGE
from efface.report.numbers import format_value as number

_SCORES = ("accuracy", "R2")


def measured(finding: Finding) -> str:
    """A number with its interval and what chance would be.

    >>> measured(Finding("accuracy", 0.5, low=0.4, high=0.6, chance=0.5, unit="share"))
    '50.0% right (95% interval 40.0% to 60.0%; chance 50.0%)'
    """
    value, low, high, chance = (
        number(v or 0.0, finding.unit) for v in (finding.value, finding.low, finding.high, finding.chance)
    )
    shown = f"{value} right" if finding.name == "accuracy" else f"{finding.name} {value}"
    return f"{shown} ({100 * finding.level:g}% interval {low} to {high}; chance {chance})"


def conclusions(findings: Sequence[Finding], name: str) -> Iterator[str]:
    """One sentence that sums up (if any probe could read the concept before), then one a probe and one a task."""
    rows = by_measure(findings)
    probed = [r for r in rows if _is_probe(r)]
    yield from _summary(probed, name)
    yield from (_probe_sentence(row[BEFORE], row[AFTER], name) for row in probed)
    yield from (_task_sentence(row[CHANGE]) for row in rows if CHANGE in row)


def _is_probe(row: dict[str, Finding]) -> bool:
    first = next(iter(row.values()))
    return first.name in _SCORES and first.family.endswith("probe") and {BEFORE, AFTER} <= set(row)


def _probe_sentence(before: Finding, after: Finding, name: str) -> str:
    who = f"The {after.family}"
    if before.side != 1:
        return f"{who} could not read {name} even before: {measured(before)}. It tells nothing about the erasure."
    change = f"{measured(after)}, against {number(before.value, before.unit)} before"
    if after.side == 1:
        return f"{who} still reads {name} after erasure: {change}."
    if after.side == 0:
        return f"{who} is at chance for {name} after erasure: {change}."
    return (
        f"{who} does worse than a constant guess for {name} after erasure: {change}. "
        "It found nothing that holds on rows held out."
    )


def _summary(probed: Sequence[dict[str, Finding]], name: str) -> Iterator[str]:
    valid = [row[AFTER] for row in probed if row[BEFORE].side == 1]
    reads, fails = ([f.family for f in valid if (f.side == 1) is side] for side in (True, False))
    if reads and fails:
        yield (
            f"NOT erased: {name} is out of reach of the {_join(fails)}, but the {_join(reads)} still reads it. "
            "It is hidden from the simpler models only."
        )
    elif reads:
        yield f"NOT erased: the {_join(reads)} still {'finds' if len(reads) == 1 else 'find'} {name}."
    elif fails:
        yield f"No probe tried here reads {name} better than chance any more. That is no proof that none can."


def _join(names: Sequence[str]) -> str:
    return " and the ".join(names)


def _task_sentence(change: Finding) -> str:
    value, low, high = (_difference(v or 0.0, change.unit) for v in (change.value, change.low, change.high))
    what = "accuracy" if change.unit == "share" else "R2"
    words = {0: "shows no clear change", 1: "went up", -1: "went down"}[change.side or 0]
    subject = change.family.removeprefix("task: ")
    return f"The task ({subject}) {words}: {what} changed by {value} ({low} to {high})."


def _difference(value: float, unit: str) -> str:
    return f"{100 * value + 0.0:+.1f} points" if unit == "share" else f"{value:+.3f}"


def method(concept: Labels, *, n: int, d: int, folds: int, groups: Any, inside: bool) -> tuple[str, ...]:
    """How it was done, in two sentences."""
    held = "rows" if groups is None else f"groups ({len(set(map(str, groups)))} in all)"
    eraser = (
        "The eraser was fitted anew in each fold, on the training rows only."
        if inside
        else "The eraser came fitted; the audit trusts that it was fitted on other rows than these."
    )
    what = f"{len(concept.classes)} classes" if concept.is_categorical else "a number"
    return (
        f"{n:,} rows of {d} numbers; the concept is {concept.name} ({what}). "
        f"{folds} folds of whole {held}: each in turn is held out, and fresh probes learn from the others. {eraser}",
    )


def caveats(concept: Labels, *, fitted_inside: bool) -> tuple[str, ...]:
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
    trust = ("Whether the fitted eraser has seen these rows cannot be checked here; if it has, the audit flatters it.",)
    return always + (accuracy if concept.is_categorical else ()) + (() if fitted_inside else trust)
