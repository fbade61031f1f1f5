"""Signed distances of the ten objects: negative inside, in units of the object's radius, y pointing down.

Formulas of the star and the heart: Inigo Quilez, "2D distance functions" (iquilezles.org/articles/distfunctions2d).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def circle(x: Tensor, y: Tensor) -> Tensor:
    """Disc of radius 0.95."""
    return torch.hypot(x, y) - 0.95


def ellipse(x: Tensor, y: Tensor) -> Tensor:
    """Axes 1.1 and 0.58, lying; distance to first order."""
    a, b = 1.1, 0.58
    k = torch.hypot(x / a, y / b)
    gradient = torch.hypot(x / a**2, y / b**2).clamp_min(1e-6)
    return k * (k - 1) / gradient


def ring(x: Tensor, y: Tensor) -> Tensor:
    """Radii 0.46 and 1."""
    return (torch.hypot(x, y) - 0.73).abs() - 0.27


def square(x: Tensor, y: Tensor) -> Tensor:
    """Side 1.64."""
    return _box(x, y, 0.82, 0.82)


def rectangle(x: Tensor, y: Tensor) -> Tensor:
    """Sides 2.2 and 1.1, lying."""
    return _box(x, y, 1.1, 0.55)


def diamond(x: Tensor, y: Tensor) -> Tensor:
    """Rhombus with diagonals 1.44 and 2.3, standing."""
    a, b = 0.72, 1.15
    return (x.abs() / a + y.abs() / b - 1) * (a * b / math.hypot(a, b))


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral, point up; outside its corners the distance is to the nearest side's line."""
    y = y - 0.2
    slope = math.sqrt(3) / 2
    return torch.maximum(y, torch.maximum(slope * x, -slope * x) - y / 2) - 0.58


def star(x: Tensor, y: Tensor) -> Tensor:
    """Five points, one of them up."""
    outer, ratio = 1.15, 0.45
    x, y = x.abs(), -y
    for kx, ky in ((0.809016994375, -0.587785252292), (-0.809016994375, -0.587785252292)):
        fold = 2 * (kx * x + ky * y).clamp_min(0)
        x, y = x - fold * kx, y - fold * ky
    x, y = x.abs(), y - outer
    bx, by = ratio * 0.587785252292, ratio * 0.809016994375 - 1
    h = ((x * bx + y * by) / (bx * bx + by * by)).clamp(0, outer)
    return torch.hypot(x - bx * h, y - by * h) * torch.sign(y * bx - x * by)


def cross(x: Tensor, y: Tensor) -> Tensor:
    """Two bars, upright."""
    return torch.minimum(_box(x, y, 1.0, 0.34), _box(x, y, 0.34, 1.0))


def heart(x: Tensor, y: Tensor) -> Tensor:
    """Point down."""
    scale = 1.75
    x, y = x.abs() / scale, -y / scale + 0.52
    corner = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    along = 0.5 * (x + y).clamp_min(0)
    side = torch.minimum(torch.hypot(x, y - 1), torch.hypot(x - along, y - along)) * torch.sign(x - y)
    return scale * torch.where(x + y > 1, corner, side)


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) + torch.maximum(dx, dy).clamp_max(0)


DISTANCES: tuple[Distance, ...] = (circle, ellipse, ring, square, rectangle, diamond, triangle, star, cross, heart)
"""In the order of `concepts.OBJECTS`."""
