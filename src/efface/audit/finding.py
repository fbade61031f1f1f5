"""What an audit says: findings (one number each, with all it takes to judge it) and audits that hold them.

Everything here is plain data that survives JSON; how it looks on a page is the business of `efface.report`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from efface._errors import FormatError, InputError
from efface.audit.picture import Picture
from efface.audit.plain import Plain, to_tuple

if TYPE_CHECKING:
    from efface.stats.intervals import Interval

VERSION = 1
"""Version of the plain-data form of an `Audit`."""

CHANCE, NO_CHANGE, NO_DIFFERENCE = "chance", "no change", "no difference"
BEFORE, AFTER, CHANGE = "before", "after", "change"
_ROUNDING = 1e-9
_SMALL = 5e-4
_WORDS = {
    CHANCE: ("below chance", "at chance", "above chance"),
    NO_CHANGE: ("lower than before", "no clear change", "higher than before"),
    NO_DIFFERENCE: ("lower than the control", "no clear difference", "higher than the control"),
}


@dataclass(frozen=True)
class Finding(Plain):
    """One measured number, and what it takes to judge it.

    Attributes:
        name: What was measured, e.g. `"accuracy"`.
        value: The number.
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

    >>> f = Finding("accuracy", 0.53, low=0.49, high=0.58, n=442, chance=0.53, unit="share")
    >>> f.verdict
    'at chance'
    >>> print(f.reason)
    the 95% interval 49.0% to 58.0% contains chance, 53.0%; values up to 58.0% are not excluded
    """

    name: str
    value: float
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

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "chance", "baseline"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise InputError(f"{self.title}: {name} is {number}, expected a finite number or None")
        if (self.low is None) != (self.high is None):
            raise InputError(f"{self.title}: give both low and high of the interval, or neither")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputError(f"{self.title}: the interval {self.low} to {self.high} is upside down")
        if not 0 < self.level < 1:
            raise InputError(f"{self.title}: level is {self.level}, expected a number between 0 and 1, e.g. 0.95")

    @classmethod
    def of(cls, name: str, interval: Interval, family: str = "", condition: str = "", **more: Any) -> Self:
        """A finding of an estimate with its interval; `more` as for `Finding`.

        >>> from efface.stats.intervals import wilson_interval
        >>> Finding.of("accuracy", wilson_interval(5, 10), unit="share").method
        'Wilson, 10 rows'
        """
        span = {"low": interval.low, "high": interval.high, "level": interval.level, "method": interval.method}
        return cls(name, interval.value, family, condition, **span, **more)

    @property
    def title(self) -> str:
        """Family and name in one line."""
        return f"{self.family}: {self.name}" if self.family else self.name

    @property
    def side(self) -> int | None:
        """Where the interval lies: -1 below, 0 around, 1 above `chance` (by more than rounding); None if unknown."""
        if self.low is None or self.high is None or self.chance is None:
            return None
        return (self.low > self.chance + _ROUNDING) - (self.high < self.chance - _ROUNDING)

    @property
    def verdict(self) -> str:
        """In words where the interval lies.

        Rule: the whole interval above `chance` is "above chance", the whole of it below is "below chance",
        and an interval that contains `chance` is "at chance" ("higher than before", "lower than before" and
        "no clear change" where the reference is no change; the like of a control where it is no difference).
        "At chance" is never a proof of absence.
        """
        side = self.side
        return "no verdict" if side is None else _WORDS[self.reference][side + 1]

    @property
    def reason(self) -> str:
        """The rule behind `verdict`, with the numbers."""
        if self.side is None:
            return "without an interval and a chance level there is no verdict"
        low, high, chance = (format_value(v or 0.0, self.unit) for v in (self.low, self.high, self.chance))
        span = f"the {100 * self.level:g}% interval {low} to {high}"
        if self.side:
            return f"{span} lies {'above' if self.side > 0 else 'below'} {self.reference}, {chance}"
        return f"{span} contains {self.reference}, {chance}; values up to {high} are not excluded"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the verdict is written too, for readers without efface."""
        return {**super().to_dict(), "verdict": self.verdict}

    @classmethod
    def _derived(cls) -> set[str]:
        return {"verdict"}


