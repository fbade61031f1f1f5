"""Drawing scenes: sprites of four designers on a plain ground, 48 x 48 RGB; the same scenes give the same bits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import FormatError
from efface._lazy import require
from efface_worlds.emoji.concepts import CONCEPTS, STYLES, TONES
from efface_worlds.emoji.scenes import NONE, SIZE, Scenes

SPRITES = Path(__file__).parent / "sprites"
"""One sheet a designer, rows of 24 tiles: the concepts in their order, then each person in each skin tone."""

TILE, COLUMNS = 64, 24
"""Pixels a side of a tile, and tiles a row of a sheet."""

_GROUNDS = torch.tensor(
    [
        [0.97, 0.97, 0.97],  # white
        [0.06, 0.06, 0.06],  # black
        [0.60, 0.60, 0.60],  # grey
        [0.98, 0.70, 0.78],  # pink
        [0.99, 0.90, 0.45],  # yellow
        [0.55, 0.85, 0.55],  # green
        [0.45, 0.68, 0.97],  # blue
        [0.68, 0.50, 0.86],  # purple
    ]
)
_DARK = 1  # the ground on which what is black is drawn white
_INK = next(i for i, style in enumerate(STYLES) if style.name == "black and white")


def render(scenes: Scenes) -> Tensor:
    """Draw scenes.

    Returns:
        Pictures in [0, 1], `(n, 3, 48, 48)`, float32.

    Raises:
        MissingExtraError: If Pillow is not installed.
        FormatError: If a sheet of sprites is missing or damaged.
    """
    ground = (_GROUNDS[scenes.background] + scenes.tints).clamp(0, 1)
    pictures = ground[:, :, None, None].expand(-1, -1, SIZE, SIZE).clone()
    for which in (0, 1):
        for width in scenes.places[:, which, 2].unique().tolist():
            chosen = (scenes.places[:, which, 2] == width) & (scenes.objects[:, which] != NONE)
            _paste(pictures, scenes, which, chosen.nonzero()[:, 0], width)
    return pictures


def ground_colours() -> Tensor:
    """Colours of the grounds, `(8, 3)`."""
    return _GROUNDS.clone()


def sprite(scenes: Scenes, which: int = 0) -> Tensor:
    """The tile of the first or second object of each scene, colours multiplied by opacity, `(n, 4, 64, 64)`."""
    sheets = load_sprites()
    tiles = sheets[scenes.style, tile_of(scenes.objects[:, which], scenes.tones[:, which])].float() / 255
    tiles[:, :3] = torch.where(
        ((scenes.style == _INK) & (scenes.background == _DARK))[:, None, None, None], tiles[:, 3:], tiles[:, :3]
    )
    return tiles


def tile_of(objects: Tensor, tones: Tensor) -> Tensor:
    """Places on a sheet of objects in skin tones."""
    first = next(i for i, c in enumerate(CONCEPTS) if c.profession)
    toned = len(CONCEPTS) + (objects - first) * len(TONES) + tones
    return torch.where(tones == NONE, objects, toned)


@cache
def load_sprites() -> Tensor:
    """All sheets, colours multiplied by opacity, `(styles, tiles, 4, 64, 64)`, uint8."""
    return torch.stack([_load(SPRITES / f"{style.designer}.webp") for style in STYLES])


def _load(path: Path) -> Tensor:
    image = require("PIL.Image", extra="worlds")
    try:
        with image.open(path) as sheet:
            pixels = torch.from_numpy(np.array(sheet.convert("RGBA")))
    except (OSError, SyntaxError, ValueError) as error:
        raise FormatError(f"{path} is missing or damaged ({error}): reinstall efface-worlds") from error
    people = sum(bool(c.profession) for c in CONCEPTS)
    tiles = pixels.unflatten(0, (-1, TILE)).unflatten(2, (COLUMNS, TILE)).permute(0, 2, 4, 1, 3).flatten(0, 1)
    if len(tiles) < (count := len(CONCEPTS) + people * len(TONES)):
        raise FormatError(f"{path} has {len(tiles)} tiles, not {count}: reinstall efface-worlds")
    tiles = tiles[:count].clone()
    tiles[:, :3] = ((tiles[:, :3].int() * tiles[:, 3:].int() + 127) // 255).byte()
    return tiles


def _paste(pictures: Tensor, scenes: Scenes, which: int, rows: Tensor, width: int) -> None:
    for part in rows.split(512):
        tiles = F.interpolate(sprite(scenes[part], which), (width, width), mode="bilinear", antialias=True)
        for row, tile, (x, y) in zip(part.tolist(), tiles, scenes.places[part, which, :2].tolist(), strict=True):
            region = pictures[row, :, y : y + width, x : x + width]
            region.mul_(1 - tile[3:]).add_(tile[:3])
