"""Pictures for a network of ImageNet: files as its training crops them, emoji on white, and Debian's wallpapers."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from efface_worlds.real.efficientnet import IMAGENET_SIDE
from efface_worlds.real.packages import PACKAGES

WALLPAPERS = Path("/usr/share/backgrounds")
"""Where Debian's packages of wallpapers put them."""

PHOTOGRAPHS = {
    "Bridge_by_Sander_Klootwijk.jpg": "lomiri-wallpapers-16.04",
    "Dragonfly_by_Bolly.jpg": "lomiri-wallpapers-16.04",
    "Kleiber_by_Lukas_Baubkus.jpg": "lomiri-wallpapers-20.04",
    "Picture_0B_by_freespace.jpg": "lomiri-wallpapers-16.04",
    "Picture_1A_by_freespace.jpg": "lomiri-wallpapers-16.04",
    "Wine_by_Jakkub_Mede.jpg": "lomiri-wallpapers-16.04",
    "aitzgorri_by_Aitzol_Berasategi.jpg": "lomiri-wallpapers-16.04",
    "friends_by_Aitzol_Berasategi.jpg": "lomiri-wallpapers-16.04",
    "life_by_Aitzol_Berasategi.jpg": "lomiri-wallpapers-16.04",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": "lomiri-wallpapers-16.04",
    "seeding_by_Clements_Engelhardt.jpg": "lomiri-wallpapers-16.04",
    "sunset_by_Aitzol_Berasategi.jpg": "lomiri-wallpapers-16.04",
    "umang_by_Abhishek_Mudgal.jpg": "lomiri-wallpapers-16.04",
}
"""Wallpapers -> the package that has each."""

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


def wallpaper(name: str, *, folder: str | os.PathLike[str] | None = None) -> Tensor:
    """One of Debian's wallpapers, `(3, 224, 224)` in [0, 1].

    Args:
        name: One of `PHOTOGRAPHS`.
        folder: Where they lie; None takes the place where Debian's packages put them.

    Raises:
        InputError: If there is none of that name, or it does not lie in the folder given.
        MissingExtraError: If its package is not installed.
    """
    if check_type(name, str, "name") not in PHOTOGRAPHS:
        raise InputError(f"there is no wallpaper {name!r}{did_you_mean(name, PHOTOGRAPHS)}: {', '.join(PHOTOGRAPHS)}")
    path = (WALLPAPERS if folder is None else as_path(folder, "folder")) / name
    if folder is None and not path.is_file():
        install = PACKAGES[PHOTOGRAPHS[name]].install
        raise MissingExtraError(f"there is no {path}: install Debian's package with  {install}")
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
