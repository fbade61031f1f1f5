"""Matrices as colours: rows by columns, with a place for each pair, and lines where groups of columns end."""

from __future__ import annotations

from typing import Any

from efface._lazy import require
from efface.report.data import FigureData
from efface.report.style import FAINT, INK, percent

_ROW, _COLUMN, _LETTER, _BAR, _LEAST = 0.19, 0.13, 0.075, 1.0, 5.2
_SMALL, _WRITTEN = 7.5, 16
_LOST_AND_KEPT, _MORE = ("#9e2a2b", "#f2e8cf", "#33658a"), ("#ffffff", "#33658a")
_NONE = "#e9ecef"


def columns_of(figure: FigureData) -> list[str]:
    """Names of columns: as groups have them, then in the order in which they first come."""
    return list(dict.fromkeys([*figure["groups"], *(str(x) for series in figure["series"] for x in series["x"])]))


def size(figure: FigureData) -> tuple[float, float]:
    """Inches that it needs."""
    rows, columns = [s["label"] for s in figure["series"]], columns_of(figure)
    beside, below = (_LETTER * max(map(len, names), default=1) for names in (rows, columns))
    wide = _cell(columns) * len(columns)
    return max(_LEAST, wide + beside + _BAR), max(2.0, _cell(rows) * len(rows) + below + 0.7)


def is_wide(figure: FigureData) -> bool:
    """Whether it needs the whole width of a page: a matrix of many columns."""
    return figure["kind"] == "matrix" and len(columns_of(figure)) > _WRITTEN


def _cell(names: list[str]) -> float:
    """Inches of one row or column: room for a number where there are few."""
    return 1.6 * _ROW if len(names) <= _WRITTEN else _ROW if len(names) <= 2 * _WRITTEN else _COLUMN


def draw_matrix(axes: Any, figure: FigureData) -> None:
    """A cell a pair; where there is no number it is grey, and where there is room the number is written."""
    columns, rows = columns_of(figure), [series["label"] for series in figure["series"]]
    place = {name: i for i, name in enumerate(columns)}
    values = [[float("nan")] * len(columns) for _ in rows]
    for i, series in enumerate(figure["series"]):
        for x, y in zip(series["x"], series["y"], strict=True):
            values[i][place[str(x)]] = y
    palette = _MORE if figure["from_zero"] else _LOST_AND_KEPT
    colours = (
        require("matplotlib.colors", extra="report")
        .LinearSegmentedColormap.from_list("cells", palette)
        .with_extremes(bad=_NONE)
    )
    highest = 1.0 if figure["unit"] == "share" else max((y for s in figure["series"] for y in s["y"]), default=1.0)
    drawn = axes.imshow(values, cmap=colours, vmin=0.0, vmax=highest or 1.0, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=_SMALL)
    axes.set_yticks(range(len(rows)), rows, fontsize=_SMALL)
    axes.tick_params(length=0)
    axes.set_xlabel(figure["x_label"])
    axes.set_ylabel(figure["y_label"])
    _groups(axes, figure, columns)
    if len(columns) <= _WRITTEN:
        _written(axes, values, figure, highest or 1.0)
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02, aspect=18)
    bar.ax.tick_params(labelsize=_SMALL)
    bar.outline.set_visible(False)
    if figure["unit"] == "share":
        bar.ax.yaxis.set_major_formatter(percent())


def _groups(axes: Any, figure: FigureData, columns: list[str]) -> None:
    """A line where one group of columns ends, and its name above, shortened to its place."""
    groups, start = [figure["groups"].get(name, "") for name in columns], 0
    if not any(groups):
        return
    for i in range(1, len(columns) + 1):
        if i < len(columns) and groups[i] == groups[start]:
            continue
        if i < len(columns):
            axes.axvline(i - 0.5, color=INK, linewidth=0.8)
        room = max(1, round((i - start) * _cell(columns) / _LETTER))
        text = groups[start] if len(groups[start]) <= room else f"{groups[start][: max(1, room - 1)]}…"
        axes.text((start + i - 1) / 2, -0.7, text, ha="center", va="bottom", fontsize=_SMALL, color=FAINT)
        start = i


def _written(axes: Any, values: list[list[float]], figure: FigureData, highest: float) -> None:
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value == value:  # noqa: PLR0124 - NaN is not itself
                text = f"{100 * value:.0f}" if figure["unit"] == "share" else f"{value:g}"
                part = value / highest
                dark = part > 0.55 if figure["from_zero"] else abs(part - 0.5) > 0.33
                axes.text(j, i, text, ha="center", va="center", fontsize=_SMALL, color="#ffffff" if dark else INK)
