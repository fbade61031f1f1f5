"""Lines with bands: values against sites in their order, or against numbers such as tokens."""

from __future__ import annotations

from numbers import Real
from typing import Any

from efface.report.data import FigureData, SeriesData
from efface.report.style import GRID, ROOM, legend, line_of_reference, mark, percent
from efface.report.ticks import Ticks, site_ticks

_MARKED_AT_MOST = 30
_BAND = 0.16
_NAME_SIZE = 8.5
_HEIGHT, _UPRIGHT_LETTER = 3.2, 0.055


def height(figure: FigureData) -> float:
    """Inches that it needs: more where names stand upright below it."""
    names = _names(figure)
    ticks = None if names is None else site_ticks(names)
    return _HEIGHT + (_UPRIGHT_LETTER * max(map(len, ticks.labels)) if ticks and ticks.upright else 0.0)


def draw_lines(axes: Any, figure: FigureData) -> None:
    """A line a series; names stand at 0, 1, 2, ... in the order in which they first come."""
    names = _names(figure)
    place = {name: i for i, name in enumerate(names or ())}
    for i, series in enumerate(figure["series"]):
        _line(axes, series, [place.get(str(x), x) for x in series["x"]], *mark(i, series["label"]))
    if figure["chance"] is not None:
        axes.axhline(figure["chance"], label=figure["reference"], **line_of_reference())
    ticks = None if names is None else site_ticks(names)
    if ticks is not None:
        _name_positions(axes, ticks)
    axes.set_xlabel(figure["x_label"] + (" (numbers: blocks)" if ticks and ticks.blocks else ""))
    axes.set_ylabel(figure["y_label"])
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    _limits(axes, figure)
    legend(axes)


def _names(figure: FigureData) -> list[str] | None:
    """All names in order, or None where positions are numbers."""
    positions = [x for series in figure["series"] for x in series["x"]]
    if all(isinstance(x, Real) for x in positions):
        return None
    return list(dict.fromkeys(map(str, positions)))


def _line(axes: Any, series: SeriesData, x: list[Any], colour: str, marker: str) -> None:
    shown = marker if len(x) <= _MARKED_AT_MOST else ""
    axes.plot(
        x, series["y"], color=colour, marker=shown, markersize=4.5, linewidth=1.5, label=series["label"], zorder=3
    )
    if series["low"] is None or series["high"] is None:
        return
    if len(x) == 1:
        axes.vlines(x, series["low"], series["high"], color=colour, linewidth=1.5, zorder=2)
    else:
        axes.fill_between(x, series["low"], series["high"], color=colour, alpha=_BAND, linewidth=0, zorder=2)


def _name_positions(axes: Any, ticks: Ticks) -> None:
    axes.set_xticks(ticks.positions, ticks.labels, fontsize=_NAME_SIZE, rotation=90 if ticks.upright else 0)
    axes.set_xticks(range(ticks.count), minor=True)
    axes.tick_params(axis="x", which="minor", length=2)
    axes.set_xlim(-0.5, ticks.count - 0.5)


def _limits(axes: Any, figure: FigureData) -> None:
    if figure["unit"] == "share":
        lowest = min((y for s in figure["series"] for y in (*s["y"], *(s["low"] or ()))), default=0.0)
        axes.set_ylim(min(0.0, lowest) - ROOM, 1.0 + ROOM)
        axes.yaxis.set_major_formatter(percent())
    elif figure["from_zero"]:
        axes.set_ylim(bottom=0)
