"""What figures have in common: colours, markers, the line of reference, the legend."""

from __future__ import annotations

from typing import Any

from efface._lazy import require
from efface.report.data import AFTER, BEFORE

INK, FAINT, GRID = "#222222", "#8a8a8a", "#e6e6e6"
CLASS_COLOURS = ("#2a9d8f", "#8f5fa8")
ROOM = 0.04
_COLOURS = ("#33658a", "#d1495b", "#7a7a2e", "#555555", "#2a9d8f", "#8f5fa8")
_MARKERS = ("o", "D", "s", "^", "v", "P")
RC = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Letters as outlines: an SVG inside an <img> has no fonts of the page.
    "svg.fonttype": "path",
    # Fixed, so that the same audit gives the same bytes.
    "svg.hashsalt": "efface",
}
"""Settings of matplotlib while a figure is drawn."""


def mark(index: int, label: str) -> tuple[str, str]:
    """Colour and marker of a series; before and after keep theirs wherever they are shown."""
    place = {BEFORE: 0, AFTER: 1}.get(label, index)
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


def line_of_reference() -> dict[str, Any]:
    """How chance, or no change, is drawn."""
    return {"color": INK, "linestyle": "--", "linewidth": 1.1, "zorder": 1}


def percent() -> Any:
    """Formatter of an axis of shares."""
    return require("matplotlib.ticker", extra="report").PercentFormatter(1.0, decimals=0)


def legend(axes: Any) -> None:
    """Above the axes, where there are no data; one name alone says no more than the axis does."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:  # of the figure: long names at the side leave axes that are narrower than it
        axes.figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
