"""Block digits: one tile of four is a digit, the others are digits whose pixels were shuffled."""

from __future__ import annotations

import torch

from efface_worlds.attribution.digits import CLASSES, INK, Sources, digit_sources
from efface_worlds.attribution.world import Pictures, PictureWorld, box, check_sizes, generators, placed

_TILE = 16


def block_digits(seed: int, *, train: int = 4000, test: int = 1000) -> PictureWorld:
    """Two by two tiles of 16 x 16: a digit, and three digits of any class with their pixels shuffled.

    All tiles have the same ink on average, in amount and in shade, so that brightness says nothing of where the signal
    is. `tight` is the digit's ink, `loose` its tile, `distractor` the ink of the other tiles.

    Source: after BlockMNIST of "Do Input Gradients Highlight Discriminative Features?", arXiv:2102.12781, with
    shuffled digits in place of the null block.

    Args:
        seed: Seed of everything.
        train: Number of training images.
        test: Number of test images, drawn from other digits.

    Raises:
        InputError: If a size is not positive.
        MissingExtraError: If scikit-learn is not installed.
    """
    check_sizes(train, test)
    sources, first, second = generators(seed, 3)
    learn, held = digit_sources(sources)
    return PictureWorld("block digits", CLASSES, _draw(train, learn, first), _draw(test, held, second), seed)


def _draw(n: int, source: Sources, generator: torch.Generator) -> Pictures:
    places = torch.rand(n, 4, generator=generator).argsort(1)
    top, left = _TILE * (places // 2), _TILE * (places % 2)
    digits, labels = source.draw(n, _TILE, generator)
    ink = placed(digits, top[:, 0], left[:, 0])
    noise = torch.zeros_like(ink)
    for tile in range(1, 4):
        other, _ = source.draw(n, _TILE, generator)
        order = torch.rand(n, _TILE**2, generator=generator).argsort(1)
        noise += placed(other.flatten(1).gather(1, order).view_as(other), top[:, tile], left[:, tile])
    ground = 0.5 * torch.rand(n, 3, 1, 1, generator=generator)
    images = ground + (1 - ground) * (ink + noise)[:, None]
    loose = box(top[:, 0], left[:, 0], _TILE, _TILE)
    return Pictures(images, labels, ink > INK, loose, noise > INK, torch.zeros_like(labels))
