"""Stage `vae`: an autoencoder with four latent channels on a 12 x 12 grid, cheap to decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._lazy import require
from efface_worlds.emoji.drawing import render
from efface_worlds.emoji.scenes import SIZE, sample_scenes
from efface_worlds.shapes.training.autoencoder import gradient_loss
from efface_worlds.shapes.training.loop import Recipe, train

RECIPE = Recipe(
    "vae", steps=2400, batch=32, learning_rate=2e-3, flat_until=0.4, weight_decay=0.0, average=0.995, seed=3
)
CHANNELS = (16, 48, 96)
_KL = 3e-4
_GRADIENT = 0.5


def build_autoencoder() -> Any:
    """The untrained autoencoder: 48 x 48 x 3 to 12 x 12 x 4."""
    kl = require("diffusers", extra="diffusion").AutoencoderKL
    return kl(
        3,
        3,
        ("DownEncoderBlock2D",) * len(CHANNELS),
        ("UpDecoderBlock2D",) * len(CHANNELS),
        CHANNELS,
        1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def train_autoencoder(
    folder: Path, recipe: Recipe = RECIPE, device: str = "cpu", **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Train it on drawn scenes; returns it with the facts for `training.json`.

    The loss is L1 on pixels and on their differences, plus the divergence of the latents from a standard normal.
    Activations are in bfloat16, which is twice as fast on processors that have it; weights stay in float32.
    """
    torch.manual_seed(recipe.seed)
    vae = build_autoencoder().to(device, memory_format=torch.channels_last)

    def loss(step: int) -> Tensor:
        generator = recipe.generator(step)
        scenes = sample_scenes(recipe.batch, generator=generator, two_objects=0.25, small=0.2, balanced=True)
        x = (render(scenes) * 2 - 1).to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            mean, std, kl = posterior.mean.float(), posterior.std.float(), posterior.kl().float()
            noise = torch.randn(mean.shape, generator=generator).to(device)
            y = vae.decode(mean + std * noise).sample.float()
        return F.l1_loss(y, x) + _GRADIENT * gradient_loss(y, x) + _KL * kl.mean() / mean[0].numel()

    facts = train(vae, loss, recipe, folder, **options)
    vae = vae.cpu().to(memory_format=torch.contiguous_format)
    vae.register_to_config(scaling_factor=_scaling(vae))
    return vae, facts


@torch.no_grad()
def _scaling(vae: Any) -> float:
    """One over the standard deviation of latents."""
    scenes = sample_scenes(1000, generator=torch.Generator().manual_seed(11))
    parts = render(scenes).split(100)
    return round(1 / float(torch.cat([vae.encode(x * 2 - 1).latent_dist.mean for x in parts]).std()), 5)
