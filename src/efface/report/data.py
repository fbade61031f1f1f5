"""What a report is drawn from: an audit as plain data, which is what `Audit.to_dict` gives and its JSON holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError

CHANCE, NO_CHANGE, NO_DIFFERENCE = "chance", "no change", "no difference"
"""What a value is held against."""
BEFORE, AFTER, CHANGE = "before", "after", "change"
"""Conditions that have a look of their own."""
TOO_WEAK, TOO_FEW = "too weak to judge", "too few rows to judge"
"""What a probe that reads nothing after erasure is, where that says nothing about the erasure."""
GUESS = "no better than a guess"
"""What a score is that lies off chance for want of anything to read."""
_NOT, NOT_ERASED, WARNING = "NOT ", "NOT erased: ", "WARNING: "
"""How a sentence begins that has to be seen first, wherever it stands."""
SCORED, NOT_APPLICABLE, NOT_RUN = "scored", "not applicable", "not run"
"""Statuses of a finding; only what is scored has a number."""


def is_warning(sentence: str) -> bool:
    """Whether a sentence of an audit has to be seen first.

    >>> is_warning("NOT erased: the linear probe still finds sex."), is_warning("Nothing is left.")
    (True, False)
    """
    return sentence.startswith((_NOT, WARNING))


class SeriesData(TypedDict):
    """Points of one colour: `y` at `x`, with intervals if there are any."""

    label: str
    x: list[Any]
    y: list[float]
    low: list[float] | None
    high: list[float] | None


class PictureData(TypedDict):
    """A picture; one that was read from JSON has no pixels `(h, w, 3)` and no map of importance `(h, w)`."""

    title: str
    text: list[str]
    pixels: NotRequired[NDArray[np.uint8] | None]
    heat: NotRequired[NDArray[np.floating] | None]


class FigureData(TypedDict):
    """A figure; the attributes of `efface.audit.Figure`."""

    title: str
    series: list[SeriesData]
    kind: str
    x_label: str
    y_label: str
    chance: float | None
    unit: str
    caption: str
    reference: str
    from_zero: bool
    groups: dict[str, str]
    pictures: list[PictureData]


class TableData(TypedDict):
    """A small table of text and numbers."""

    title: str
    header: list[str]
    rows: list[list[Any]]
    caption: str


class FindingData(TypedDict):
    """One number; the attributes of `efface.audit.Finding`, and what follows from them."""

    name: str
    value: float | None
    family: str
    condition: str
    low: float | None
    high: float | None
    level: float
    method: str
    n: int | None
    seed: int | None
    chance: float | None
    reference: str
    baseline: float | None
    unit: str
    note: str
    detail: bool
    probe: str
    access: str | None
    budget: dict[str, Any]
    judge: str
    floor: float | None
    evidence: list[str]
    status: str
    why: str
    caution: str
    side: Literal[-1, 0, 1] | None
    verdict: str
    reason: str


class AuditData(TypedDict):
    """An audit; the attributes of `efface.audit.Audit`, and its warnings, those of its parts among them."""

    title: str
    warnings: NotRequired[list[str]]
    text: list[str]
    conclusions: list[str]
    findings: list[FindingData]
    tables: list[TableData]
    figures: list[FigureData]
    caveats: list[str]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    parts: list[AuditData]
    version: int


def warnings_of(audit: AuditData) -> list[str]:
    """Every sentence of an audit and its parts that has to be seen first, in order of reading.

    One of a part has the part's title behind it; what the whole says in the same words is said once.
    """
    own = list(filter(is_warning, audit["conclusions"]))
    inner = [
        line if part["title"] in line else f"{line} ({part['title']})"
        for part in audit["parts"]
        for line in warnings_of(part)
        if line not in own
    ]
    return list(dict.fromkeys([*own, *inner]))


def check_audit(audit: Any) -> None:
    """Refuse what is no audit as plain data.

    Raises:
        InputError: If it lacks a key.
    """
    lacks = [key for key in AuditData.__annotations__ if not isinstance(audit, Mapping) or key not in audit]
    if lacks:
        raise InputError(
            f"this {type(audit).__name__} is no audit as plain data, it lacks {', '.join(lacks)}: give audit.to_dict()"
        )
