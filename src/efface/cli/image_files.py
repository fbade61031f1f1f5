"""Images as files: which there are, in an order that does not depend on the machine, and what is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError
from efface._lazy import require
from efface._progress import progress
from efface.cli.outputs import Say

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class ImageFile:
    """One file: its path, and its name below the folder that was given."""

    path: Path
    name: str

    @property
    def folder(self) -> str:
        """Name of the folder that it lies in."""
        return self.path.parent.name


def find_images(given: Sequence[Path], limit: int, seed: int, say: Say) -> list[ImageFile]:
    """Images, and those of folders and of the folders below them, by name; a sample if there are too many.

    Raises:
        InputError: If there is no such file or folder, or no image in it.
    """
    found = [file for each in given for file in _images_of(each)]
    if len(found) <= limit:
        return found
    chosen = np.random.default_rng(seed).choice(len(found), limit, replace=False)
    say(f"a random sample of {limit} of the {len(found)} images of {', '.join(map(str, given))} (seed {seed})")
    return [found[i] for i in sorted(chosen)]


def _images_of(given: Path) -> list[ImageFile]:
    if given.is_file():
        if given.suffix.lower() not in SUFFIXES:
            raise InputError(f"{given}: expected an image, {' '.join(SUFFIXES)}, or a folder of them")
        return [ImageFile(given, given.name)]
    if not given.is_dir():
        raise InputError(f"{given}: there is no such file or folder")
    hidden = [p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
    found = {p.relative_to(given).as_posix(): p for p in hidden if not _is_hidden(p.relative_to(given))}
    if not found:
        raise InputError(f"{given} has no images ({' '.join(SUFFIXES)}), not in the folders below it either")
    return [ImageFile(found[name], name) for name in sorted(found)]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_images(
    files: Sequence[ImageFile],
    *,
    channels: int,
    size: tuple[int, int] | None,
    prepare: Callable[[Any], Tensor] | None,
    say: Say,
) -> Tensor:
    """Pixels `(n, channels, h, w)` in [0, 1].

    Args:
        files: What to read.
        channels: 1 (grey) or 3 (colour); images are converted.
        size: Height and width to resize to; None takes images as they are, if they are all of one size.
        prepare: The model's own way to pixels, instead of resizing.
        say: Told if images are resized.

    Raises:
        InputError: If a file cannot be read (the text names it), or sizes differ and none is asked for.
    """
    parts, sizes = [], {}
    with progress("reading", len(files), unit="images") as bar:
        for file in files:
            image = _open(file.path, "RGB" if channels == 3 else "L")
            sizes.setdefault((image.height, image.width), file.name)
            pixels = prepare(image) if prepare is not None else _pixels(image, size)
            if parts and pixels.shape != parts[0].shape:
                raise InputError(_differ(sizes, pixels, parts[0]))
            parts.append(pixels)
            bar.update(1)
    images = torch.stack(parts)
    resized = [size for size in sizes if size != tuple(images.shape[2:])]
    if resized:
        target = f"{images.shape[2]} x {images.shape[3]}"
        how = "by its image processor" if prepare is not None else "sides may be stretched"
        say(f"images of {len(sizes)} size{'s' if len(sizes) > 1 else ''} are brought to {target}, the model's ({how})")
    return images


def _differ(sizes: dict[tuple[int, int], str], pixels: Tensor, first: Tensor) -> str:
    listed = ", ".join(f"{name} is {h} x {w}" for (h, w), name in list(sizes.items())[:3])
    shapes = f"{tuple(first.shape[1:])} and {tuple(pixels.shape[1:])}"
    return f"images become {shapes} pixels ({listed}): write the size that the model wants, e.g. --size 224"


def _open(path: Path, mode: str) -> Any:
    pil, turned = require("PIL.Image", extra="report"), require("PIL.ImageOps", extra="report").exif_transpose
    try:
        with pil.open(path) as image:
            return turned(_in_bytes(image, path)).convert(mode)  # cameras write how it was held, not how it stands
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as error:
        raise InputError(
            f"{path} cannot be read as an image ({error}): mend it or move it away; nothing was written"
        ) from error


def _in_bytes(image: Any, path: Path) -> Any:
    """A picture of 16 bits (of medicine, of depth) in 8, from black to white, where Pillow cuts it off at 255.

    Raises:
        InputError: If its values have no known range.
    """
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)
        return require("PIL.Image", extra="report").fromarray((grey // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(
            f"{path} holds {'32-bit integers' if image.mode == 'I' else 'floats'}, of which nobody says what is white: "
            "save it with 8 or 16 bits a pixel"
        )
    return image


def _pixels(image: Any, size: tuple[int, int] | None) -> Tensor:
    if size is not None and (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), require("PIL.Image", extra="report").Resampling.BILINEAR)
    values = torch.from_numpy(np.array(image, dtype=np.uint8)).float() / 255
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1).contiguous()
