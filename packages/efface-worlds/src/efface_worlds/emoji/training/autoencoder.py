"""Stages `vae` and `decoder`: an autoencoder with four latent channels on a 12 x 12 grid, cheap to decode.

The second trains the decoder alone for longer: latents stay what they were, so that a denoiser of them goes with it.
"""

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
DECODER = Recipe("decoder", steps=1500, batch=32, learning_rate=1e-3, weight_decay=0.0, average=0.995, seed=4)
CHANNELS = (16, 48, 96)
_KL = 3e-4
_GRADIENT = 0.5
_ERRORS = 0.1  # of latents that a denoiser gives, in their standard deviations


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
        x = _pictures(recipe.batch, generator).to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            mean, std, kl = posterior.mean.float(), posterior.std.float(), posterior.kl().float()
            noise = torch.randn(mean.shape, generator=generator).to(device)
            y = vae.decode(mean + std * noise).sample.float()
        return _apart(y, x) + _KL * kl.mean() / mean[0].numel()

    facts = train(vae, loss, recipe, folder, **options)
    vae = vae.cpu().to(memory_format=torch.contiguous_format)
    vae.register_to_config(scaling_factor=_scaling(vae))
    return vae, facts


def train_decoder(
    vae: Any, folder: Path, recipe: Recipe = DECODER, device: str = "cpu", **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Train the decoder alone, on latents as the denoiser learns them: the means; as `train_autoencoder` otherwise.

    Denoisers err, so that a tenth of the latents' spread is noise.
    """
    vae = vae.to(device, memory_format=torch.channels_last).requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    spread = _ERRORS / vae.config.scaling_factor

    def loss(step: int) -> Tensor:
        generator = recipe.generator(step)
        x = _pictures(recipe.batch, generator).to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                mean = vae.encode(x).latent_dist.mean.float()
            noise = torch.randn(mean.shape, generator=generator).to(device)
            y = vae.decode(mean + spread * noise).sample.float()
        return _apart(y, x)

    facts = train(vae, loss, recipe, folder, **options)
    return vae.cpu().to(memory_format=torch.contiguous_format), facts


def _pictures(n: int, generator: torch.Generator) -> Tensor:
    scenes = sample_scenes(n, generator=generator, two_objects=0.25, small=0.2, balanced=True)
    return render(scenes) * 2 - 1


def _apart(y: Tensor, x: Tensor) -> Tensor:
    return F.l1_loss(y, x) + _GRADIENT * gradient_loss(y, x)


@torch.no_grad()
def _scaling(vae: Any) -> float:
    """One over the standard deviation of latents."""
    scenes = sample_scenes(1000, generator=torch.Generator().manual_seed(11))
    parts = render(scenes).split(100)
    return round(1 / float(torch.cat([vae.encode(x * 2 - 1).latent_dist.mean for x in parts]).std()), 5)
