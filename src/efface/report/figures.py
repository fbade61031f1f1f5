"""Figures of an audit as SVG, drawn by matplotlib without a display."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

from efface._errors import InputError
from efface._lazy import require
from efface.report.data import CHANCE, FigureData, SeriesData
from efface.report.lines import draw_lines, height
from efface.report.matrix import draw_matrix
from efface.report.matrix import size as matrix_size
from efface.report.overlays import blended
from efface.report.style import CLASS_COLOURS, GRID, RC, ROOM, legend, line_of_reference, mark, percent

_WIDTH, _ROW, _FRAME = 5.2, 0.36, 1.0
_HISTOGRAM_HEIGHT = 2.7
_PICTURE = 2.2


def to_svg(figure: FigureData) -> str:
    """The figure as an SVG document; the same data give the same text.

    Raises:
        InputError: If the kind of figure is unknown, or not drawn but made of pictures (see `efface.report.overlays`).
        MissingExtraError: If matplotlib is not installed.
    """
    kind, title = figure["kind"], figure["title"]
    if kind == "overlays":
        raise InputError(f"{title!r} is a row of pictures, not a drawing: call efface.report.overlays.panels")
    if kind not in _DRAW:
        raise InputError(f"unknown kind of figure {kind!r}: choose one of {', '.join(_DRAW)}")
    with _style(), io.StringIO() as out:
        _drawing(figure).savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        return out.getvalue()


def to_plot(figure: FigureData) -> Any:
    """The figure as a `matplotlib.figure.Figure`, to be shown, changed or saved.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    with _style():
        return _row_of_pictures(figure) if figure["kind"] == "overlays" else _drawing(figure)


def _style() -> Any:
    return require("matplotlib", extra="report").rc_context(RC)


def _empty(size: tuple[float, float]) -> Any:
    canvas = require("matplotlib.backends.backend_svg", extra="report").FigureCanvasSVG
    drawing = require("matplotlib.figure", extra="report").Figure(figsize=size, layout="constrained")
    canvas(drawing)
    return drawing


def _drawing(figure: FigureData) -> Any:
    drawing = _empty(_size(figure))
    _DRAW[figure["kind"]](drawing.subplots(), figure)
    return drawing


def _row_of_pictures(figure: FigureData) -> Any:
    pictures = figure["pictures"]
    drawing = _empty((_PICTURE * max(1, len(pictures)), _PICTURE + _FRAME))
    for axes, picture in zip(drawing.subplots(1, max(1, len(pictures)), squeeze=False)[0], pictures, strict=False):
        axes.set_title(picture["title"], fontsize=9)
        axes.set_axis_off()
        if picture.get("pixels") is not None:
            axes.imshow(blended(picture))
    drawing.suptitle(figure["title"])
    return drawing


def to_data_uri(figure: FigureData) -> str:
    """The figure as a `data:` address for an `<img>`."""
    code = base64.b64encode(to_svg(figure).encode()).decode("ascii")
    return f"data:image/svg+xml;base64,{code}"


def _size(figure: FigureData) -> tuple[float, float]:
    if figure["kind"] == "histogram":
        return _WIDTH, _HISTOGRAM_HEIGHT
    if figure["kind"] == "matrix":
        return matrix_size(figure)
    if figure["kind"] == "lines":
        return _WIDTH, height(figure)
    rows = len(_names(figure))
    # Several colours share a row and need more room in it.
    return _WIDTH, _FRAME + _ROW * rows * (1.6 if len(figure["series"]) > 1 else 0.75)


def _names(figure: FigureData) -> list[str]:
    return list(dict.fromkeys(str(x) for series in figure["series"] for x in series["x"]))


def _draw_intervals(axes: Any, figure: FigureData) -> None:
    names = _names(figure)
    compared = [series for series in figure["series"] if series["label"] != CHANCE]
    for i, series in enumerate(compared):
        shift = 0.28 * (i - (len(compared) - 1) / 2)
        positions = [names.index(str(x)) + shift for x in series["x"]]
        axes.errorbar(series["y"], positions, xerr=_whiskers(series), label=series["label"], **_dot(i, series["label"]))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(figure["x_label"])
    axes.set_ylabel(figure["y_label"])
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    _limit_shares(axes, figure)
    _chance(axes, figure, names)
    legend(axes)


def _dot(index: int, label: str) -> dict[str, Any]:
    colour, marker = mark(index, label)
    return {"fmt": marker, "color": colour, "capsize": 3, "markersize": 6, "linewidth": 1.6}


def _whiskers(series: SeriesData) -> list[list[float]] | None:
    if series["low"] is None or series["high"] is None:
        return None
    below = [max(0.0, y - low) for y, low in zip(series["y"], series["low"], strict=True)]
    above = [max(0.0, high - y) for y, high in zip(series["y"], series["high"], strict=True)]
    return [below, above]


def _limit_shares(axes: Any, figure: FigureData) -> None:
    if figure["unit"] != "share":
        return
    lowest = min(min(s["low"] or s["y"]) for s in figure["series"])
    axes.set_xlim(min(0.0, lowest) - ROOM, 1.0 + ROOM)
    axes.xaxis.set_major_formatter(percent())


def _chance(axes: Any, figure: FigureData, names: list[str]) -> None:
    """One line if chance is the same everywhere, else a piece of line in each row."""
    style = line_of_reference()
    if figure["chance"] is not None:
        axes.axvline(figure["chance"], label=figure["reference"], **style)
    for series in figure["series"]:
        if series["label"] == CHANCE:
            rows = [names.index(str(x)) for x in series["x"]]
            axes.vlines(series["y"], [r - 0.4 for r in rows], [r + 0.4 for r in rows], label=CHANCE, **style)


def _draw_histogram(axes: Any, figure: FigureData) -> None:
    for i, series in enumerate(figure["series"]):
        colour = CLASS_COLOURS[i % len(CLASS_COLOURS)]
        axes.fill_between(series["x"], series["y"], step="mid", color=colour, alpha=0.25)
        axes.step(series["x"], series["y"], where="mid", color=colour, linewidth=1.6, label=series["label"])
    axes.set_xlabel(figure["x_label"])
    axes.set_ylabel(figure["y_label"])
    axes.set_ylim(bottom=0)
    if figure["unit"] == "share":
        axes.yaxis.set_major_formatter(percent())
    legend(axes)


_DRAW: dict[str, Callable[[Any, FigureData], None]] = {
    "intervals": _draw_intervals,
    "histogram": _draw_histogram,
    "lines": draw_lines,
    "matrix": draw_matrix,
}
