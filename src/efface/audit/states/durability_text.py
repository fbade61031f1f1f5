"""Verdicts and sentences about an erasure of a language model that was rounded, tuned, or given back its states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from efface.audit.finding import Finding
from efface.audit.states.reading import Floats
from efface.audit.vectors.judging import Reading
from efface.audit.vectors.labels import Labels
from efface.report.data import NOT_ERASED, WARNING
from efface.report.numbers import format_value

ERASED = "after"
WELL, READ, COMES, UNSURE, BROKEN = "stays away", "still read", "comes back", "inconclusive", "broken"
SPOILED = "void: its states spoil other tokens too"

CAVEATS = (
    "Linear probes of single tokens at some sites: other probes, sites or several tokens together may find it.",
    "Rounding is of weights alone, each by itself; quantisers that look at data, or round activations, do otherwise.",
    "Tuning is one way of many: more steps, another rate or other text may bring the concept back, or not.",
    "States that are put back are the base's of the very same text: somebody who has them has the base.",
)


@dataclass(frozen=True, eq=False)
class Treatment:
    """An erasure as it is, or after something was done to the model, and what is read of it then.

    Attributes:
        name: What was done.
        verdict: What follows.
        readings: Site -> what the probe makes of it, before erasure and then.
        changes: Site -> change of the share that is read since erasure; of the erasure as it is, none.
        hits: Site -> whether each row was read rightly.
        loss: On the text.
        findings: All of them.
    """

    name: str
    verdict: str
    readings: Mapping[str, Reading]
    changes: Mapping[str, Finding]
    hits: Mapping[str, Floats]
    loss: Finding
    findings: tuple[Finding, ...]

    @property
    def most(self) -> tuple[str, Reading]:
        """The site where most is read: one that reads, where any does."""
        return max(self.readings.items(), key=lambda pair: (pair[1].reads, pair[1].after[0].value))


def verdict_of(
    readings: Mapping[str, Reading], changes: Mapping[str, Finding], *, broken: bool, erased: Treatment | None
) -> str:
    """What follows from the readings; a broken model says nothing, and what is unsure is never a pass."""
    if broken:
        return BROKEN
    read = [site for site, reading in readings.items() if reading.reads]
    if any(changes[site].side == 1 for site in read if site in changes):
        return COMES
    if read and (erased is None or any(erased.readings[site].reads for site in read)):
        return READ
    return WELL if not read and all(reading.passes for reading in readings.values()) else UNSURE


def method(labels: Labels, sequences: int, sites: int, steps: int, rate: float, is_tuned: bool) -> tuple[str, ...]:
    """What was done."""
    tuning = f", and tuned for {steps} steps of Adam at {rate:g} on other text" if is_tuned else ""
    return (
        f"{len(labels)} tokens of {sequences} sequences, with {len(labels.classes)} classes of {labels.name}, are "
        f"read by fresh linear probes at {sites} site(s): of the base, of the erased model, and of it with its "
        f"weights rounded{tuning}. Whole groups are held out, and intervals resample them. A model whose loss is not "
        "surely below that of frequencies of tokens is broken, and nothing that is not read of it counts.",
    )


def conclusions(
    treatments: Sequence[Treatment], back: Sequence[tuple[str, Finding]], score: Finding, name: str
) -> Iterator[str]:
    """Sentences, the erasure as it is first."""
    first, *rest = treatments
    yield _first(first, name)
    for t in rest:
        yield _treated(t, first, name)
    if back and first.verdict != BROKEN:
        yield _put_back(back, name)
    if score.is_scored:
        lead = WARNING if score.caution else ""
        yield f"{lead}unlearning depth {spanned(score)} ({score.note}){'; ' + score.caution if score.caution else ''}."
    else:
        yield f"Unlearning depth: {score.status}; {score.why}."


def _first(t: Treatment, name: str) -> str:
    site, reading = t.most
    was, now = spanned(reading.before[0]), spanned(reading.after[0])
    loss = f"{spanned(t.loss)} nats per token, {format_value(t.loss.baseline or 0.0)} before; {t.loss.note}"
    if t.verdict == BROKEN:
        return f"{WARNING}the erased model is broken: its loss is {loss}. That nothing is read of it is no erasure."
    if t.verdict == READ:
        return f"{NOT_ERASED}{name} is read at {site}: {now}, {was} before."
    if t.verdict == WELL:
        return f"{name} is read at none of {len(t.readings)} sites any more ({now} at most, {was} before); loss {loss}."
    return f"{WARNING}whether {name} is erased cannot be said: {reading.has or 'too little data'} at {site} ({now})."


def _treated(t: Treatment, first: Treatment, name: str) -> str:
    site, reading = t.most
    now = f"{spanned(reading.after[0])} at {site}"
    if t.verdict == COMES:
        return f"{WARNING}{t.name}: {name} comes back: {now}, {spanned(first.readings[site].after[0])} as erased."
    if t.verdict == BROKEN:
        return f"{WARNING}{t.name}: the model is broken (loss {spanned(t.loss)}): nothing follows."
    if t.verdict == READ:
        return f"{t.name}: still read, not clearly more than as erased: {now}."
    if t.verdict == WELL:
        return f"{t.name}: {name} stays away ({now}); loss {spanned(t.loss)}."
    return f"{WARNING}{t.name}: inconclusive, {reading.has or 'neither read nor clearly away'} ({now})."


def _put_back(back: Sequence[tuple[str, Finding]], name: str) -> str:
    read = [block for block, f in back if f.side == 1 and not f.caution]
    at = back[0][1].note.partition(",")[0]
    if not read and any(f.caution or f.low is None for _, f in back):
        return (
            f"{WARNING}with the base's states put back nothing can be said: {back[-1][1].caution or 'too few'} ({at})."
        )
    if not read:
        return f"With the base's states put back at any of {len(back)} blocks, {name} is not read again ({at})."
    few = "all" if len(read) == len(back) else f"{len(read)}"
    return (
        f"With the base's states put back, {name} is read again behind {few} of {len(back)} blocks, the first "
        f"{read[0]} ({at}): what comes behind does not keep it out by itself."
    )


def untuned() -> Finding:
    """Tuning that was not asked for."""
    return Finding.without("tuned", "not run", "no other text was given: write tuning=", "linear probe")


def spanned(f: Finding) -> str:
    """A number with its interval."""
    value = format_value(f.value, f.unit if f.unit == "share" else "")
    if f.low is None or f.high is None:
        return value
    ends = (format_value(end, f.unit if f.unit == "share" else "") for end in (f.low, f.high))
    return f"{value} [{', '.join(ends)}]"
