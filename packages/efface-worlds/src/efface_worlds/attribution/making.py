"""The worlds by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from efface._errors import InputError
from efface_worlds.attribution.blocks import block_digits
from efface_worlds.attribution.hard import hard_digits
from efface_worlds.attribution.objects import shape_pairs
from efface_worlds.attribution.spurious import spurious_digits
from efface_worlds.attribution.world import PictureWorld

WORLDS: dict[str, Callable[..., PictureWorld]] = {
    "hard digits": hard_digits,
    "block digits": block_digits,
    "spurious digits": spurious_digits,
    "shape pairs": shape_pairs,
}


def make_world(name: str, seed: int, **options: Any) -> PictureWorld:
    """The world of that name; the same seed gives the same bits.

    Args:
        name: One of `WORLDS`.
        seed: Seed of everything.
        options: `train` and `test` (how many images), and the options of that world.

    Raises:
        InputError: If there is no such world.

    >>> world = make_world("shape pairs", 0, train=4, test=2)
    >>> world.test.images.shape, world.test.tight.shape
    (torch.Size([2, 3, 32, 32]), torch.Size([2, 32, 32]))
    """
    if name not in WORLDS:
        raise InputError(f"there is no world {name!r}: write one of {', '.join(WORLDS)}")
    return WORLDS[name](seed, **options)
