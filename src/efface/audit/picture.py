"""A picture in an audit: its words are plain data, its pixels stay in memory until a page is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface.audit.plain import Plain
from efface.report.data import PictureData


@dataclass(frozen=True)
class Picture(Plain):
    """One picture of a row of pictures, with or without a map of importance over it.

    Attributes:
        title: What it shows, e.g. `"qfa"`.
        text: Short lines below it.
        pixels: `(h, w, 3)` of uint8; None where the picture came from a file of plain data.
        heat: Importance in [0, 1], `(h, w)`; None shows the picture itself.

    Pixels go into pages, and into no JSON: there, an audit with eight photographs would be megabytes of digits. They
    do not count when two pictures are compared.

    >>> picture = Picture("qfa", ("keeps 12%",), np.zeros((2, 2, 3), np.uint8), np.ones((2, 2)))
    >>> picture.to_dict()
    {'title': 'qfa', 'text': ['keeps 12%']}
    >>> Picture.from_dict(picture.to_dict()) == picture
    True
    """

    title: str
    text: tuple[str, ...] = ()
    pixels: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    heat: NDArray[np.floating] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        pixels, heat = self.pixels, self.heat
        if pixels is not None and (pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3):
            raise InputError(f"{self.title}: pixels are {pixels.dtype} {pixels.shape}, expected uint8 (h, w, 3)")
        if heat is None:
            return
        if pixels is None or heat.shape != pixels.shape[:2]:
            raise InputError(f"{self.title}: heat has shape {heat.shape}, expected that of the pixels, (h, w)")
        if not (np.isfinite(heat).all() and heat.min() >= 0 and heat.max() <= 1):
            raise InputError(f"{self.title}: heat has values outside [0, 1]: scale it first")

    def to_dict(self, *, pixels: bool = False) -> dict[str, Any]:
        """The words alone, unless asked for the pixels too."""
        words = {"title": self.title, "text": list(self.text)}
        return {**words, "pixels": self.pixels, "heat": self.heat} if pixels else words

    def png(self) -> bytes:
        """The picture as PNG, under its map if it has one.

        Raises:
            InputError: If it has no pixels, as one that was read from JSON.
            MissingExtraError: If matplotlib is not installed.
        """
        from efface.report.overlays import to_png

        return to_png(cast(PictureData, self.to_dict(pixels=True)))
