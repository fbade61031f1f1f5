"""Hard digits: a digit among stripes of noise and a smaller digit of another hand, after the paper's Hard MNIST."""

from __future__ import annotations

import torch
from torch import Tensor

from efface_worlds.attribution.digits import CLASSES, INK, Sources, digit_sources
from efface_worlds.attribution.world import (
    SIZE,
    Pictures,
    PictureWorld,
    box,
    check_sizes,
    generators,
    integers,
    placed,
)

_TILE, _SMALL, _STRIPE = 16, 8, 7


def hard_digits(seed: int, *, train: int = 4000, test: int = 1000) -> PictureWorld:
    """A digit in white ink on a coloured ground; noise stripes and a small digit distract.

    Drawn in this order: a constant random colour; up to two horizontal and up to two vertical stripes of uniform
    noise, up to 7 pixels wide; a digit of 8 x 8 pixels of any class, added at 0.98; last the digit itself, an opaque
    tile of 16 x 16 in the ground's colour. `tight` is the ink of that digit, `loose` its tile.

    Source: the construction of Hard MNIST in "Discriminative Feature Attributions", arXiv:2307.15007, at 32 x 32 and
    with other digits.

    Args:
        seed: Seed of everything.
        train: Number of training images.
        test: Number of test images, drawn from other digits.

    Raises:
        InputError: If a size is not positive.
        MissingExtraError: If scikit-learn is not installed.

    Does not guarantee: that finding the signal is hard. White ink is the brightest thing here, so the brightness of
    a pixel is a strong explanation: run that control.
    """
    check_sizes(train, test)
    sources, first, second = generators(seed, 3)
    learn, held = digit_sources(sources)
    return PictureWorld("hard digits", CLASSES, _draw(train, learn, first), _draw(test, held, second), seed)


def _draw(n: int, source: Sources, generator: torch.Generator) -> Pictures:
    ground = torch.rand(n, 3, 1, 1, generator=generator)
    images = ground.expand(n, 3, SIZE, SIZE).clone()
    striped = _stripes(n, generator)
    images = torch.where(striped[:, None], torch.rand(images.shape, generator=generator), images)
    small, _ = source.draw(n, _SMALL, generator)
    ink = placed((small > INK).float(), *_corner(n, _SMALL, generator))
    images = (images + 0.98 * ink[:, None]).clamp(0, 1)
    digits, labels = source.draw(n, _TILE, generator)
    top, left = _corner(n, _TILE, generator)
    loose, ink_here = box(top, left, _TILE, _TILE), placed(digits, top, left)[:, None]
    images = torch.where(loose[:, None], ground + (1 - ground) * ink_here, images)
    distractor = (striped | (ink > 0)) & ~loose
    return Pictures(images, labels, ink_here[:, 0] > INK, loose, distractor, torch.zeros_like(labels))


def _corner(n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return integers(0, SIZE - size, n, generator), integers(0, SIZE - size, n, generator)


def _stripes(n: int, generator: torch.Generator) -> Tensor:
    """Where noise stands, `(n, 32, 32)`: up to two stripes each way."""
    striped = torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
    for across in (True, False):
        count = integers(0, 2, n, generator)
        for turn in range(2):
            width = integers(0, _STRIPE, n, generator) * (count > turn)
            start = integers(0, SIZE - 1, n, generator)
            whole, zero = torch.full_like(start, SIZE), torch.zeros_like(start)
            striped |= box(start, zero, width, whole) if across else box(zero, start, whole, width)
    return striped
