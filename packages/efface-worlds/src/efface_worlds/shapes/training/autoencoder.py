"""Stage `vae`: an autoencoder with four latent channels on a 16 x 16 grid, small and cheap to decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._lazy import require
from efface_worlds.shapes.drawing import SIZE, render
from efface_worlds.shapes.scenes import sample_scenes
from efface_worlds.shapes.training.loop import Recipe, train

RECIPE = Recipe("vae", steps=2200, batch=32, learning_rate=2e-3, flat_until=0.4, weight_decay=0.0, average=0.99, seed=3)
_KL = 1e-3
_GRADIENT = 0.5


def build_autoencoder() -> Any:
    """The untrained autoencoder: 32 x 32 x 3 to 16 x 16 x 4."""
    kl = require("diffusers", extra="diffusion").AutoencoderKL
    channels = (16, 32)
    return kl(
        3,
        3,
        ("DownEncoderBlock2D",) * len(channels),
        ("UpDecoderBlock2D",) * len(channels),
        channels,
        1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def train_autoencoder(
    folder: Path, recipe: Recipe = RECIPE, device: str = "cpu", **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Train it on renderings; returns it with the facts for `training.json`.

    The loss is L1 on pixels and on their differences, plus the divergence of the latents from a standard normal.
    """
    torch.manual_seed(recipe.seed)
    vae = build_autoencoder().to(device)

    def loss(step: int) -> Tensor:
        generator = recipe.generator(step)
        scenes = sample_scenes(recipe.batch, generator=generator, two_objects=0.25, balanced=True)
        x = (render(scenes) * 2 - 1).to(device)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        y = vae.decode(posterior.mean + posterior.std * noise).sample
        return (
            F.l1_loss(y, x) + _GRADIENT * gradient_loss(y, x) + _KL * posterior.kl().mean() / posterior.mean[0].numel()
        )

    facts = train(vae, loss, recipe, folder, **options)
    vae.cpu().register_to_config(scaling_factor=_scaling(vae))
    return vae, facts


def gradient_loss(y: Tensor, x: Tensor) -> Tensor:
    """L1 on differences of neighbouring pixels."""
    return F.l1_loss(y.diff(dim=-1), x.diff(dim=-1)) + F.l1_loss(y.diff(dim=-2), x.diff(dim=-2))


@torch.no_grad()
def _scaling(vae: Any) -> float:
    """One over the standard deviation of latents."""
    scenes = sample_scenes(1000, generator=torch.Generator().manual_seed(11))
    return round(1 / float(vae.encode(render(scenes) * 2 - 1).latent_dist.mean.std()), 5)
