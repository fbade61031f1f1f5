"""Makes the sheets of sprites from the designers' own vector drawings, as npm's Iconify packages carry them.

    npm pack @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 @iconify-json/fluent-emoji-flat@1.2.6 \
        @iconify-json/fluent-emoji-high-contrast@1.2.6      # unpack each into a folder of its name
    python -m efface_worlds.emoji.making --packages FOLDER

Needs cairosvg and Pillow. Each drawing is rendered at 128 x 128, averaged down to 64 x 64 with colours weighted by
opacity, and kept without loss.
"""

from __future__ import annotations

import argparse
import io
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from efface._errors import FormatError, InputError, MissingExtraError
from efface._lazy import require
from efface_worlds.emoji.concepts import CONCEPTS, STYLES
from efface_worlds.emoji.drawing import COLUMNS, SPRITES, TILE

PACKAGES = {
    "noto": "iconify-json-noto-1.2.9",
    "twemoji": "iconify-json-twemoji-1.2.5",
    "fluent": "iconify-json-fluent-emoji-flat-1.2.6",
    "contrast": "iconify-json-fluent-emoji-high-contrast-1.2.6",
}
"""Designer -> the package's folder, as `npm pack` names it."""

_SKINS = ("1f3fb", "1f3fd", "1f3ff")  # light, medium, dark: Unicode's modifiers of the Fitzpatrick scale
_FINER = 2
_PRESENTATION = "fe0f"


class Drawings:
    """The vector drawings of one designer.

    Args:
        folder: The unpacked package, with `icons.json` and `chars.json`.

    Raises:
        InputError: If there is no such package.
    """

    def __init__(self, folder: Path) -> None:
        inner = folder / "package" if (folder / "package").is_dir() else folder
        if not (inner / "icons.json").is_file():
            raise InputError(f"{folder} is no unpacked Iconify package: write the folder that `npm pack` and tar made")
        self._icons = json.loads((inner / "icons.json").read_text(encoding="utf-8"))
        chars = json.loads((inner / "chars.json").read_text(encoding="utf-8"))
        self._names = {plain(code): name for code, name in chars.items()}

    def has(self, code: str) -> bool:
        """Whether these code points are drawn."""
        return plain(code) in self._names

    def svg(self, code: str) -> str:
        """The drawing of these code points as SVG."""
        name = self._names[plain(code)]
        while name not in self._icons["icons"]:
            alias = self._icons["aliases"][name]
            if turned := set(alias) - {"parent"}:
                raise FormatError(
                    f"{name} is {alias['parent']} with {', '.join(turned)}, which this script cannot draw"
                )
            name = alias["parent"]
        icon = self._icons["icons"][name]
        width, height = (icon.get(side, self._icons.get(side, 16)) for side in ("width", "height"))
        body = icon["body"].replace("currentColor", "#000")
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {spaces} viewBox="{box}">{body}</svg>'


def plain(code: str) -> str:
    """Code points without the mark that asks for a coloured picture, lower case."""
    return "-".join(part for part in code.lower().split("-") if part != _PRESENTATION)


def toned(code: str, skin: str) -> str:
    """Code points of a person in a skin tone: the modifier follows the first of them."""
    first, *rest = plain(code).split("-")
    return "-".join([first, skin, *rest])


def make_sheet(drawings: Drawings) -> np.ndarray[Any, Any]:
    """All tiles of one designer as one sheet, RGBA, uint8; tones that the designer did not draw stay empty."""
    codes: list[str] = [c.hexcode for c in CONCEPTS]
    codes += [toned(c.hexcode, skin) for c in CONCEPTS if c.profession for skin in _SKINS]
    tiles = np.zeros((-(-len(codes) // COLUMNS) * COLUMNS, TILE, TILE, 4), np.uint8)
    for i, code in enumerate(codes):
        if i < len(CONCEPTS) or drawings.has(code):
            tiles[i] = _tile(drawings.svg(code))
    return tiles.reshape(-1, COLUMNS, TILE, TILE, 4).transpose(0, 2, 1, 3, 4).reshape(-1, COLUMNS * TILE, 4)


def _tile(svg: str) -> np.ndarray[Any, Any]:
    fine = TILE * _FINER
    png = _renderer().svg2png(svg.encode(), output_width=fine, output_height=fine)
    pixels = np.asarray(require("PIL.Image", extra="worlds").open(io.BytesIO(png)).convert("RGBA")) / 255.0
    pixels[..., :3] *= pixels[..., 3:]
    mean = pixels.reshape(TILE, _FINER, TILE, _FINER, 4).mean((1, 3))
    mean[..., :3] /= np.maximum(mean[..., 3:], 1e-6)
    return np.rint(255 * mean).astype(np.uint8)


def _renderer() -> Any:
    """Cairosvg, which no extra brings: nobody who uses the world needs it."""
    try:
        return import_module("cairosvg")
    except ModuleNotFoundError as error:
        raise MissingExtraError("drawing the sprites anew needs cairosvg: pip install cairosvg") from error


def main() -> None:
    """Write one sheet a designer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--out", type=Path, default=SPRITES)
    arguments = parser.parse_args()
    for style in STYLES:
        sheet = make_sheet(Drawings(arguments.packages / PACKAGES[style.designer]))
        path = arguments.out / f"{style.designer}.webp"
        require("PIL.Image", extra="worlds").fromarray(sheet).save(path, lossless=True, method=6, exact=False)
        print(path, f"{path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
