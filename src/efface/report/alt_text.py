"""Figures in words, for those who do not see them."""

from __future__ import annotations

from typing import Any

from efface.report.data import FigureData, SeriesData
from efface.report.numbers import DASH, format_value

_POINTS_AT_MOST, _LEAST = 30, 8


def alt_text(figure: FigureData) -> str:
    """The figure in words."""
    title, series, unit = figure["title"], figure["series"], figure["unit"]
    if figure["kind"] == "overlays":
        shown = (f"{p['title']}: {', '.join(p['text']) or DASH}." for p in figure["pictures"])
        return " ".join([f"{title}.", *shown])
    if figure["kind"] == "histogram":
        return f"{title}. Histograms of {' and '.join(s['label'] for s in series)}. {figure['caption']}"
    if figure["kind"] == "matrix":
        return f"{title}. {_matrix(series, unit)} {figure['caption']}"
    if figure["kind"] == "lines":
        return f"{title}. {' '.join(_course(s, unit) for s in series)}{_reference(figure)}"
    points = [p for s in series for p in _points(s, unit)]
    more = f"; and {len(points) - _POINTS_AT_MOST} more" if len(points) > _POINTS_AT_MOST else ""
    return f"{title}: {'; '.join(points[:_POINTS_AT_MOST])}{more}.{_reference(figure)}"


def _reference(figure: FigureData) -> str:
    if figure["chance"] is None:
        return ""
    return f" {figure['reference'].capitalize()}: {format_value(figure['chance'], figure['unit'])}."


def _course(series: SeriesData, unit: str) -> str:
    """A line in words: where it begins and ends, and its extremes."""
    label, points = series["label"], list(zip(series["y"], series["x"], strict=True))
    if not points:
        return f"{label}: no points."
    named = {"from": points[0], "to": points[-1], "lowest": min(points, key=_first), "highest": max(points, key=_first)}
    return f"{label}: {', '.join(f'{how} {format_value(y, unit)} at {x}' for how, (y, x) in named.items())}."


def _matrix(series: list[SeriesData], unit: str) -> str:
    """A matrix in words: its size, and its lowest pairs."""
    cells = sorted((y, f"{s['label']} and {x}") for s in series for x, y in zip(s["x"], s["y"], strict=True))
    columns = {str(x) for s in series for x in s["x"]}
    least = "; ".join(f"{pair}: {format_value(y, unit)}" for y, pair in cells[:_LEAST])
    return f"{len(series)} rows by {len(columns)} columns, {len(cells)} values. The lowest: {least or 'none'}."


def _first(point: tuple[float, Any]) -> float:
    return point[0]


def _points(series: SeriesData, unit: str) -> list[str]:
    label = series["label"]
    return [f"{x}, {label}: {format_value(y, unit)}" for x, y in zip(series["x"], series["y"], strict=True)]
