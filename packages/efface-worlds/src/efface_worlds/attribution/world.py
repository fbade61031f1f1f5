"""What a world of attribution is: images with a signal, a distractor, and masks that say which is which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import brief
from efface._validate import check_positive_int

SIZE = 32
"""Height and width of every image in pixels."""


@dataclass(frozen=True)
class Pictures:
    """n images whose signal is known.

    Attributes:
        images: `(n, 3, 32, 32)` float32 in [0, 1].
        labels: Class, `(n,)` int64.
        tight: Pixels of the signal itself (the ink, the object), `(n, 32, 32)` bool; never empty, never all.
        loose: The region in which the signal lies (its tile, its box), which holds `tight`, `(n, 32, 32)` bool.
        distractor: Pixels that were drawn to distract, `(n, 32, 32)` bool; may be empty; disjoint from `tight`.
        cue: Whether a spurious cue is shown, `(n,)` int64; zeros in worlds without one.
    """

    images: Tensor
    labels: Tensor
    tight: Tensor
    loose: Tensor
    distractor: Tensor
    cue: Tensor

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Pictures:
        return Pictures(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass(frozen=True)
class PictureWorld:
    """A world: images to learn from, images to explain, and what they show.

    Attributes:
        name: One of `WORLDS`.
        classes: Names of the classes, in order of label.
        train: Images to train on.
        test: Images to explain, drawn alike from other sources (other digits, other scenes).
        swapped: Further test sets in which the cue stands elsewhere, by name; empty in worlds without a cue.
        seed: Seed of everything.
    """

    name: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures
    seed: int
    swapped: Mapping[str, Pictures] = field(default_factory=dict)


def generators(seed: int, count: int) -> list[torch.Generator]:
    """Independent sources of randomness of one seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be an integer of at least 0, got {seed!r}")
    drawn = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed))
    return [torch.Generator().manual_seed(int(value)) for value in drawn]


def check_sizes(train: int, test: int) -> None:
    """Refuse sizes that are no positive integers."""
    check_positive_int(train, "train")
    check_positive_int(test, "test")


def integers(low: int, high: int, n: int, generator: torch.Generator) -> Tensor:
    """Integers from `low` to `high`, both included, `(n,)`."""
    return torch.randint(low, high + 1, (n,), generator=generator)


def box(top: Tensor, left: Tensor, height: Tensor | int, width: Tensor | int) -> Tensor:
    """Rectangles as masks `(n, 32, 32)`: `height` rows from `top`, `width` columns from `left`, `(n,)` each."""
    axis = torch.arange(SIZE)
    rows = (axis >= top[:, None]) & (axis < (top + height)[:, None])
    columns = (axis >= left[:, None]) & (axis < (left + width)[:, None])
    return rows[:, :, None] & columns[:, None, :]


def placed(tiles: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Square tiles `(n, s, s)` on empty canvases `(n, 32, 32)`, their corners at `top` and `left`, `(n,)` each."""
    n, size = tiles.shape[:2]
    canvas = torch.zeros(n, SIZE, SIZE, dtype=tiles.dtype)
    axis = torch.arange(size)
    rows = (top[:, None] + axis)[:, :, None]
    columns = (left[:, None] + axis)[:, None, :]
    canvas[torch.arange(n)[:, None, None], rows, columns] = tiles
    return canvas
