"""Drawing scenes: 32 x 32 RGB, antialiased from signed distances; the same scenes give the same bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from efface_worlds.shapes.concepts import STYLES
from efface_worlds.shapes.distances import DISTANCES
from efface_worlds.shapes.scenes import NONE, Scenes

SIZE = 32

_COLOURS = torch.tensor(
    [
        [0.86, 0.10, 0.12],
        [1.00, 0.55, 0.05],
        [0.96, 0.90, 0.12],
        [0.10, 0.60, 0.18],
        [0.10, 0.82, 0.86],
        [0.12, 0.22, 0.88],
        [0.54, 0.12, 0.64],
        [0.46, 0.26, 0.08],
    ]
)
_TOP = torch.tensor(
    [[1, 1, 1], [0.04, 0.04, 0.04], [0.55, 0.55, 0.55], [1, 0.76, 0.82], [0.7, 0.95, 0.8], [0.4, 0.66, 1]]
)
_BOTTOM = torch.cat([_TOP[:-1], torch.tensor([[0.96, 0.98, 1]])])
_DARK = 0.3  # brightness of a texture's second tone
_STRIPES, _DOTS = 6.4, 6.0  # periods in pixels: large enough to survive the autoencoder
_BORDER = 2.3  # pixels
_FLAT, _STRIPED, _DOTTED, _QUARTERED, _OUTLINED, _SHADED = range(len(STYLES))


def render(scenes: Scenes) -> Tensor:
    """Draw scenes.

    Returns:
        Images in [0, 1], `(n, 3, 32, 32)`, float32.
    """
    ramp = torch.linspace(0, 1, SIZE)[None, None, :, None]
    top, bottom = (tones[scenes.background][:, :, None, None] for tones in (_TOP, _BOTTOM))
    image = (top * (1 - ramp) + bottom * ramp).expand(-1, -1, -1, SIZE)
    return paint(paint(image, scenes, 0), scenes, 1).clamp(0, 1)


def paint(images: Tensor, scenes: Scenes, which: int) -> Tensor:
    """Draw the first or the second object of each scene over an image, where there is one."""
    images = images.clone()
    there = (scenes.objects[:, which] != NONE).nonzero()[:, 0]
    if len(there):
        images[there] = _painted(images[there], scenes[there], which)
    return images


def _painted(image: Tensor, scenes: Scenes, which: int) -> Tensor:
    x, y = _own_coordinates(scenes.places[:, which])
    radius = scenes.places[:, which, 2, None, None]
    distance = _distances(scenes.objects[:, which], x / radius, y / radius) * radius
    outlined = (scenes.style == _OUTLINED)[:, None, None]
    distance = torch.where(outlined, (distance + _BORDER / 2).abs() - _BORDER / 2, distance)
    cover = (0.5 - distance).clamp(0, 1)[:, None]
    colour = (_COLOURS[scenes.colours[:, which]] + scenes.tints[:, which]).clamp(0, 1)[:, :, None, None]
    return image * (1 - cover) + cover * _textured(colour, scenes.style, x, y, radius, scenes.phases[:, which])


def _own_coordinates(places: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates from the object's centre, turned by its angle, `(n, 32, 32)` each."""
    centre_x, centre_y, _, angle = places[:, :, None, None].unbind(1)
    axis = torch.arange(SIZE, dtype=torch.float32)
    x, y = axis[None, None, :] - centre_x, axis[None, :, None] - centre_y
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _distances(objects: Tensor, x: Tensor, y: Tensor) -> Tensor:
    result = torch.empty_like(x)
    for label, distance in enumerate(DISTANCES):
        rows = (objects == label).nonzero()[:, 0]
        if len(rows):
            result[rows] = distance(x[rows], y[rows])
    return result


def _textured(colour: Tensor, style: Tensor, x: Tensor, y: Tensor, radius: Tensor, phases: Tensor) -> Tensor:
    """Colour of each pixel of an object, `(n, 3, 32, 32)`."""
    dark = torch.zeros_like(x)
    u, v = x + phases[:, 0, None, None], y + phases[:, 1, None, None]
    for label, texture in ((_STRIPED, _stripes), (_DOTTED, _dots)):
        rows = (style == label).nonzero()[:, 0]
        if len(rows):
            dark[rows] = texture(u[rows], v[rows])
    # Not checks: these are two waves that cross, and small denoisers draw one of them only, which are stripes.
    quartered = (style == _QUARTERED)[:, None, None]
    dark = torch.where(quartered, _edge((x * y) / (x.abs() + y.abs() + 1e-6), 1.0), dark)
    tone = colour * (1 - (1 - _DARK) * dark[:, None])
    light = ((x + y) / (2.4 * radius)).clamp(-1, 1)[:, None]  # -1 where the light comes from
    shaded = torch.where(light < 0, colour - 0.75 * light * (1 - colour), colour * (1 - 0.75 * light))
    return torch.where((style == _SHADED)[:, None, None, None], shaded, tone)


def _stripes(u: Tensor, v: Tensor) -> Tensor:
    return _edge(((u + v) * (2 * math.pi / (_STRIPES * math.sqrt(2)))).sin(), _STRIPES / (2 * math.pi))


def _dots(u: Tensor, v: Tensor) -> Tensor:
    du, dv = (torch.remainder(w, _DOTS) - _DOTS / 2 for w in (u, v))
    return (0.5 - (torch.hypot(du, dv) - 1.75)).clamp(0, 1)


def _edge(wave: Tensor, pixels: float) -> Tensor:
    """Step of a wave at zero, softened over a pixel; `pixels` is one over the wave's slope there."""
    return (0.5 + wave * pixels).clamp(0, 1)
