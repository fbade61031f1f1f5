"""What a probe's scores before and after an erasure may be taken to say: a probe that finds nothing need not be right.

Four things look like an erasure that works and are none: a probe that is too weak to read the concept at all, rows too
few to tell, a count of right answers that stays at chance while the loss does not (as with rare classes), and rows that
the eraser was fitted on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from efface.audit.finding import Finding
from efface.report.data import AFTER, BEFORE, GUESS, TOO_FEW, TOO_WEAK

OTHER_SCORE, OF_THE_FIT = "read by another score", "rows of the fit?"
_LEAST = 1e-3
"""Bits, or a share of the variance, under which nothing is read, however sure it is: a strongly penalised probe is a
constant but for so much."""

_WIDEST = 0.3
"""A share with a longer interval, as of under forty rows, says neither yes nor no."""
_COUNTS = "accuracy"
"""The score that noise does not bring below that of a guess; losses are, a little, whenever a probe has learnt any."""


def judged(findings: Sequence[Finding], *, constant: float) -> list[Finding]:
    """The scores of one probe with cautions on those after erasure, and those that read out of the small print.

    Args:
        findings: Every score of one probe, before and after.
        constant: The share of right answers of constant guesses, each the most common class of its training rows.
    """
    before = {f.name: f for f in findings if f.condition == BEFORE}
    could = any(map(is_read, before.values()))
    reads = any(is_read(f) for f in findings if f.condition == AFTER)

    def judge(f: Finding) -> Finding:
        if f.condition != AFTER or is_read(f):
            return f
        if reads:
            return replace(f, caution=OTHER_SCORE)
        if not could:
            return replace(f, caution=TOO_WEAK)
        if f.side == -1:
            as_guess = f.name != _COUNTS or (f.high or 0.0) >= constant
            return replace(f, caution=GUESS) if as_guess else f
        if f.side == 1:
            return replace(f, caution=GUESS)
        reaches = is_read(before[f.name]) and (f.high or 0.0) >= before[f.name].value
        wide = f.unit == "share" and (f.high or 0.0) - (f.low or 0.0) > _WIDEST
        return replace(f, caution=TOO_FEW) if reaches or wide else f

    found = list(map(judge, findings))
    reading = [f for f in found if f.condition == AFTER and is_read(f)]
    if any(not f.detail for f in reading):
        return found
    return [replace(f, detail=False) if f in reading else f for f in found]


def is_read(finding: Finding) -> bool:
    """Whether a score says that the concept is read: above chance, and not by next to nothing."""
    return finding.side == 1 and (finding.unit == "share" or finding.value >= _LEAST)


def of_the_fit(findings: Iterable[Finding]) -> list[Finding]:
    """The same with a caution on what was not read after erasure, in rows that look like those of the fit."""
    return [replace(f, caution=OF_THE_FIT) if f.condition == AFTER and not is_read(f) else f for f in findings]


@dataclass(frozen=True)
class Reading:
    """One probe in one place, by all its scores.

    Attributes:
        before: Its scores before erasure, the main one first.
        after: The same after it; empty if there is none.
    """

    before: tuple[Finding, ...]
    after: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Reading:
        """Of all scores of one probe in one place."""
        found = tuple(findings)
        return cls(*(tuple(f for f in found if f.condition == side) for side in (BEFORE, AFTER)))

    @property
    def could(self) -> bool:
        """Whether it read the concept before erasure."""
        return any(map(is_read, self.before))

    @property
    def reads(self) -> bool:
        """Whether it reads it after, or, of one side only, at all."""
        return any(map(is_read, self.after or self.before))

    @property
    def main(self) -> Finding:
        """The score to be quoted: that which reads, else the first."""
        sides = self.after or self.before
        return next(filter(is_read, sides), sides[0])

    @property
    def was(self) -> Finding:
        """The same score before erasure."""
        return self.before[(self.after or self.before).index(self.main)]

    @property
    def has(self) -> str:
        """The caution on its first score."""
        return (self.after or self.before)[0].caution

    @property
    def below(self) -> bool:
        """Whether it does worse than any constant guess, which rows that no fit has seen do not explain."""
        return bool(self.after) and self.after[0].side == -1 and not self.after[0].caution

    @property
    def passes(self) -> bool:
        """Whether it read the concept before, does not after, and nothing keeps that from being taken at its word."""
        trusted = self.has in ("", GUESS)
        return bool(self.after) and self.could and trusted and not self.reads and not self.below
