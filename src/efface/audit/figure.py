"""Figures and tables of an audit, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from efface._errors import InputError
from efface.audit.finding import Finding
from efface.audit.picture import Picture
from efface.audit.plain import Plain
from efface.core.doors import check_call, check_fields
from efface.report.data import CHANCE, FigureData


@dataclass(frozen=True)
class Series(Plain):
    """Points of one colour: `y` at `x` (numbers or names), with intervals if there are any."""

    label: str
    x: tuple[Any, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        lengths = {len(each) for each in (self.x, self.y, self.low, self.high) if each is not None}
        if len(lengths) > 1:
            raise InputError(f"{self.label}: x, y, low and high have lengths {sorted(lengths)}: give as many of each")

    @classmethod
    def of(cls, label: str, findings: Sequence[Finding], names: Sequence[str] | None = None) -> Series:
        """Findings as points, each at its name or the one given; one without an interval has none of any width."""
        check_call(Series.of, locals())
        return cls(
            label,
            tuple(f.name for f in findings) if names is None else tuple(names),
            tuple(f.value for f in findings),
            tuple(f.value if f.low is None else f.low for f in findings),
            tuple(f.value if f.high is None else f.high for f in findings),
        )


@dataclass(frozen=True)
class Figure(Plain):
    """A figure as data.

    Attributes:
        title: What is to be seen.
        series: The points.
        kind: `"intervals"` (names against values with whiskers), `"histogram"` (shares of rows in bins), `"lines"`
            (values against names in their order, or against numbers, with bands), `"matrix"` (a row a series, a column
            for each name that `x` has in any of them, a colour for a value; pairs without one are left blank) or
            `"overlays"` (pictures side by side, without series).
        x_label: Label of the axis of values (intervals) or of positions (histogram, lines).
        y_label: Label of the other axis.
        chance: Where to draw the chance line on the axis of values.
        unit: As in `Finding`.
        caption: One or two plain sentences under the figure.
        reference: What to call the line at `chance`.
        from_zero: Whether the axis of values of `"lines"` begins at zero; of `"matrix"`, whether zero is nothing to see
            rather than a loss.
        groups: Of `"matrix"`: the columns in order, each with its group, between which there are lines.
        pictures: Those of `"overlays"`; their pixels do not go into JSON.
    """

    title: str
    series: tuple[Series, ...] = ()
    kind: Literal["intervals", "histogram", "lines", "matrix", "overlays"] = "intervals"
    x_label: str = ""
    y_label: str = ""
    chance: float | None = None
    unit: str = ""
    caption: str = ""
    reference: str = CHANCE
    from_zero: bool = False
    groups: Mapping[str, str] = field(default_factory=dict, hash=False)
    pictures: tuple[Picture, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def svg(self) -> str:
        """The figure as an SVG document; the same data give the same text.

        Raises:
            InputError: If the kind of figure is unknown, or it is a row of pictures.
            MissingExtraError: If matplotlib is not installed.
        """
        from efface.report.figures import to_svg

        return to_svg(self._shown())

    def plot(self) -> Any:
        """The figure as a `matplotlib.figure.Figure`.

        Raises:
            InputError: If the kind of figure is unknown.
            MissingExtraError: If matplotlib is not installed.
        """
        from efface.report.figures import to_plot

        return to_plot(self._shown())

    def _shown(self) -> FigureData:
        return cast(FigureData, self.to_dict(pixels=True))

    @classmethod
    def _kinds(cls) -> dict[str, type[Plain]]:
        return {"series": Series, "pictures": Picture}


@dataclass(frozen=True)
class Table(Plain):
    """A small table of text and numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
