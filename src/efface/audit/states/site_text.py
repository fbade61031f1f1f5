"""Sentences that follow from probes by site; each is chosen by where intervals lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from efface.audit.finding import Finding, by_measure
from efface.audit.states.measures import BITS, PROBE, SELECTIVITY
from efface.audit.vectors.labels import Labels
from efface.audit.vectors.probe_text import caveats, measured
from efface.report.data import AFTER, BEFORE
from efface.report.numbers import format_value as number

Row = dict[str, Finding]


def conclusions(findings: Sequence[Finding], name: str) -> Iterator[str]:
    """What the probes read and where; then how much of it they may owe to knowing the words."""
    rows = by_measure(f for f in findings if f.family == PROBE)
    yield from _after(rows, name) if AFTER in rows[0] else _before(rows, name)
    yield from _by_threshold_only(rows, {f.name: f for f in findings if f.family == BITS and f.condition == AFTER})
    selective = [f for f in findings if f.family == SELECTIVITY and f.condition == BEFORE]
    if selective:
        yield _control(selective, name)


def _before(rows: Sequence[Row], name: str) -> Iterator[str]:
    found = [row[BEFORE] for row in rows if row[BEFORE].side == 1]
    if found:
        yield f"The linear probe reads {name} at {_of(found, rows)}, best at {_shown(_best(found))}."
    else:
        yield f"The linear probe reads {name} better than chance at none of {_sites(rows)}. That proves no absence."


def _after(rows: Sequence[Row], name: str) -> Iterator[str]:
    valid = [row for row in rows if row[BEFORE].side == 1]
    reads = [row for row in valid if row[AFTER].side == 1]
    if reads:
        best = _best([row[AFTER] for row in reads])
        before = f"against {number(best.baseline or 0.0, best.unit)} before"
        where = f"{_of(reads, rows)}, best at {_shown(best)}, {before}"
        yield f"NOT erased: the linear probe still reads {name} at {where}."
    elif valid:
        yield (
            f"The linear probe reads {name} better than chance at none of {_sites(rows)} any more. "
            "That is no proof that no probe can."
        )
    if len(valid) < len(rows):
        blind = [row for row in rows if row not in valid]
        yield f"At {_of(blind, rows)} it could not read {name} even before: that tells nothing about the erasure."


def _by_threshold_only(rows: Sequence[Row], bits: dict[str, Finding]) -> Iterator[str]:
    reads = [row for row in rows if AFTER in row and row[AFTER].side == row[BEFORE].side == 1]
    guarded = [row for row in reads if bits[row[AFTER].name].side != 1]
    if guarded:
        yield (
            f"At {len(guarded)} of these sites the probe's loss is no better than a constant guess, which is "
            "all that linear guardedness promises; only its count of right answers is."
        )


def _control(findings: Sequence[Finding], name: str) -> str:
    real = [f for f in findings if (f.low or 0.0) > 0]
    if not real:
        return (
            f"Nowhere does the probe read {name} better than random labels of the same words: "
            "it may only know which word it sees."
        )
    rest = "" if len(real) == len(findings) else "; elsewhere the probe may only know which word it sees"
    return (
        f"At {_of(real, findings)} {name} is read better than random labels of the same words before erasure "
        f"(most at {_best(real).name}: by {100 * _best(real).value:.1f} points){rest}."
    )


def _best(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda f: f.value)


def _shown(finding: Finding) -> str:
    return f"{finding.name}: {measured(replace(finding, name='accuracy'))}"


def _of(some: Sequence[Any], every: Sequence[Any]) -> str:
    return f"{len(some)} of {_sites(every)}"


def _sites(every: Sequence[Any]) -> str:
    return f"{len(every)} site{'s' if len(every) > 1 else ''}"


def probed(labels: Labels, *, sites: int, folds: int, groups: Any, control: Labels | None) -> tuple[str, ...]:
    """How it was done."""
    held = "rows" if groups is None else f"groups ({len(set(groups.tolist()))} in all)"
    task = (
        ""
        if control is None
        else " The control task gives each word a random label: what a probe reads of it, it knows by heart, and "
        "selectivity is how much better it reads the real labels."
    )
    return (
        f"{len(labels):,} rows at {'one site' if sites == 1 else f'each of {sites} sites'}; the concept is "
        f"{labels.name} ({len(labels.classes)} classes). {folds} folds of whole {held}: each in turn is held out, and "
        f"a fresh linear probe learns from the others.{task}",
    )


def probing_caveats(labels: Labels, *, sites: int, grouped: bool, erased: bool) -> tuple[str, ...]:
    """What the numbers do not show."""
    loose = (
        "No groups were given: if rows of one sequence or file depend on each other, probes score too well "
        "and intervals are too short.",
    )
    many = (f"There are {sites} sites: of so many intervals some miss by chance.",)
    here = ("A site without the concept does not keep later ones from working it out anew from other sites.",)
    quick = ("The probes stop after 60 steps; accuracies are within about a point of probes that are trained on.",)
    return (
        *caveats(labels, fitted_inside=not erased),
        *(() if grouped else loose),
        *(many if sites > 1 else ()),
        *(here if erased else ()),
        *quick,
    )
