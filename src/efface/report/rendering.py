"""Audit -> plain dict: every number as the text that a page shows, in the order in which it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from efface._text import visible
from efface.report.alt_text import alt_text
from efface.report.data import (
    AFTER,
    CHANCE,
    CHANGE,
    GUESS,
    SCORED,
    TOO_FEW,
    TOO_WEAK,
    AuditData,
    FindingData,
    TableData,
    check_audit,
    is_warning,
    warnings_of,
)
from efface.report.matrix import is_wide
from efface.report.numbers import DASH, format_value

_ROWS_BEFORE_FIGURES = 10
_HASH_SHOWN = 12


def render(audit: AuditData, above: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a page shows of an audit, as plain data.

    Keys: `title`, `warnings` (of it and all its parts; only the whole has them), `text`, `conclusions`, `columns`,
    `rows` (headline numbers), `details` (the small print), `tables`, `figures` (with `alt`), `figures_first` (whether
    they go before the numbers, which are many), `caveats`, `settings`, `provenance`, `parts` (the same again for each
    part). A row has `what`, `cells` (one a column: `value`, `interval`), `chance`, `verdict`, `tone` (`"ok"`, `"warn"`
    or `""`), `reason`.

    Args:
        audit: The audit.
        above: Provenance of the audit that this one is a part of: what it says already is not said again.
    """
    check_audit(audit)
    return _all_visible(_rendered(audit, above))


