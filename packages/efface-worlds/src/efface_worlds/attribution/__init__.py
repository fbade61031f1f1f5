"""Worlds in which what a classifier should look at is known: images of 32 x 32 with masks of signal and distractor.

`make_world(name, seed)` draws one of them; `train_classifier(world, seed)` trains the network that is to be explained.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface_worlds.attribution.blocks import block_digits
    from efface_worlds.attribution.classifier import (
        SmallConvNet,
        accuracy,
        fit_classifier,
        make_classifier,
        train_classifier,
    )
    from efface_worlds.attribution.hard import hard_digits
    from efface_worlds.attribution.making import WORLDS, make_world
    from efface_worlds.attribution.objects import shape_pairs
    from efface_worlds.attribution.spurious import spurious_digits
    from efface_worlds.attribution.world import Pictures, PictureWorld

_NAMES = {
    "efface_worlds.attribution.blocks": ("block_digits",),
    "efface_worlds.attribution.classifier": (
        "SmallConvNet",
        "accuracy",
        "fit_classifier",
        "make_classifier",
        "train_classifier",
    ),
    "efface_worlds.attribution.hard": ("hard_digits",),
    "efface_worlds.attribution.making": ("WORLDS", "make_world"),
    "efface_worlds.attribution.objects": ("shape_pairs",),
    "efface_worlds.attribution.spurious": ("spurious_digits",),
    "efface_worlds.attribution.world": ("PictureWorld", "Pictures"),
}

__all__ = [
    "WORLDS",
    "PictureWorld",
    "Pictures",
    "SmallConvNet",
    "accuracy",
    "block_digits",
    "fit_classifier",
    "hard_digits",
    "make_classifier",
    "make_world",
    "shape_pairs",
    "spurious_digits",
    "train_classifier",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
