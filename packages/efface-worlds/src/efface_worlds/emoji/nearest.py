"""A judge that nothing was trained for: which drawing of all comes nearest to a picture, by colours and edges.

It knows pictures of one object. Picture and drawings are cut to what differs from the ground, brought to one size, and
compared at three scales; an image's distance is as large as the mean distance between unlike drawings is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from efface_worlds.emoji.concepts import CONCEPTS, STYLES, TONES, concept, index_of, named_by
from efface_worlds.emoji.drawing import ground_colours, render
from efface_worlds.emoji.judge import spoken
from efface_worlds.emoji.scenes import NONE, SIZE, Scenes
from efface_worlds.shapes.judge import check_images

SCALES = (2, 4, 8)
"""Pixels over which colours and edges are averaged."""

NEAR = 0.6
"""Distance beyond which nothing is said: one in a hundred held-out renderings of small objects is so far."""

_DIFFERS = 0.12  # how far a pixel's colour is from the ground's, in one channel, where there is an object
_EDGES = 2.0  # weight of edges against colours
_BATCH = 256
_WIDTH = 40


@dataclass(frozen=True)
class Nearest:
    """The drawings nearest to n pictures, each concept once, nearest first.

    Attributes:
        object: Labels of the five nearest concepts, `(n, 5)`.
        distance: Their distances, `(n, 5)`.
        style: Label of the style of the nearest drawing, `(n,)`.
        tone: Label of its skin tone, or `NONE`, `(n,)`.
        background: Label of the ground, `(n,)`.
    """

    object: Tensor
    distance: Tensor
    style: Tensor
    tone: Tensor
    background: Tensor

    def __len__(self) -> int:
        return len(self.object)

    @property
    def known(self) -> Tensor:
        """Whether the nearest is near enough to say anything, `(n,)`."""
        return self.distance[:, 0] <= NEAR

    def shows(self, *names: str) -> Tensor:
        """Whether the nearest drawing shows all of these: 1, 0, or NaN where it is too far, `(n,)`.

        Raises:
            InputError: If nothing is called that.
        """
        found = torch.ones(len(self), dtype=torch.bool)
        for name in names:
            meant = named_by(name)
            factor = concept(meant[0]).factor
            labels: Tensor = getattr(self, factor)
            found &= torch.isin(labels[:, 0] if factor == "object" else labels, torch.tensor([*map(index_of, meant)]))
        return torch.where(self.known, found.float(), torch.nan)


@dataclass(frozen=True)
class NearestJudge:
    """Untrained, and so independent of all that is: asks which of all drawings comes nearest to a picture.

    Its domain: one large object. Two objects are taken for one, which is then too far to say, or wrong; small ones are
    blurred. How often it is right stands under `measured` in `weights/training.json`.
    """

    def __call__(self, images: Tensor, name: str) -> Tensor:
        """Whether each picture shows a concept, `(n,)`: 1, 0, or NaN where it cannot say; as `Judge`.

        Raises:
            InputError: If the pictures are none of 48 x 48 in [0, 1], or nothing is called that.
        """
        return self.judge(images).shows(*spoken(name))

    @torch.no_grad()
    def judge(self, images: Tensor) -> Nearest:
        """The nearest drawings of pictures `(n, 3, 48, 48)` in [0, 1].

        Raises:
            InputError: If the pictures have another shape or are not in [0, 1].
        """
        check_images(images, size=SIZE)
        images = images.float()
        ground = _ground(images)
        background = (ground[:, None] - ground_colours()).square().sum(-1).argmin(1)
        order, found = [], []
        for each in background.unique().tolist():
            rows = (background == each).nonzero()[:, 0]
            drawn = _drawings(each)
            for part in rows.split(_BATCH):
                order.append(part)
                found.append(_nearest(_seen(images[part], ground[part]), drawn))
        back = torch.cat(order).argsort()
        objects, distances, style, tone = (torch.cat(parts)[back] for parts in zip(*found, strict=True))
        return Nearest(objects, distances, style, tone, background)


def _nearest(seen: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels and distances of the five nearest concepts; style and tone of the nearest drawing."""
    objects, style, tone = _all()
    far = torch.cdist(seen, drawn)
    best = torch.full((len(seen), len(CONCEPTS)), torch.inf).scatter_reduce(
        1, objects.expand(len(seen), -1), far, "amin"
    )
    distances, labels = best.topk(5, largest=False)
    first = far.argmin(1)
    return labels, distances, style[first], tone[first]


@cache
def _all() -> tuple[Tensor, Tensor, Tensor]:
    """Label, style and tone of every drawing there is."""
    rows = [
        (label, style, tone)
        for style, drawn_by in enumerate(STYLES)
        for label, value in enumerate(CONCEPTS)
        for tone in (NONE, *(range(len(TONES)) if value.profession and drawn_by.name != "black and white" else ()))
    ]
    label, style, tone = torch.tensor(rows).unbind(1)
    return label, style, tone


@cache
def _drawings(background: int) -> Tensor:
    """Every drawing on one of the grounds, as it is compared."""
    objects, style, tone = _all()
    n = len(objects)
    none = torch.full((n,), NONE)
    edge = (SIZE - _WIDTH) // 2
    scenes = Scenes(
        torch.stack([objects, none], 1),
        torch.stack([tone, none], 1),
        style,
        torch.full((n,), background),
        torch.zeros(n, dtype=torch.bool),
        torch.zeros(n, dtype=torch.long),
        torch.tensor([edge, edge, _WIDTH]).expand(n, 2, -1),
        torch.zeros(n, 3),
    )
    parts = (render(scenes[i : i + _BATCH]) for i in range(0, n, _BATCH))
    return torch.cat([_seen(part, _ground(part)) for part in parts])


def _ground(images: Tensor) -> Tensor:
    """The colour of the ground: the median of the border, `(n, 3)`."""
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], -1)
    return border.median(-1).values


def _seen(images: Tensor, ground: Tensor) -> Tensor:
    """As they are compared: less their ground, cut to the object, colours and edges at each scale, `(n, d)`."""
    rest = images - ground[:, :, None, None]
    there = (F.avg_pool2d(rest.abs().amax(1, keepdim=True), 3, 1, 1) > _DIFFERS)[:, 0]
    across, down = _extent(there.any(1)), _extent(there.any(2))
    size = torch.maximum(across[1], down[1])
    zero = torch.zeros_like(size)
    theta = torch.stack([size, zero, across[0], zero, size, down[0]], 1).unflatten(1, (2, 3))
    grid = F.affine_grid(theta, list(rest.shape), align_corners=False)
    rest = F.grid_sample(rest, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    light = rest.mean(1, keepdim=True)
    edges = torch.cat([F.pad(light.diff(dim=-1), (0, 1)), F.pad(light.diff(dim=-2), (0, 0, 0, 1))], 1)
    strength = torch.cat([edges.clamp_min(0), (-edges).clamp_min(0)], 1)
    parts = [F.avg_pool2d(torch.cat([rest, _EDGES * strength], 1), k).flatten(1) * k for k in SCALES]
    return torch.cat(parts, 1) / SIZE


def _extent(there: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half of the width of what is there, of pixels in a row, as parts of the picture in [-1, 1]."""
    some = there.any(1, keepdim=True)
    there = there | ~some
    first = there.float().argmax(1)
    last = there.shape[1] - there.flip(1).float().argmax(1)
    return (first + last) / there.shape[1] - 1, (last - first) / there.shape[1]
