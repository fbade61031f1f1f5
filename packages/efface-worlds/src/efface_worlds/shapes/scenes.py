"""Scenes: what is to be seen in each image, as tensors, drawn by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import brief
from efface._validate import check_positive_int
from efface_worlds.shapes.concepts import COLOURS, FACTORS, Concept, concept, index_of

NONE = -1
"""Label of an object that is not there."""

TWO_OBJECTS = 0.12
"""Share of scenes with two objects."""


@dataclass(frozen=True)
class Scenes:
    """n scenes.

    Attributes:
        objects: Labels of the first and second object, `(n, 2)`; the second is `NONE` in scenes of one.
        colours: Labels of their colours, `(n, 2)`.
        style: Label of the style, which both objects share, `(n,)`.
        background: `(n,)`.
        places: Centre x and y, radius in pixels, angle in radians of each object, `(n, 2, 4)`; y points down.
        phases: Shift of the texture in pixels, x and y, `(n, 2, 2)`.
        tints: What is added to the colour of each object, `(n, 2, 3)`.
    """

    objects: Tensor
    colours: Tensor
    style: Tensor
    background: Tensor
    places: Tensor
    phases: Tensor
    tints: Tensor

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.style)

    def __getitem__(self, index: slice | Tensor) -> Scenes:
        return Scenes(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def count(self) -> Tensor:
        """Number of objects, 1 or 2, `(n,)`."""
        return 1 + (self.objects[:, 1] != NONE).long()

    @property
    def held_out(self) -> Tensor:
        """Whether the first object's object, colour and style never meet in a training image, `(n,)`."""
        return is_held_out(self.objects[:, 0], self.colours[:, 0], self.style)


@dataclass(frozen=True)
class Scene:
    """One scene in words, for drawing by hand.

    >>> len(Scene("circle", "red").scenes(3, seed=0))
    3
    """

    object: str
    colour: str = "red"
    style: str = "flat"
    background: str = "white"
    second_object: str | None = None
    second_colour: str | None = None

    def scenes(self, n: int, *, seed: int) -> Scenes:
        """N drawings of this scene, which differ in place, size, angle, texture and tint.

        Raises:
            InputError: If a word is no concept, or of another factor.
        """
        words = {"object": self.object, "colour": self.colour, "style": self.style, "background": self.background}
        label = {factor: _label(factor, word) for factor, word in words.items()}
        other = NONE if self.second_object is None else _label("object", self.second_object)
        tone = label["colour"] if self.second_colour is None else _label("colour", self.second_colour)
        generator = torch.Generator().manual_seed(seed)
        objects = torch.tensor([[label["object"], other]]).expand(n, 2)
        colours = torch.tensor([[label["colour"], tone]]).expand(n, 2)
        style, background = (torch.full((n,), label[f]) for f in ("style", "background"))
        return _laid_out(objects, colours, style, background, generator)


def sample_scenes(
    n: int,
    *,
    generator: torch.Generator,
    without: Sequence[str] = (),
    two_objects: float = TWO_OBJECTS,
    held_out: bool = True,
    balanced: bool = False,
) -> Scenes:
    """Draw scenes.

    Args:
        n: How many.
        generator: Source of all randomness.
        without: Concepts that are never drawn.
        two_objects: Share of scenes with two objects, left and right of each other.
        held_out: Whether the combinations that training leaves out may occur.
        balanced: Draw rare concepts as often as others.

    Raises:
        InputError: If n is not positive, a name is no concept, or nothing of a factor is left.
    """
    check_positive_int(n, "n")
    gone = {concept(name).name for name in without}
    draw = {factor: _weights(values, gone, balanced) for factor, values in FACTORS.items()}
    objects = _draw(draw["object"], 2 * n, generator).reshape(n, 2)
    colours = _draw(draw["colour"], 2 * n, generator).reshape(n, 2)
    style, background = _draw(draw["style"], n, generator), _draw(draw["background"], n, generator)
    if not held_out:
        colours = torch.where(
            is_held_out(objects[:, :1], colours[:, :1], style[:, None]), _next_colour(colours, gone), colours
        )
    single = torch.rand(n, generator=generator) >= two_objects
    objects = torch.stack([objects[:, 0], torch.where(single, NONE, objects[:, 1])], 1)
    return _laid_out(objects, colours, style, background, generator)


def is_held_out(objects: Tensor, colours: Tensor, styles: Tensor) -> Tensor:
    """The one combination in sixteen of object, colour and style that no training image has."""
    return (3 * objects + 5 * colours + 7 * styles) % 16 == 0


def _next_colour(colours: Tensor, gone: set[str]) -> Tensor:
    """The next colour that is drawn; five more modulo sixteen is never held out when the first was."""
    names = [c.name for c in COLOURS]
    following = (colours + 1) % len(names)
    if gone & set(names):
        kept = torch.tensor([name not in gone for name in names])
        following = torch.where(kept[following], following, (following + 1) % len(names))
    return following


def _laid_out(
    objects: Tensor, colours: Tensor, style: Tensor, background: Tensor, generator: torch.Generator
) -> Scenes:
    n = len(style)
    u = torch.rand(n, 2, 9, generator=generator)
    two = (objects[:, 1] != NONE)[:, None]
    side = torch.tensor([-7.4, 7.4]).expand(n, 2)
    swap = torch.where(u[:, :1, 8] < 0.5, -1.0, 1.0)
    x = torch.where(two, 15.5 + swap * side + (u[..., 0] - 0.5), 15.5 + 5 * (u[..., 0] - 0.5))
    y = torch.where(two, 15.5 + 8 * (u[..., 1] - 0.5), 15.5 + 5 * (u[..., 1] - 0.5))
    radius = torch.where(two, 6.3 + 0.7 * u[..., 2], 9.5 + 3 * u[..., 2])
    angle = 0.3 * (u[..., 3] - 0.5)
    return Scenes(
        objects=objects,
        colours=colours,
        style=style,
        background=background,
        places=torch.stack([x, y, radius, angle], -1),
        phases=u[..., 4:6] * 12,
        tints=0.08 * (torch.rand(n, 2, 3, generator=generator) - 0.5),
    )


def _weights(values: Sequence[Concept], gone: set[str], balanced: bool) -> Tensor:
    weights = torch.tensor([0.0 if c.name in gone else 1.0 if balanced else c.weight for c in values])
    if not weights.any():
        raise InputError(f"without={sorted(gone)} leaves no {values[0].factor}: leave one of its values out at most")
    return weights


def _draw(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def _label(factor: str, word: str) -> int:
    found = concept(word)
    if found.factor != factor:
        names = ", ".join(c.name for c in FACTORS[factor])
        raise InputError(f"{word!r} is a value of {found.factor}: write one of {factor}, {names}")
    return index_of(word)
