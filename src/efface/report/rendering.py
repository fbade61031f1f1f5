"""Audit -> plain dict: every number as the text that a page shows, in the order in which it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efface.audit.finding import AFTER, CHANCE, CHANGE, Audit, Figure, Finding, Series, Table, by_measure, format_value

DASH = "–"
"""What stands where there is no number."""
_POINTS_AT_MOST = 30
_ROWS_BEFORE_FIGURES = 10


def render(audit: Audit) -> dict[str, Any]:
    """What a page shows of an audit, as plain data.

    Keys: `title`, `text`, `conclusions`, `columns`, `rows` (headline numbers), `details` (the small print), `tables`,
    `figures` (with `alt`), `figures_first` (whether they go before the numbers, which are many), `caveats`,
    `settings`, `parts` (the same again for each part). A row has `what`, `cells` (one a column: `value`, `interval`),
    `chance`, `verdict`, `tone` (`"ok"`, `"warn"` or `""`), `reason`.

    >>> from efface.audit.finding import Finding
    >>> row = render(Audit("a", findings=(Finding("size", 0.25, family="edit", unit="share"),)))["rows"][0]
    >>> row["what"], row["cells"]
    ('edit: size', [{'value': '25.0%', 'interval': ''}])
    """
    columns = _columns(audit.findings)
    rows = _rows([f for f in audit.findings if not f.detail], columns)
    return {
        "title": audit.title,
        "text": list(audit.text),
        "conclusions": [{"text": c, "warn": c.startswith("NOT ")} for c in audit.conclusions],
        "columns": columns,
        "rows": rows,
        "figures_first": len(rows) > _ROWS_BEFORE_FIGURES,
        "details": _rows([f for f in audit.findings if f.detail], columns),
        "methods": [_made(f) for f in audit.findings],
        "tables": [_table(t) for t in audit.tables],
        "figures": [{"title": f.title, "caption": f.caption, "alt": alt_text(f)} for f in audit.figures],
        "caveats": list(audit.caveats),
        "settings": {k: _setting(v) for k, v in audit.settings.items()},
        "parts": [render(part) for part in audit.parts],
    }


def alt_text(figure: Figure) -> str:
    """The figure in words, for those who do not see it."""
    if figure.kind == "overlays":
        return " ".join([f"{figure.title}.", *(f"{p.title}: {', '.join(p.text) or DASH}." for p in figure.pictures)])
    if figure.kind == "histogram":
        names = " and ".join(s.label for s in figure.series)
        return f"{figure.title}. Histograms of {names}. {figure.caption}"
    if figure.kind == "lines":
        return f"{figure.title}. {' '.join(_course(s, figure.unit) for s in figure.series)}{_reference(figure)}"
    points = [p for s in figure.series for p in _points(s, figure.unit)]
    more = f"; and {len(points) - _POINTS_AT_MOST} more" if len(points) > _POINTS_AT_MOST else ""
    return f"{figure.title}: {'; '.join(points[:_POINTS_AT_MOST])}{more}.{_reference(figure)}"


def _reference(figure: Figure) -> str:
    if figure.chance is None:
        return ""
    return f" {figure.reference.capitalize()}: {format_value(figure.chance, figure.unit)}."


def _course(series: Series, unit: str) -> str:
    """A line in words: where it begins and ends, and its extremes."""
    points = list(zip(series.y, series.x, strict=True))
    if not points:
        return f"{series.label}: no points."
    named = {"from": points[0], "to": points[-1], "lowest": min(points, key=_first), "highest": max(points, key=_first)}
    return f"{series.label}: {', '.join(f'{how} {format_value(y, unit)} at {x}' for how, (y, x) in named.items())}."


def _first(point: tuple[float, Any]) -> float:
    return point[0]


def _points(series: Series, unit: str) -> list[str]:
    return [f"{x}, {series.label}: {format_value(y, unit)}" for x, y in zip(series.x, series.y, strict=True)]


def _columns(findings: Sequence[Finding]) -> list[str]:
    compared = [row for row in by_measure(findings) if len(row) > 1]
    return list(dict.fromkeys(c for row in compared for c in row)) or ["value"]


def _rows(findings: Sequence[Finding], columns: list[str]) -> list[dict[str, Any]]:
    return [_row(measure, columns) for measure in by_measure(findings)]


def _row(measure: dict[str, Finding], columns: list[str]) -> dict[str, Any]:
    last = list(measure.values())[-1]
    strange = set(measure) - set(columns)
    cells = {**measure, columns[-1]: last} if strange else measure
    named = strange and last.condition not in ("", AFTER, CHANGE)
    what = f"{last.title} ({last.condition})" if named else last.title
    return {
        "what": f"{what}, {last.unit}" if _is_long(last.unit) else what,
        "cells": [_cell(cells.get(c)) for c in columns],
        "chance": DASH if last.chance is None or last.reference != CHANCE else format_value(last.chance, last.unit),
        "verdict": "" if last.side is None else last.verdict,
        "tone": _tone(last),
        "reason": "" if last.side is None else last.reason,
    }


def _cell(finding: Finding | None) -> dict[str, str]:
    if finding is None:
        return {"value": DASH, "interval": ""}
    unit = "" if _is_long(finding.unit) else finding.unit
    return {"value": format_value(finding.value, unit), "interval": _interval(finding)}


def _is_long(unit: str) -> bool:
    """Whether a unit such as "bits per byte" is said once a row instead of in each cell."""
    return " " in unit


def _interval(finding: Finding) -> str:
    if finding.low is None or finding.high is None:
        return ""
    bare = finding.unit if finding.unit == "share" else ""
    return f"{format_value(finding.low, bare)} to {format_value(finding.high, bare)}"


def _tone(finding: Finding) -> str:
    if not finding.family.endswith("probe") or finding.condition != AFTER or finding.side is None:
        return ""
    return "warn" if finding.side > 0 else "ok"


def _made(finding: Finding) -> dict[str, Any]:
    condition = f" ({finding.condition})" if finding.condition else ""
    interval = f"{100 * finding.level:g}% interval: {finding.method}" if finding.low is not None else "no interval"
    return {
        "what": f"{finding.title}{condition}",
        "value": format_value(finding.value, finding.unit),
        "interval": _interval(finding) or DASH,
        "n": DASH if finding.n is None else f"{finding.n:,}",
        "seed": DASH if finding.seed is None else str(finding.seed),
        "made": f"{interval}; {finding.note}".strip(" ;"),
    }


def _table(table: Table) -> dict[str, Any]:
    rows = [[v if isinstance(v, str) else format_value(v) for v in row] for row in table.rows]
    return {"title": table.title, "header": list(table.header), "rows": rows, "caption": table.caption}


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
