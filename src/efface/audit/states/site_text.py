"""Sentences that follow from probes by site; each is chosen by where intervals lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import replace
from typing import Any

from efface.audit.finding import Finding
from efface.audit.states.measures import INFORMATION, PROBES, SELECTIVITY
from efface.audit.vectors.judging import OF_THE_FIT, Reading
from efface.audit.vectors.labels import Labels
from efface.audit.vectors.probe_text import FIT_ROWS, caveats, measured
from efface.report.data import BEFORE, NOT_ERASED, TOO_FEW, WARNING, is_warning
from efface.report.numbers import format_value as number

_MANY = 4

Sites = dict[str, Reading]
"""What one probe makes of each site."""


def conclusions(findings: Sequence[Finding], name: str) -> Iterator[str]:
    """What the probes read and where, warnings first; then how much of it they may owe to knowing the words."""
    probed = readings(findings)
    said = [
        line
        for who, sites in probed.items()
        for line in (_after if next(iter(sites.values())).after else _before)(who, sites, name)
    ]
    yield from sorted(said, key=lambda line: not is_warning(line))
    selective = [f for f in findings if f.family == SELECTIVITY and f.condition == BEFORE]
    if selective:
        yield _control(selective, name)


def readings(findings: Sequence[Finding]) -> dict[str, Sites]:
    """Family of a probe -> site -> all its scores there."""
    found: dict[str, Sites] = {}
    for family, bits in zip(PROBES, INFORMATION, strict=True):
        sites = dict.fromkeys(f.name for f in findings if f.family == family)
        both = {site: [f for f in findings if f.name == site and f.family in (family, bits)] for site in sites}
        if sites:
            # The count of right answers before the bits, as it is the one that is quoted.
            found[family] = {s: Reading.of(sorted(fs, key=lambda f: f.family != family)) for s, fs in both.items()}
    return found


def _before(who: str, sites: Sites, name: str) -> Iterator[str]:
    found = [reading for reading in sites.values() if reading.could]
    if found:
        yield f"The {who} reads {name} at {_of(found, sites)}, best at {_shown(_best(found))}."
    else:
        yield f"The {who} reads {name} better than chance at none of {_sites(sites)}. That proves no absence."


def _after(who: str, sites: Sites, name: str) -> Iterator[str]:
    every = list(sites.values())
    reads, passes, below = ([r for r in every if getattr(r, what)] for what in ("reads", "passes", "below"))
    fitted = [r for r in every if r.has == OF_THE_FIT]
    few = [r for r in every if r.has == TOO_FEW]
    weak = [r for r in every if not r.could and not r.reads]
    if reads:
        best = _best(reads)
        where = f"{_of(reads, sites)}, best at {_shown(best)}, against {number(best.was.value, best.was.unit)} before"
        yield f"{NOT_ERASED}the {who} still reads {name} at {where}."
    if fitted:
        yield f"{FIT_ROWS} So it is at {_of(fitted, sites)}."
    if below:
        yield (
            f"{WARNING}at {_of(below, sites)} the {who} does worse than any constant guess after erasure, most at "
            f"{_shown(min(below, key=_value))}. These look like rows that the eraser was fitted on, where class means "
            f"are equal by construction{_by_luck(every)}."
        )
    if passes and not reads and not fitted and not below:
        yield (
            f"The {who} reads {name} better than chance at none of {_sites(sites)} any more. "
            "That is no proof that no probe can."
        )
    if few:
        told = f"{name} after erasure from before"
        yield f"{WARNING}at {_of(few, sites)} these rows are too few for the {who} to tell {told}."
    if weak:
        lead = WARNING if len(weak) == len(every) else ""
        said = f"at {_of(weak, sites)} the {who} could not read {name} even before: it is too weak to judge there, and"
        yield f"{lead}{said if lead else _capital(said)} tells nothing about the erasure."
    yield from _by_threshold_only(reads)


def _by_luck(every: Sequence[Reading]) -> str:
    """Of many intervals some lie below chance by luck."""
    if len(every) < _MANY:
        return ""
    tail = (1 - every[0].main.level) / 2
    return f" (of {len(every)} intervals {tail * len(every):.1f} lie below chance by luck)"


def _by_threshold_only(reads: Sequence[Reading]) -> Iterator[str]:
    guarded = [r for r in reads if len(r.after) > 1 and r.after[0].side == 1 and r.after[1].side != 1]
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
    most = max(real, key=lambda f: f.value)
    rest = "" if len(real) == len(findings) else "; elsewhere the probe may only know which word it sees"
    return (
        f"At {_of(real, findings)} {name} is read better than random labels of the same words before erasure "
        f"(most at {most.name}: by {100 * most.value:.1f} points){rest}."
    )


def _best(readings: Sequence[Reading]) -> Reading:
    # By the score of the most of them: right answers and bits cannot be compared.
    counted = [r for r in readings if r.main.unit == "share"]
    return max(counted or readings, key=_value)


def _value(reading: Reading) -> float:
    return reading.main.value


def _shown(reading: Reading) -> str:
    return f"{reading.main.name}: {measured(replace(reading.main, name='information'))}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _of(some: Sized, every: Sized) -> str:
    return f"{len(some)} of {_sites(every)}"


def _sites(every: Sized) -> str:
    return f"{len(every)} site{'s' if len(every) > 1 else ''}"


def probed(
    labels: Labels, *, sites: int, folds: int, groups: Any, control: Labels | None, probes: int, inside: bool
) -> tuple[str, ...]:
    """How it was done."""
    held = "rows" if groups is None else f"groups ({len(set(groups.tolist()))} in all)"
    task = (
        ""
        if control is None
        else " The control task gives each word a random label: what a probe reads of it, it knows by heart, and "
        "selectivity is how much better it reads the real labels."
    )
    fresh = "a fresh linear probe learns" if probes == 1 else "fresh probes learn"
    eraser = (
        " The model is scrubbed anew in each fold, by one half of the training sequences, while probes learn from the "
        "other, and the other way round."
        if inside
        else ""
    )
    return (
        f"{len(labels):,} rows at {'one site' if sites == 1 else f'each of {sites} sites'}; the concept is "
        f"{labels.name} ({len(labels.classes)} classes). {folds} folds of whole {held}: each in turn is held out, and "
        f"{fresh} from the others.{eraser}{task}",
    )


def probing_caveats(labels: Labels, *, sites: int, grouped: bool, erased: bool, inside: bool) -> tuple[str, ...]:
    """What the numbers do not show."""
    many = (f"There are {sites} sites: of so many intervals some miss by chance.",)
    here = ("A site without the concept does not keep later ones from working it out anew from other sites.",)
    quick = ("The linear probe stops after 60 steps at each penalty; it is within about a point of one trained on.",)
    return (
        *caveats(labels, fitted_inside=inside or not erased, grouped=grouped, fits=inside),
        *(many if sites > 1 else ()),
        *(here if erased else ()),
        *quick,
    )
