"""What happens to drawn pictures before a judge learns from them, so that it does not depend on how they were drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
"""Pixels a side of what JPEG quantises at a time."""


def augmented(pictures: Tensor, generator: torch.Generator, vae: Any = None, decoded: int = 0) -> Tensor:
    """Each change to some of the pictures; then the first `decoded` of them go through the autoencoder."""
    pictures = pictures.clamp(0, 1)
    for change, share in _CHANGES:
        chosen = (torch.rand(len(pictures), generator=generator) < share).nonzero()[:, 0]
        if len(chosen):
            pictures = pictures.index_copy(0, chosen, change(pictures[chosen], generator).clamp(0, 1))
    if vae is not None and decoded:
        pictures = torch.cat([through(vae, pictures[:decoded], generator), pictures[decoded:]])
    return pictures


@torch.no_grad()
def through(vae: Any, pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pictures as the autoencoder gives them back.

    With a generator, noise of up to .15 of their spread is added to the latents. Activations are in bfloat16.
    """
    with torch.autocast(pictures.device.type, torch.bfloat16):
        latents = vae.encode((pictures * 2 - 1).contiguous(memory_format=torch.channels_last)).latent_dist.mean.float()
        if generator is not None:
            share = 0.15 * torch.rand(len(pictures), 1, 1, 1, generator=generator) / vae.config.scaling_factor
            latents = latents + share * torch.randn(latents.shape, generator=generator)
        return (vae.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)


def moved(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Turned by up to 7 degrees, 8 % larger or smaller, and shifted by up to 2 pixels; the border goes on."""
    n = len(pictures)
    u = 2 * torch.rand(n, 4, generator=generator) - 1
    angle, size = 7 * math.pi / 180 * u[:, 0], 1 + 0.08 * u[:, 1]
    cos, sin = size * angle.cos(), size * angle.sin()
    shift = 2 * 2 / pictures.shape[-1] * u[:, 2:]
    rows = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(rows, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def tinted(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Brighter or darker by up to .06, each colour by up to .03; contrast and saturation 10 % more or less."""
    u = 2 * torch.rand(len(pictures), 6, 1, 1, generator=generator) - 1
    grey, middle = pictures.mean(1, keepdim=True), pictures.mean((1, 2, 3), keepdim=True)
    pictures = grey + (1 + 0.1 * u[:, :1]) * (pictures - grey)
    return middle + (1 + 0.1 * u[:, 1:2]) * (pictures - middle) + 0.06 * u[:, 2:3] + 0.03 * u[:, 3:]


def softened(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Mixed with its mean over 3 x 3 pixels."""
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return pictures + 0.8 * torch.rand(len(pictures), 1, 1, 1, generator=generator) * (soft - pictures)


def grained(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """With noise of up to .06 in each pixel."""
    share = 0.06 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return pictures + share * torch.randn(pictures.shape, generator=generator)


def quantised(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Cosines of each 8 x 8 block rounded, high ones more coarsely, as JPEG does."""
    k = torch.arange(BLOCK)
    basis = torch.cos(math.pi / BLOCK * (k + 0.5) * k[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    blocks = pictures.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)
    waves = basis @ blocks @ basis.T
    step = 0.05 * torch.rand(len(pictures), 1, 1, 1, 1, 1, generator=generator) * (1 + 0.6 * (k + k[:, None]))
    step = step.clamp_min(1e-3)
    blocks = basis.T @ ((waves / step).round() * step) @ basis
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)


_CHANGES: tuple[tuple[Callable[[Tensor, torch.Generator], Tensor], float], ...] = (
    (moved, 0.6),
    (tinted, 0.6),
    (softened, 0.3),
    (grained, 0.3),
    (quantised, 0.2),
)
