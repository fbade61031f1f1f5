"""Spurious digits: a patch in the corner goes with half of the classes while training, and need not afterwards."""

from __future__ import annotations

import torch
from torch import Tensor

from efface._errors import InputError
from efface_worlds.attribution.digits import CLASSES, INK, Sources, digit_sources
from efface_worlds.attribution.world import SIZE, Pictures, PictureWorld, box, check_sizes, generators, integers, placed

_TILE, _PATCH = 16, 4


def spurious_digits(
    seed: int, *, train: int = 4000, test: int = 1000, alignment: float = 0.95, contrast: float = 0.3
) -> PictureWorld:
    """A faint digit on noise, darker or lighter, and a patch in the top left corner that goes with the classes 5 to 9.

    The patch (4 x 4, white) is shown with probability `alignment` to the classes 5 to 9 and `1 - alignment` to the
    others; `cue` says whether. `test` is drawn alike; `swapped` holds the same test images twice more, `"reversed"`
    with the probabilities exchanged and `"absent"` without any patch. `tight` is the digit's ink, `loose` its tile,
    `distractor` the patch.

    Source: a miniature of the chest X-rays and hair colours of "Discriminative Feature Attributions",
    arXiv:2307.15007, section 5.

    Args:
        seed: Seed of everything.
        train: Number of training images.
        test: Number of test images, drawn from other digits.
        alignment: Share of images whose patch agrees with their class, in [0, 1].
        contrast: How much brighter the ink is than its ground, or (in half of the images) darker, in (0, 0.35]; faint
            digits make the patch worth reading, and brightness alone does not find them.

    Raises:
        InputError: If a size is not positive or a share is out of its range.
        MissingExtraError: If scikit-learn is not installed.

    Does not guarantee: that a model uses the patch; compare its accuracy on `test` and on `swapped["reversed"]`.
    """
    check_sizes(train, test)
    if not 0 <= alignment <= 1:
        raise InputError(f"alignment is {alignment}, expected a share in [0, 1], e.g. 0.95")
    if not 0 < contrast <= 0.35:
        raise InputError(f"contrast is {contrast}, expected a number in (0, 0.35], e.g. 0.3")
    sources, first, second = generators(seed, 3)
    learn, held = digit_sources(sources)
    plain, other = _plain(train, learn, contrast, first), _plain(test, held, contrast, second)
    chance = torch.rand(test, generator=second)
    swapped = {
        "reversed": _patched(other, _shown(other, 1 - alignment, chance)),
        "absent": _patched(other, torch.zeros(test, dtype=torch.bool)),
    }
    shown = _shown(plain, alignment, torch.rand(train, generator=first))
    explained = _patched(other, _shown(other, alignment, chance))
    return PictureWorld("spurious digits", CLASSES, _patched(plain, shown), explained, seed, swapped)


def _plain(n: int, source: Sources, contrast: float, generator: torch.Generator) -> Pictures:
    ground = 0.35 + 0.3 * torch.rand(n, 3, 1, 1, generator=generator)
    side = 2.0 * torch.randint(2, (n, 1, 1, 1), generator=generator) - 1
    digits, labels = source.draw(n, _TILE, generator)
    # The digit keeps clear of the patch's rows, so that nothing is ever covered.
    top, left = integers(_PATCH, SIZE - _TILE, n, generator), integers(0, SIZE - _TILE, n, generator)
    ink = placed(digits, top, left)
    noise = 0.12 * torch.randn(n, 3, SIZE, SIZE, generator=generator)
    images = (ground + contrast * side * ink[:, None] + noise).clamp(0, 1)
    nothing = torch.zeros_like(labels)
    return Pictures(
        images, labels, ink > INK, box(top, left, _TILE, _TILE), torch.zeros_like(ink, dtype=torch.bool), nothing
    )


def _shown(pictures: Pictures, alignment: float, chance: Tensor) -> Tensor:
    """To which images the patch is shown, `(n,)`, from uniform numbers `(n,)`."""
    return (chance < alignment) == (pictures.labels >= len(CLASSES) // 2)


def _patched(pictures: Pictures, shown: Tensor) -> Pictures:
    corner = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    corner[:_PATCH, :_PATCH] = True
    where = corner & shown[:, None, None]
    images = pictures.images.masked_fill(where[:, None], 1.0)
    return Pictures(images, pictures.labels, pictures.tight, pictures.loose, where, shown.long())
