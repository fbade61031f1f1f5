"""A finding: one number, with all it takes to judge it, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from efface._errors import InputError
from efface.audit.plain import Plain
from efface.audit.subjects import Access
from efface.core.doors import check_call
from efface.report.data import CHANCE, NO_CHANGE, NO_DIFFERENCE, NOT_APPLICABLE, NOT_RUN, SCORED
from efface.report.numbers import format_value

if TYPE_CHECKING:
    from efface.stats.intervals import Interval

_ROUNDING = 1e-9
_STATUSES = (SCORED, NOT_APPLICABLE, NOT_RUN)
_WORDS = {
    CHANCE: ("below chance", "at chance", "above chance"),
    NO_CHANGE: ("lower than before", "no clear change", "higher than before"),
    NO_DIFFERENCE: ("lower than the control", "no clear difference", "higher than the control"),
}


@dataclass(frozen=True)
class Finding(Plain):
    """One measured number, and what it takes to judge it; or the reason why there is none.

    Attributes:
        name: What was measured, e.g. `"accuracy"`.
        value: The number. None where the status is not `"scored"`: nothing that was not measured can be averaged, or
            compared and read as a pass.
        family: Who measured it, e.g. `"linear probe"`.
        condition: On what, e.g. `"before"` or `"after"` erasure.
        low: Lower end of the interval, if there is one.
        high: Upper end of the interval.
        level: Confidence level of the interval, in (0, 1).
        method: How the interval was made, and on how many independent units.
        n: Number of rows scored.
        seed: Seed of every random choice.
        chance: Value expected if nothing can be read, or of no change or difference.
        reference: What `chance` stands for: `"chance"`, `"no change"` or `"no difference"` (from a control).
        baseline: Value to compare with, mostly the one before erasure.
        unit: `"share"` (shown in per cent), `"bits"`, `"sd"`, or free text.
        note: Anything a reader must know, in words.
        detail: Whether it belongs to the small print.
        probe: Which probe of a battery measured it, with its version or settings, where the family does not say it.
        access: What the probe had to have of its subject, e.g. `"prompts"` or `"weights"`.
        budget: What the probe was allowed to spend, e.g. `{"prompts": 200, "steps": 50}`.
        judge: Who decided, e.g. the name of a classifier.
        floor: What the same probe finds where the concept never was (a gold model), or after an erasure of something
            else (a placebo): nothing can be expected to fall below it.
        evidence: SHA-256 of what the number was made from, e.g. of images that are kept elsewhere.
        status: `"scored"`, or `"not applicable"` (the subject does not have what the probe needs) or `"not run"`.
        why: The reason, in words, if it is not scored.
        caution: What keeps the interval from being taken at its word, e.g. `"too weak to judge"`; it is the verdict
            then.

    >>> f = Finding("accuracy", 0.53, low=0.49, high=0.58, n=442, chance=0.53, unit="share")
    >>> f.verdict
    'at chance'
    >>> print(f.reason)
    the 95% interval 49.0% to 58.0% contains chance, 53.0%; values up to 58.0% are not excluded
    >>> Finding.without("recovered", "not run", "no gradients of an API", access="gradients").verdict
    'not run'
    """

    name: str
    # What is scored has a number, and what is not must not be taken for one: None refuses arithmetic and comparisons.
    value: float = None  # type: ignore[assignment]
    family: str = ""
    condition: str = ""
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    method: str = ""
    n: int | None = None
    seed: int | None = None
    chance: float | None = None
    reference: Literal["chance", "no change", "no difference"] = CHANCE
    baseline: float | None = None
    unit: str = ""
    note: str = ""
    detail: bool = False
    probe: str = ""
    access: Access | None = None
    budget: Mapping[str, Any] = field(default_factory=dict, hash=False)
    judge: str = ""
    floor: float | None = None
    evidence: tuple[str, ...] = ()
    status: Literal["scored", "not applicable", "not run"] = SCORED
    why: str = ""
    caution: str = ""

    def __post_init__(self) -> None:
        check_call(Finding, {k: v for k, v in vars(self).items() if k != "value" or v is not None})
        self._check_status()
        for name in ("value", "low", "high", "chance", "baseline", "floor"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise InputError(f"{self.title}: {name} is {number}, expected a finite number or None")
        if (self.low is None) != (self.high is None):
            raise InputError(f"{self.title}: give both low and high of the interval, or neither")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputError(f"{self.title}: the interval {self.low} to {self.high} is upside down")
        if not 0 < self.level < 1:
            raise InputError(f"{self.title}: level is {self.level}, expected a number between 0 and 1, e.g. 0.95")

    def _check_status(self) -> None:
        if self.status not in _STATUSES:
            raise InputError(f"{self.title}: status is {self.status!r}, expected one of {', '.join(_STATUSES)}")
        numbers = [self.value, self.low, self.high]
        if self.is_scored:
            if self.value is None:
                raise InputError(f"{self.title}: there is no value; write Finding.without(name, 'not run', why)")
        elif not self.why or any(n is not None for n in numbers):
            raise InputError(f"{self.title} is {self.status}: give the reason as why, and no value or interval")

    @classmethod
    def without(
        cls, name: str, status: Literal["not applicable", "not run"], why: str, family: str = "", **more: Any
    ) -> Self:
        """A finding that is not there, and why; `more` as for `Finding`."""
        check_call(Finding.without, locals())
        return cls(name, family=family, status=status, why=why, **more)

    @classmethod
    def of(cls, name: str, interval: Interval, family: str = "", condition: str = "", **more: Any) -> Self:
        """A finding of an estimate with its interval; `more` as for `Finding`.

        An interval without width is left out: all rows agree, which says nothing of how far others may be.

        >>> from efface.stats.intervals import wilson_interval
        >>> Finding.of("accuracy", wilson_interval(5, 10), unit="share").method
        'Wilson, 10 rows'
        """
        check_call(Finding.of, locals())
        if not hasattr(interval, "low"):
            raise InputError(f"interval is a {type(interval).__name__}: give what wilson_interval and its like return")
        ends = {"low": interval.low, "high": interval.high} if interval.has_width else {}
        span = {**ends, "level": interval.level, "method": interval.method}
        return cls(name, interval.value, family, condition, **span, **more)

    @property
    def title(self) -> str:
        """Family and name in one line."""
        return f"{self.family}: {self.name}" if self.family else self.name

    @property
    def is_scored(self) -> bool:
        """Whether there is a number; what is not applicable or was not run counts neither way."""
        return self.status == SCORED

    @property
    def side(self) -> int | None:
        """Where the interval lies: -1 below, 0 around, 1 above `chance` (by more than rounding); None if unknown.

        A change or difference that is nothing in each row has no interval, and is 0.
        """
        if self.chance is None:
            return None
        if self.low is None or self.high is None:
            nothing = self.reference != CHANCE and self.is_scored and abs(self.value - self.chance) <= _ROUNDING
            return 0 if nothing else None
        return (self.low > self.chance + _ROUNDING) - (self.high < self.chance - _ROUNDING)

    @property
    def verdict(self) -> str:
        """In words where the interval lies.

        Rule: the whole interval above `chance` is "above chance", the whole of it below is "below chance",
        and an interval that contains `chance` is "at chance" ("higher than before", "lower than before" and
        "no clear change" where the reference is no change; the like of a control where it is no difference).
        "At chance" is never a proof of absence. What is not scored has its status for a verdict, and what must not be
        taken at its word its `caution`.
        """
        if not self.is_scored:
            return self.status
        if self.caution:
            return self.caution
        side = self.side
        return "no verdict" if side is None else _WORDS[self.reference][side + 1]

    @property
    def reason(self) -> str:
        """The rule behind `verdict`, with the numbers; or why there are none."""
        if not self.is_scored:
            return self.why
        return f"{self.caution}: {self._interval_said()}" if self.caution else self._interval_said()

    def _interval_said(self) -> str:
        if self.side is None:
            return "without an interval and a chance level there is no verdict"
        if self.low is None:
            return f"in each row it is {self.reference}"
        low, high, chance = (format_value(v or 0.0, self.unit) for v in (self.low, self.high, self.chance))
        span = f"the {100 * self.level:g}% interval {low} to {high}"
        if self.side:
            return f"{span} lies {'above' if self.side > 0 else 'below'} {self.reference}, {chance}"
        return f"{span} contains {self.reference}, {chance}; values up to {high} are not excluded"

    def to_dict(self, *, pixels: bool = False) -> dict[str, Any]:
        """Plain data; what follows from the numbers is written too, for readers without efface."""
        derived = {"side": self.side, "verdict": self.verdict, "reason": self.reason}
        return {**super().to_dict(pixels=pixels), **derived}

    @classmethod
    def _derived(cls) -> set[str]:
        return {"side", "verdict", "reason"}

    @classmethod
    def _hints(cls) -> dict[str, Any]:
        return super()._hints() | {"value": float | None}


def spanned(finding: Finding) -> str:
    """The number with its interval.

    >>> spanned(Finding("accuracy", 0.5, low=0.4, high=0.6, unit="share"))
    '50.0% (40.0% to 60.0%)'
    """
    value = format_value(finding.value, finding.unit)
    if finding.low is None or finding.high is None:
        return value
    return f"{value} ({format_value(finding.low, finding.unit)} to {format_value(finding.high, finding.unit)})"


def by_measure(findings: Iterable[Finding]) -> list[dict[str, Finding]]:
    """Findings of one family and name together, by condition: a row of a before/after table each.

    >>> pair = [Finding("accuracy", 0.9, condition="before"), Finding("accuracy", 0.5, condition="after")]
    >>> [{c: f.value for c, f in row.items()} for row in by_measure(pair)]
    [{'before': 0.9, 'after': 0.5}]
    """
    rows: dict[tuple[str, str], dict[str, Finding]] = {}
    for finding in findings:
        rows.setdefault((finding.family, finding.name), {})[finding.condition] = finding
    return list(rows.values())
