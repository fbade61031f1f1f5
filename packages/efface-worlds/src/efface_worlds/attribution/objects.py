"""Shapes with a distractor: two objects, of which only one is of a kind that is a class."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from efface_worlds.attribution.world import SIZE, Pictures, PictureWorld, check_sizes, generators
from efface_worlds.shapes.concepts import STYLES, index_of
from efface_worlds.shapes.distances import DISTANCES
from efface_worlds.shapes.drawing import render
from efface_worlds.shapes.scenes import Scenes, sample_scenes

CLASSES = ("circle", "square", "triangle", "star", "cross")
OTHERS = ("ellipse", "ring", "rectangle", "diamond", "heart")
"""Objects that distract: each is a look-alike of a class or as common, and none says anything of the label."""

_OUTLINED = [style.name for style in STYLES].index("outlined")


def shape_pairs(seed: int, *, train: int = 4000, test: int = 1000) -> PictureWorld:
    """Two objects side by side; the class is the kind of the one that can be a class.

    The signal is a circle, square, triangle, star or cross, the distractor an ellipse, ring, rectangle, diamond or
    heart, drawn independently of it, as are colours, textures, sides and ground. `tight` is the signal's area,
    `loose` its bounding box and a pixel around, `distractor` the other object's area. Training and test scenes are
    drawn from different seeds.

    Args:
        seed: Seed of everything.
        train: Number of training images.
        test: Number of test images.

    Raises:
        InputError: If a size is not positive.
    """
    check_sizes(train, test)
    first, second = generators(seed, 2)
    return PictureWorld("shape pairs", CLASSES, _draw(train, first), _draw(test, second), seed)


def _draw(n: int, generator: torch.Generator) -> Pictures:
    labels = torch.randint(len(CLASSES), (n,), generator=generator)
    others = torch.randint(len(OTHERS), (n,), generator=generator)
    kinds = [torch.tensor([index_of(name) for name in names])[which] for names, which in _pairs(labels, others)]
    scenes = sample_scenes(n, generator=generator, two_objects=1.0, balanced=True)
    # An outline is most of an object's ground: what is signal would be a matter of taste.
    style = torch.where(scenes.style == _OUTLINED, 0, scenes.style)
    # The second object is drawn over the first where they touch, so either kind must be able to be the second.
    swap = torch.rand(n, generator=generator) < 0.5
    objects = torch.stack([torch.where(swap, kinds[1], kinds[0]), torch.where(swap, kinds[0], kinds[1])], 1)
    scenes = replace(scenes, objects=objects, style=style)
    lower, upper = _area(scenes, 0), _area(scenes, 1)
    lower &= ~upper
    chosen = swap[:, None, None]
    tight, other = torch.where(chosen, upper, lower), torch.where(chosen, lower, upper)
    return Pictures(render(scenes), labels, tight, _around(tight), other, torch.zeros_like(labels))


def _pairs(labels: Tensor, others: Tensor) -> tuple[tuple[tuple[str, ...], Tensor], ...]:
    return (CLASSES, labels), (OTHERS, others)


def _area(scenes: Scenes, which: int) -> Tensor:
    """Pixels whose centre is inside an object, `(n, 32, 32)`."""
    centre_x, centre_y, radius, angle = scenes.places[:, which, :, None, None].unbind(1)
    axis = torch.arange(SIZE, dtype=torch.float32)
    x, y = (axis - centre_x) / radius, (axis[:, None] - centre_y) / radius
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    inside = torch.zeros_like(x, dtype=torch.bool)
    for label, distance in enumerate(DISTANCES):
        rows = scenes.objects[:, which] == label
        inside[rows] = distance(x[rows], y[rows]) < 0
    return inside


def _around(mask: Tensor) -> Tensor:
    """The bounding box of each mask and one pixel around it, `(n, 32, 32)`."""
    sides = [_span(mask.any(axis)) for axis in (2, 1)]
    return sides[0][:, :, None] & sides[1][:, None, :]


def _span(line: Tensor) -> Tensor:
    """From one before the first to one after the last, `(n, 32)`."""
    wide = line.clone()
    wide[:, 1:] |= line[:, :-1]
    wide[:, :-1] |= line[:, 1:]
    return (wide.cumsum(1) > 0) & (wide.flip(1).cumsum(1).flip(1) > 0)
