"""Sentences that follow from losses; each is chosen by where paired intervals lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from efface.audit.finding import Finding, by_measure
from efface.report.data import CHANGE, WARNING
from efface.report.numbers import format_value as number

WHOLE, NONE = "whole model", "none"
LOSS, ERASED, CONTROLLED, DIFFERENCE = "loss", "erased", "control", "difference"

CHANGE_NOTE = "change of the mean loss against the unscrubbed model, each sequence paired with itself"
DIFFERENCE_NOTE = "mean loss minus that of the random control, each sequence paired with itself"
SITES_TEXT = (
    "Changes of the loss against the unscrubbed model when only this site is erased: the concept (erased), or a random "
    "subspace (control). The difference is what the concept costs beyond any edit of that rank."
)
CAVEATS = (
    "A site that costs little may still hold the concept: the model may not use it there, or find it elsewhere.",
    "The control is fair only if it takes out as many dimensions as the erasure; that cannot be checked here.",
    "Intervals cover which sequences (or groups) were drawn, not the draw of the random subspaces, nor of the rows "
    "that the erasers were fitted on.",
)

Row = dict[str, Finding]


def method(n: int, *, groups: Any, control: str, unit: str) -> tuple[str, ...]:
    """How it was done."""
    held = "sequences" if groups is None else f"groups ({len(set(groups.tolist()))} in all)"
    return (
        f"The loss ({unit}) of the same {n:,} sequences under each condition; every change is paired, and intervals "
        f"are over {held}. “{control}” takes a random subspace out instead of the concept.",
    )


def conclusions(findings: Sequence[Finding], name: str, control: str) -> Iterator[str]:
    """A sentence for each way to scrub the whole model, then one for each way to erase one site."""
    for row in by_measure(f for f in findings if f.family == WHOLE):
        if CHANGE in row and row[CHANGE].name != control:
            yield _whole_sentence(row, name, control)
    ways = dict.fromkeys(f.family for f in findings if f.condition == ERASED)
    for way in ways:
        yield _sites_sentence(by_measure(f for f in findings if f.family == way), name, control)


def _whole_sentence(row: Row, name: str, control: str) -> str:
    change, difference = row[CHANGE], row.get(DIFFERENCE)
    against = ""
    if difference is not None:
        # What the control costs is the change less the difference.
        against = f"; {control} subspaces changed it by {_signed(change.value - difference.value, change.unit)}"
        against += f" (difference: {_span(difference)}, {difference.verdict})"
    said = f"rasing {name} everywhere by {change.name} changed the loss by {_span(change)}, {_side(change)}{against}."
    if change.side == -1:
        return f"{WARNING}e{said} Taking something out teaches a model nothing: have the erasers seen these labels?"
    return f"E{said}"


def _sites_sentence(rows: Sequence[Row], name: str, control: str) -> str:
    key = DIFFERENCE if DIFFERENCE in rows[0] else ERASED
    costs = [row for row in rows if row[key].side == 1]
    worst = max(rows, key=lambda row: row[key].value)[key]
    than = f"more than a {control} subspace" if key == DIFFERENCE else "something"
    sites = f"{len(costs)} of {len(rows)} site{'s' if len(rows) > 1 else ''}"
    return (
        f"Erasing {name} at one site by {worst.family} costs {than} at {sites}; "
        f"most at {worst.name}: {_span(worst)}{' beyond it' if key == DIFFERENCE else ''}."
    )


def _side(change: Finding) -> str:
    return {1: "clearly up", -1: "clearly down", 0: "no clear change"}[change.side or 0]


def _span(finding: Finding) -> str:
    value = _signed(finding.value, finding.unit)
    if finding.low is None or finding.high is None:
        return value
    return f"{value} ({_signed(finding.low, '')} to {_signed(finding.high, '')})"


def _signed(value: float, unit: str) -> str:
    sign = "+" if round(value, 3) > 0 else ""
    return sign + number(value, unit)
