"""Pictures for a network of ImageNet: files as its training crops them, emoji on white, photographs of packages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import FormatError, InputError, MissingExtraError
from efface._io import as_path
from efface._lazy import require
from efface._validate import check_type, did_you_mean
from efface.core.doors import check_call
from efface_worlds.real.efficientnet import IMAGENET_SIDE
from efface_worlds.real.packages import PACKAGES, data_file

WALLPAPERS = Path("/usr/share/backgrounds")
"""Where Debian's packages of wallpapers put them."""


@dataclass(frozen=True)
class Photograph:
    """A photograph that a package ships, and what is to be seen of it in the square that is shown.

    Attributes:
        package: One of `PACKAGES`.
        file: Its name there.
        classes: Classes of ImageNet that are right of it, by our eyes; empty where ImageNet has none.
    """

    package: str
    file: str
    classes: tuple[int, ...] = ()


_OLD, _NEW, _IMAGE = "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "scikit-image"

PHOTOGRAPHS: dict[str, Photograph] = {
    "bridge": Photograph(_OLD, "Bridge_by_Sander_Klootwijk.jpg", (839,)),
    "brushes": Photograph(_OLD, "Picture_1A_by_freespace.jpg", (696,)),
    "dandelions": Photograph(_OLD, "seeding_by_Clements_Engelhardt.jpg"),
    "dragonfly": Photograph(_OLD, "Dragonfly_by_Bolly.jpg", (319,)),
    "drum": Photograph(_OLD, "Wine_by_Jakkub_Mede.jpg", (541,)),
    "fig": Photograph(_OLD, "Picture_0B_by_freespace.jpg", (952,)),
    "mountains": Photograph(_OLD, "aitzgorri_by_Aitzol_Berasategi.jpg", (970,)),
    "peaks": Photograph(_OLD, "picosdeeuropa_by_Aitzol_Berasategi.jpg", (970,)),
    "spaniels": Photograph(_OLD, "friends_by_Aitzol_Berasategi.jpg", (219,)),
    "stream": Photograph(_OLD, "life_by_Aitzol_Berasategi.jpg", (979,)),
    "sunset": Photograph(_OLD, "sunset_by_Aitzol_Berasategi.jpg"),
    "nuthatch": Photograph(_NEW, "Kleiber_by_Lukas_Baubkus.jpg"),
    "astronaut": Photograph(_IMAGE, "astronaut.png"),
    "cat": Photograph(_IMAGE, "chelsea.png", (281, 282, 285)),
    "coffee": Photograph(_IMAGE, "coffee.png", (504, 967, 968)),
    "rocket": Photograph(_IMAGE, "rocket.jpg", (657, 744)),
}
"""Name -> a photograph."""

_BORDER = 32
_EMOJI = 192


def read_picture(path: str | os.PathLike[str]) -> Tensor:
    """A picture as EfficientNet-Lite0 was evaluated on them, `(3, 224, 224)` in [0, 1].

    The square in the middle, less a border of 32 pixels in 256, resized with bicubic weights.

    Raises:
        MissingExtraError: If Pillow is not installed.
        InputError: If there is no such file.
        FormatError: If it is no picture, or truncated.
    """
    path, image = as_path(path), require("PIL.Image", extra="worlds")
    if not path.is_file():
        raise InputError(f"there is no file {path}: write the path of a picture")
    try:
        with image.open(path) as picture:
            return prepared(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise FormatError(f"{path} cannot be read as a picture ({error}): write the path of a whole one") from error


def prepared(picture: Any) -> Tensor:
    """What `read_picture` does, to an image of Pillow."""
    square = min(picture.size) * IMAGENET_SIDE / (IMAGENET_SIDE + _BORDER)
    left, top = ((side - square) / 2 for side in picture.size)
    bicubic = require("PIL.Image", extra="worlds").Resampling.BICUBIC
    box = (left, top, left + square, top + square)
    small = picture.convert("RGB").resize((IMAGENET_SIDE, IMAGENET_SIDE), bicubic, box)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255


def photograph(name: str) -> Tensor:
    """One of `PHOTOGRAPHS`, `(3, 224, 224)` in [0, 1].

    Raises:
        InputError: If there is none of that name.
        MissingExtraError: If its package, or Pillow, is not installed.
    """
    if check_type(name, str, "name") not in PHOTOGRAPHS:
        raise InputError(f"there is no photograph {name!r}{did_you_mean(name, PHOTOGRAPHS)}: {', '.join(PHOTOGRAPHS)}")
    found = PHOTOGRAPHS[name]
    package = PACKAGES[found.package]
    if not package.debian:
        return read_picture(data_file(package.name, f"skimage/data/{found.file}", extra=package.extra))
    path = WALLPAPERS / found.file
    if not path.is_file():
        raise MissingExtraError(f"there is no {path}: install Debian's package with  {package.install}")
    return read_picture(path)


def emoji_pictures(names: Sequence[str], style: str = "noto") -> Tensor:
    """Emoji in the middle of white, `(n, 3, 224, 224)` in [0, 1]; sprites of 64 pixels a side, made 192.

    Args:
        names: Of concepts of the emoji world.
        style: Of a designer: `"noto"`, `"twemoji"`, `"fluent"` or `"black and white"`.

    Raises:
        InputError: If there is no such emoji or style.
        MissingExtraError: If Pillow is not installed.
    """
    check_call(emoji_pictures, locals())
    from efface_worlds.emoji.concepts import CONCEPTS, STYLES
    from efface_worlds.emoji.drawing import load_sprites

    styles = [known.name for known in STYLES]
    if style not in styles:
        raise InputError(f"style={style!r}: write one of {', '.join(styles)}")
    places = {concept.name: k for k, concept in enumerate(CONCEPTS)}
    if strange := [name for name in names if name not in places]:
        raise InputError(f"there is no emoji {strange[0]!r}{did_you_mean(str(strange[0]), places)}")
    if not names:
        raise InputError("names are empty: write some emoji, e.g. ['zebra']")
    tiles = load_sprites()[styles.index(style), [places[name] for name in names]].float() / 255
    on_white = tiles[:, :3] + 1 - tiles[:, 3:]
    large = F.interpolate(on_white, (_EMOJI, _EMOJI), mode="bicubic", align_corners=False).clamp(0, 1)
    return F.pad(large, [(IMAGENET_SIDE - _EMOJI) // 2] * 4, value=1.0)
