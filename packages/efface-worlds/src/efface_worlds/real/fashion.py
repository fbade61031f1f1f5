"""Fashion-MNIST as Debian packages it: 70,000 grey pictures of garments, 28 x 28, in ten classes.

    apt-get install dataset-fashion-mnist      # 31 MB, MIT

The four files are those of the authors, in the format of MNIST (`idx`, gzipped). What they say of their sizes is
checked before a pixel is used.

Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
arXiv:1708.07747.
"""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from efface._errors import FormatError, InputError, MissingExtraError
from efface._io import as_path
from efface._text import brief
from efface._validate import check_positive_int
from efface.core.doors import check_call

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""

APT_LINE = "apt-get install dataset-fashion-mnist"

GARMENTS = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
"""Names of the classes, in order of label."""

Split = Literal["train", "test"]

_FILES: dict[str, tuple[str, int]] = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
_SIDE = 28
_UNSIGNED_BYTE = 8


@dataclass(frozen=True)
class Garments:
    """Pictures of garments.

    Attributes:
        images: `(n, 1, 28, 28)` float32 in [0, 1]; the ground is 0.
        labels: Class, an index into `GARMENTS`, `(n,)` int64.
    """

    images: Tensor
    labels: Tensor

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.labels)


def load_fashion(
    split: Split = "test", *, folder: str | os.PathLike[str] | None = None, limit: int | None = None
) -> Garments:
    """The pictures of one split, 60,000 of `"train"` or 10,000 of `"test"`, in the order of the files.

    Args:
        split: Which.
        folder: Of the four gzipped files; None takes that of Debian's package.
        limit: How many, from the first; None takes all.

    Raises:
        InputError: If there is no such split, or a folder that was given lacks a file.
        MissingExtraError: If Debian's package is not installed.
        FormatError: If a file is truncated, damaged, or not what it should be by its own header.
    """
    check_call(load_fashion, locals())
    if split not in get_args(Split):
        raise InputError(f'split={split!r}: write "train" or "test"')
    name, n = _FILES[split]
    wanted = n if limit is None else min(n, check_positive_int(limit, "limit"))
    pixels = _read(_find(folder, f"{name}-images-idx3-ubyte.gz"), (n, _SIDE, _SIDE), wanted)
    labels = _read(path := _find(folder, f"{name}-labels-idx1-ubyte.gz"), (n,), wanted)
    if int(labels.max()) >= len(GARMENTS):
        raise FormatError(
            f"{path} has a label of {int(labels.max())}, and there are {len(GARMENTS)} classes: {APT_LINE}"
        )
    return Garments(pixels[:, None].float() / 255, labels.long())


def _find(folder: str | os.PathLike[str] | None, name: str) -> Path:
    path = (FASHION_FOLDER if folder is None else as_path(folder, "folder")) / name
    if path.is_file():
        return path
    if folder is None:
        raise MissingExtraError(
            f"this needs Fashion-MNIST, and there is no {path}: install Debian's package with  {APT_LINE}  or pass "
            "folder= with the four gzipped files of its authors"
        )
    raise InputError(f"{path.parent} has no {name}: give the folder with the four gzipped files of Fashion-MNIST")


def _read(path: Path, shape: tuple[int, ...], wanted: int) -> Tensor:
    """The first entries of a gzipped file of bytes in the format `idx`, which must be of this shape; uint8.

    No more is unpacked than that shape needs, whatever the file holds.
    """
    advice = f"install it again with  {APT_LINE}"
    header = 4 + 4 * len(shape)
    try:
        with gzip.open(path) as file:
            head = file.read(header)
            _check_header(path, head, shape, advice)
            data = file.read(wanted * prod(shape[1:]))
            if wanted == shape[0] and file.read(1):
                raise FormatError(f"{path} goes on behind the {shape[0]} entries that its header names: {advice}")
    except (EOFError, zlib.error, OSError) as error:
        raise FormatError(f"{path} is truncated or damaged ({error}): {advice}") from error
    if len(data) < wanted * prod(shape[1:]):
        raise FormatError(f"{path} ends before its {shape[0]} entries do: {advice}")
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(wanted, *shape[1:])


def _check_header(path: Path, head: bytes, shape: tuple[int, ...], advice: str) -> None:
    """Two zeros, the type of entries, how many axes, and the length of each, big-endian."""
    if head[:2] != b"\0\0" or len(head) < 4 + 4 * len(shape) or head[2] != _UNSIGNED_BYTE or head[3] != len(shape):
        raise FormatError(f"{path} is no idx file of bytes with {len(shape)} axes: {advice}")
    found = tuple(np.frombuffer(head, ">u4", offset=4).tolist())
    if found != shape:
        raise FormatError(f"{path} says that it holds {found}, expected {shape}: {advice}")