@dataclass(frozen=True)
class Series(Plain):
    """Points of one colour: `y` at `x` (numbers or names), with intervals if there are any."""

    label: str
    x: tuple[Any, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Figure(Plain):
    """A figure as data.

    Attributes:
        title: What is to be seen.
        series: The points.
        kind: `"intervals"` (names against values with whiskers), `"histogram"` (shares of rows in bins), `"lines"`
            (values against names in their order, or against numbers, with bands) or `"overlays"` (pictures side by
            side, without series).
        x_label: Label of the axis of values (intervals) or of positions (histogram, lines).
        y_label: Label of the other axis.
        chance: Where to draw the chance line on the axis of values.
        unit: As in `Finding`.
        caption: One or two plain sentences under the figure.
        reference: What to call the line at `chance`.
        from_zero: Whether the axis of values of `"lines"` begins at zero.
        pictures: Those of `"overlays"`; their pixels do not go into JSON.
    """

    title: str
    series: tuple[Series, ...] = ()
    kind: Literal["intervals", "histogram", "lines", "overlays"] = "intervals"
    x_label: str = ""
    y_label: str = ""
    chance: float | None = None
    unit: str = ""
    caption: str = ""
    reference: str = CHANCE
    from_zero: bool = False
    pictures: tuple[Picture, ...] = ()

    @classmethod
    def _revive(cls, key: str, value: Any) -> Any:
        kinds = {"series": Series, "pictures": Picture}
        return tuple(map(kinds[key].from_dict, value)) if key in kinds else to_tuple(value)


@dataclass(frozen=True)
class Table(Plain):
    """A small table of text and numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Audit(Plain):
    """Findings in context: what was asked, what was measured, what follows, what does not.

    Attributes:
        title: The question or the subject.
        text: Paragraphs: what was done, in plain words.
        conclusions: Sentences that follow from the findings.
        findings: The numbers.
        tables: Further tables.
        figures: Figures as data.
        caveats: What the numbers do not show.
        settings: How it was run: plain data.
        parts: Audits within this one, in order.

    >>> audit = Audit("Sex in the diabetes table", findings=(Finding("accuracy", 0.5),))
    >>> Audit.from_dict(audit.to_dict()) == audit
    True
    """

    title: str
    text: tuple[str, ...] = ()
    conclusions: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    caveats: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Audit, ...] = ()
    version: int = VERSION

    def walk(self) -> Iterator[Audit]:
        """This audit and all within it, in order of reading."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def find(self, family: str, name: str, condition: str = "") -> Finding:
        """The one finding of that family, name and condition, here or in a part.

        Raises:
            InputError: If there is none, or more than one; the text lists those there are.
        """
        wanted = (family, name, condition)
        found = [f for a in self.walk() for f in a.findings if (f.family, f.name, f.condition) == wanted]
        if len(found) != 1:
            there = ", ".join(f"{f.title} ({f.condition})" for a in self.walk() for f in a.findings)
            raise InputError(f"{len(found)} findings are {wanted}, expected one of: {there}")
        return found[0]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The audit that `to_dict` wrote.

        Raises:
            FormatError: If a newer efface wrote it, or it is no audit.
        """
        version = data.get("version")
        if not isinstance(version, int):
            raise FormatError("this is not an audit of efface: it has no integer version")
        if version > VERSION:
            raise FormatError(
                f"this audit has version {version}, this efface reads up to {VERSION}: "
                "upgrade with  pip install -U efface"
            )
        return super().from_dict(data)

    @classmethod
    def _revive(cls, key: str, value: Any) -> Any:
        kinds = {"findings": Finding, "tables": Table, "figures": Figure, "parts": Audit}
        if key == "settings":
            return dict(value)
        return tuple(map(kinds[key].from_dict, value)) if key in kinds else to_tuple(value)


def format_value(value: float, unit: str = "") -> str:
    """A number as it is shown: shares in per cent, anything else with three decimals and its unit.

    Of standard deviations the small ones are what matters, so that they are not rounded to nothing.

    >>> format_value(0.5316, "share"), format_value(0.5316, "bits"), format_value(-1e-9), format_value(1.6e-7, "sd")
    ('53.2%', '0.532 bits', '0.000', '1.6e-07 sd')
    """
    if unit == "sd" and 0 < abs(value) < _SMALL:
        return f"{value:.1e} {unit}"
    scaled, digits = (100 * value, 1) if unit == "share" else (value, 3)
    # Adding zero turns -0.0 into 0.0.
    text = f"{round(scaled, digits) + 0.0:.{digits}f}"
    return f"{text}%" if unit == "share" else f"{text} {unit}".strip()


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