def _all_visible(value: Any) -> Any:
    """Names come from data, and a page, a terminal or a letter would obey what steers it."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {key: _all_visible(each) for key, each in value.items()}
    return [_all_visible(each) for each in value] if isinstance(value, list | tuple) else value


def _rendered(audit: AuditData, above: Mapping[str, Any] | None) -> dict[str, Any]:
    columns = _columns(audit["findings"])
    rows = _rows([f for f in audit["findings"] if not f["detail"]], columns)
    provenance = audit["provenance"]
    return {
        "title": audit["title"],
        "text": list(audit["text"]),
        "warnings": warnings_of(audit) if above is None else [],
        "conclusions": [
            {"text": c, "warn": is_warning(c)} for c in audit["conclusions"] if above is not None or not is_warning(c)
        ],
        "columns": columns,
        "rows": rows,
        "figures_first": len(rows) > _ROWS_BEFORE_FIGURES,
        "details": _rows([f for f in audit["findings"] if f["detail"]], columns),
        "methods": [_made(f) for f in audit["findings"]],
        "tables": [_table(t) for t in audit["tables"]],
        "figures": [
            {"title": f["title"], "caption": f["caption"], "alt": alt_text(f), "wide": is_wide(f)}
            for f in audit["figures"]
        ],
        "caveats": list(audit["caveats"]),
        "settings": {k: _setting(v) for k, v in audit["settings"].items()},
        "provenance": dict(_origins(provenance, above or {})),
        "parts": [render(part, {**(above or {}), **provenance}) for part in audit["parts"]],
    }


def _columns(findings: Sequence[FindingData]) -> list[str]:
    compared = [row for row in _by_measure(findings) if len(row) > 1]
    return list(dict.fromkeys(c for row in compared for c in row)) or ["value"]


def _by_measure(findings: Iterable[FindingData]) -> list[dict[str, FindingData]]:
    """Findings of one family and name together, by condition."""
    rows: dict[tuple[str, str], dict[str, FindingData]] = {}
    for finding in findings:
        rows.setdefault((finding["family"], finding["name"]), {})[finding["condition"]] = finding
    return list(rows.values())


def _rows(findings: Sequence[FindingData], columns: list[str]) -> list[dict[str, Any]]:
    return [_row(measure, columns) for measure in _by_measure(findings)]


def _row(measure: dict[str, FindingData], columns: list[str]) -> dict[str, Any]:
    last = list(measure.values())[-1]
    condition, unit, chance = last["condition"], last["unit"], last["chance"]
    strange = set(measure) - set(columns)
    cells = {**measure, columns[-1]: last} if strange else measure
    named = strange and condition not in ("", AFTER, CHANGE)
    what = f"{_title(last)} ({condition})" if named else _title(last)
    judged = last["side"] is not None or last["status"] != SCORED or bool(last["caution"])
    return {
        "what": f"{what}, {unit}" if _is_long(unit) else what,
        "cells": [_cell(cells.get(c)) for c in columns],
        "chance": DASH if chance is None or last["reference"] != CHANCE else format_value(chance, unit),
        "verdict": last["verdict"] if judged else "",
        "tone": _tone(last),
        "reason": last["reason"] if judged else "",
    }


def _title(finding: FindingData) -> str:
    return f"{finding['family']}: {finding['name']}" if finding["family"] else finding["name"]


def _cell(finding: FindingData | None) -> dict[str, str]:
    if finding is None:
        return {"value": DASH, "interval": ""}
    unit = "" if _is_long(finding["unit"]) else finding["unit"]
    return {"value": _value(finding, unit), "interval": _interval(finding)}


def _value(finding: FindingData, unit: str) -> str:
    """The number, or in its place that there is none."""
    value = finding["value"]
    return finding["status"] if value is None else format_value(value, unit)


def _is_long(unit: str) -> bool:
    """Whether a unit such as "bits per byte" is said once a row instead of in each cell."""
    return " " in unit


def _interval(finding: FindingData) -> str:
    if finding["low"] is None or finding["high"] is None:
        return ""
    bare = finding["unit"] if finding["unit"] == "share" else ""
    return f"{format_value(finding['low'], bare)} to {format_value(finding['high'], bare)}"


def _tone(finding: FindingData) -> str:
    """At chance is a success of an erasure only where nothing speaks against it; below chance is none."""
    if not finding["family"].endswith("probe") or finding["condition"] != AFTER or finding["side"] is None:
        return ""
    if finding["caution"] in (TOO_WEAK, TOO_FEW, GUESS):
        return ""
    return "warn" if finding["side"] or finding["caution"] else "ok"


def _made(finding: FindingData) -> dict[str, Any]:
    n, seed, condition = finding["n"], finding["seed"], finding["condition"]
    return {
        "what": f"{_title(finding)} ({condition})" if condition else _title(finding),
        "value": _value(finding, finding["unit"]),
        "interval": _interval(finding) or DASH,
        "n": DASH if n is None else f"{n:,}",
        "seed": DASH if seed is None else str(seed),
        "made": "; ".join(filter(None, _making(finding))),
    }


def _making(finding: FindingData) -> Iterator[str]:
    """How a number was made, or why there is none; then what is known of the probe."""
    if finding["status"] != SCORED:
        yield f"{finding['status']}: {finding['why']}"
    elif finding["low"] is None:
        yield "no interval"
    else:
        yield f"{100 * finding['level']:g}% interval: {finding['method']}"
    yield finding["note"]
    budget = ", ".join(f"{amount} {what}" for what, amount in finding["budget"].items())
    floor = "" if finding["floor"] is None else format_value(finding["floor"], finding["unit"])
    said = {"probe": finding["probe"], "access": finding["access"], "budget": budget, "judge": finding["judge"]}
    said |= {"floor": floor, "evidence": ", ".join(map(_short, finding["evidence"]))}
    yield from (f"{what}: {text}" for what, text in said.items() if text)


def _table(table: TableData) -> dict[str, Any]:
    rows = [[_in_cell(v) for v in row] for row in table["rows"]]
    return {"title": table["title"], "header": list(table["header"]), "rows": rows, "caption": table["caption"]}


def _in_cell(value: Any) -> str:
    if value is None:
        return DASH
    return format_value(value) if isinstance(value, int | float) else str(value)


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _origins(provenance: Mapping[str, Any], above: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What an audit is of and made with, in a line each; the date and versions of a part are those of the whole."""
    for key, value in provenance.items():
        known = key in above and (key == "date" or above[key] == value)
        if value and not known:
            yield key, _origin(value)


def _origin(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_origin, value))
    if not isinstance(value, Mapping):
        return str(value)
    if "sha256" not in value:
        return ", ".join(f"{name} {version}" for name, version in value.items())
    name, digest = value.get("name"), value["sha256"]
    return f"{name or 'unnamed'} (sha256 {_short(digest)})" if digest else str(name)


def _short(digest: str) -> str:
    return f"{digest[:_HASH_SHOWN]}…" if len(digest) > _HASH_SHOWN else digest
