"""Scenes: what is to be seen in each picture, as tensors, drawn by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_positive_int
from efface_worlds.emoji.concepts import BACKGROUNDS, CONCEPTS, STYLES, TONES, Concept, named_by

SIZE = 48
"""Pixels a side of a picture."""

NONE = -1
"""Label of an object or skin tone that is not there."""

PLACES = ("centre", "left", "right", "top", "bottom")
"""Where a small object is; the label of a large one is "centre"."""

TWO_OBJECTS, SMALL = 0.12, 0.12
"""Shares of scenes with two objects, and with one small object."""

TONED = 0.5
"""Share of people who have a skin tone other than the yellow of emoji, in designs that have tones."""

_TONELESS = next(i for i, style in enumerate(STYLES) if style.name == "black and white")


@dataclass(frozen=True)
class Scenes:
    """n scenes.

    Attributes:
        objects: Labels of the first and second object, `(n, 2)`; the second is `NONE` in scenes of one.
        tones: Labels of their skin tones, `(n, 2)`; `NONE` for what is not a person, and for yellow.
        style: Label of the designer, whom both objects share, `(n,)`.
        background: `(n,)`.
        small: Whether the one object is small, `(n,)`.
        place: Label of where it is, `(n,)`.
        places: Left and upper edge and width of each object in pixels, `(n, 2, 3)`.
        tints: What is added to the background, `(n, 3)`.
    """

    objects: Tensor
    tones: Tensor
    style: Tensor
    background: Tensor
    small: Tensor
    place: Tensor
    places: Tensor
    tints: Tensor

    def __len__(self) -> int:
        return len(self.style)

    def __getitem__(self, index: slice | Tensor) -> Scenes:
        return Scenes(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def count(self) -> Tensor:
        """Number of objects, 1 or 2, `(n,)`."""
        return 1 + (self.objects[:, 1] != NONE).long()


def sample_scenes(
    n: int,
    *,
    generator: torch.Generator,
    without: Sequence[str] = (),
    two_objects: float = TWO_OBJECTS,
    small: float = SMALL,
    balanced: bool = False,
    jitter: float = 1.0,
) -> Scenes:
    """Draw scenes.

    Args:
        n: How many.
        generator: Source of all randomness.
        without: Concepts, subgroups, groups, professions, styles or backgrounds that are never drawn.
        two_objects: Share of scenes with two objects, left and right of each other.
        small: Share of scenes with one small object.
        balanced: Draw rare concepts as often as others.
        jitter: How far sizes and places stray that no caption tells; 0 has one of each, and the first object left.

    Raises:
        InputError: If n is not positive, a name is unknown, or nothing is left to draw.
    """
    check_positive_int(n, "n")
    gone = {name for given in without for name in named_by(given)}
    objects = _draw(_weights(CONCEPTS, gone, balanced), 2 * n, generator).reshape(n, 2)
    style = _draw(_weights(STYLES, gone, True), n, generator)
    background = _draw(_weights(BACKGROUNDS, gone, True), n, generator)
    u = torch.rand(n, 12, generator=generator)
    two, little = u[:, 0] < two_objects, u[:, 0] >= 1 - small
    objects = torch.stack([objects[:, 0], torch.where(two, objects[:, 1], NONE)], 1)
    tones = torch.randint(0, len(TONES), (n, 2), generator=generator)
    return laid_out(
        objects, _tones(objects, tones, style, u[:, 1:3], gone), style, background, little, u[:, 3:], jitter
    )


def laid_out(
    objects: Tensor, tones: Tensor, style: Tensor, background: Tensor, small: Tensor, u: Tensor, jitter: float = 1.0
) -> Scenes:
    """Scenes of these labels, with places drawn from `u`, `(n, 9)`, uniform in [0, 1)."""
    strays = 0.5 + jitter * (u[:, 1:6] - 0.5)
    u = torch.cat([u[:, :1], strays, u[:, 6:]], 1)
    two = objects[:, 1] != NONE
    small = small & ~two
    place = torch.where(small, (u[:, 0] * len(PLACES)).long(), 0)
    large = 36 + (u[:, 1] * 9).long()
    width = torch.where(two, 20 + (u[:, 1] * 4).long(), torch.where(small, 18 + (u[:, 1] * 6).long(), large))
    shaken = torch.where((two | small)[:, None], 5 * (u[:, 2:6] - 0.5), (SIZE - large)[:, None] * (u[:, 2:6] - 0.5))
    side = torch.where((u[:, 6] < 0.5) | (jitter == 0), -12.0, 12.0)
    shift = torch.tensor([[0, 0], [-12, 0], [12, 0], [0, -12], [0, 12]])[place].float()
    x = (
        torch.stack([shift[:, 0] + torch.where(two, side, 0), -side], 1)
        + shaken[:, :2] * torch.where(two, 0.3, 1)[:, None]
    )
    y = torch.stack([shift[:, 1], torch.zeros_like(side)], 1) + shaken[:, 2:4]
    widths = width[:, None].expand(-1, 2)
    edges = (torch.stack([x, y], -1) + SIZE / 2 - widths[..., None] / 2).round().long()
    edges = torch.minimum(edges.clamp(min=0), SIZE - widths[..., None])
    tints = 0.06 * (torch.stack([u[:, 6], u[:, 7], u[:, 8]], 1) - 0.5)
    return Scenes(objects, tones, style, background, small, place, torch.cat([edges, widths[..., None]], -1), tints)


def _tones(objects: Tensor, tones: Tensor, style: Tensor, u: Tensor, gone: set[str]) -> Tensor:
    people = torch.tensor([bool(c.profession) for c in CONCEPTS])
    left = torch.tensor([tone.name not in gone for tone in TONES])
    has = people[objects] & (objects != NONE) & (style != _TONELESS)[:, None] & (u < TONED) & left[tones]
    return torch.where(has, tones, NONE)


def _weights(values: Sequence[Concept], gone: set[str], balanced: bool) -> Tensor:
    weights = torch.tensor([0.0 if c.name in gone else 1.0 if balanced else c.weight for c in values])
    if not weights.any():
        raise InputError(f"without={sorted(gone)} leaves no {values[0].factor}: leave fewer of them out")
    return weights


def _draw(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return torch.multinomial(weights, n, replacement=True, generator=generator)
