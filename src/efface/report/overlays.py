"""Pictures with maps of importance over them, as PNG: what counts is lit, what does not is a dark grey picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._lazy import require
from efface.report.data import FigureData, PictureData

COLOURS = "viridis"
"""Lighter is more important, to every eye and in print."""

_DARK, _COVER = 0.42, 0.85
_LUMA = np.array([0.299, 0.587, 0.114])
_SIDE = 256
_LEGEND = (14, 160)


def panels(figure: FigureData) -> list[dict[str, Any]]:
    """What a page shows of a figure of kind `"overlays"`: `title`, `text` and `image`, a `data:` address or None.

    Raises:
        InputError: If the figure is of another kind.
        MissingExtraError: If matplotlib is not installed.
    """
    if figure["kind"] != "overlays":
        title, kind = figure["title"], figure["kind"]
        raise InputError(f"{title!r} is a figure of kind {kind!r}: only overlays have pictures")
    return [{"title": p["title"], "text": list(p["text"]), "image": _address(p)} for p in figure["pictures"]]


def sets(shown: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Panels that a page must not part: where their titles come again and again, one of each; else each alone.

    >>> [len(each) for each in sets([{"title": title} for title in ("base", "erased", "base", "erased")])]
    [2, 2]
    """
    titles = [panel["title"] for panel in shown]
    size = titles.index(titles[0], 1) if titles.count(titles[0] if titles else None) > 1 else 1
    if titles != (titles[:size] * len(titles))[: len(titles)] or len(titles) % size:
        size = 1
    return [list(shown[i : i + size]) for i in range(0, len(shown), size)]


def to_png(picture: PictureData) -> bytes:
    """One picture as PNG; small ones are enlarged by a whole factor, pixel by pixel.

    Raises:
        InputError: If the picture has no pixels, as one that was read from JSON.
        MissingExtraError: If matplotlib is not installed.
    """
    return _encode(_enlarged(blended(picture)))


def blended(picture: PictureData) -> NDArray[np.uint8]:
    """The pixels of a picture, under its map of importance if it has one.

    Raises:
        InputError: If it has no pixels, as one that was read from JSON.
    """
    pixels, heat = picture.get("pixels"), picture.get("heat")
    if pixels is None:
        title = picture["title"]
        raise InputError(f"{title!r} has no pixels: they are not kept in JSON, so draw it where it was made")
    return pixels if heat is None else overlay(pixels, heat)


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Importance over a picture.

    The picture loses its colour and most of its light; over it lies the colour of `COLOURS` for each value, the more
    opaque the higher the value. So 0 shows the dark picture alone, 1 nearly the colour alone.

    Args:
        pixels: `(h, w, 3)` of uint8.
        heat: `(h, w)` in [0, 1].
    """
    colours = require("matplotlib", extra="report").colormaps[COLOURS]
    ground = _DARK * (pixels / 255.0) @ _LUMA
    cover = _COVER * np.asarray(heat, dtype=np.float64)[..., None]
    mixed = (1 - cover) * ground[..., None] + cover * colours(heat)[..., :3]
    return (255 * mixed).round().clip(0, 255).astype(np.uint8)


def legend() -> str:
    """The scale from 0 to 1 over a middle grey, as a `data:` address."""
    height, width = _LEGEND
    grey = np.full((height, width, 3), 128, np.uint8)
    return _to_address(_encode(overlay(grey, np.linspace(0, 1, width)[None].repeat(height, 0))))


def _address(picture: PictureData) -> str | None:
    return None if picture.get("pixels") is None else _to_address(to_png(picture))


def _enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = max(1, -(-_SIDE // max(pixels.shape[:2])))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    image = require("matplotlib.image", extra="report")
    with io.BytesIO() as out:
        # Without the name and version of the software: the same picture gives the same bytes.
        image.imsave(out, np.ascontiguousarray(pixels), format="png", metadata={"Software": None})
        return out.getvalue()


def _to_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
