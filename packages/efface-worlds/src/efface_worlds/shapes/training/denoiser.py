"""Stages `unet`, `seed2` and `gold:NAME`: the denoiser, and the same denoiser that never saw one concept.

It predicts v = alpha eps - sigma x0 (Salimans and Ho, arXiv:2202.00512, appendix D) in latents, conditioned by
cross-attention on the frozen text encoder at 8 x 8 and 4 x 4. A gold model differs in one thing only: images that
show the concept, and so their captions, are not in its training set.

Textures are learned last: they are a small part of the loss. So striped, dotted and quartered images are drawn more
often than others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._lazy import require
from efface_worlds.shapes.concepts import STYLES
from efface_worlds.shapes.networks import WIDTH
from efface_worlds.shapes.scenes import Scenes
from efface_worlds.shapes.training.latents import LatentSet
from efface_worlds.shapes.training.loop import Recipe, train

RECIPE = Recipe("unet", steps=6000, batch=64, learning_rate=1.2e-3, flat_until=0.35, warmup=100, average=0.998, seed=7)
PATTERNED = 2.0
"""How much more often images with a pattern are drawn."""

CHANNELS = (24, 48, 96)
_EMPTY = 0.1  # share of prompts that are dropped, for guidance


def build_denoiser(channels: tuple[int, ...] = CHANNELS) -> Any:
    """The untrained denoiser of 16 x 16 x 4 latents; no attention at 16 x 16, where it would cost most."""
    unet = require("diffusers", extra="diffusion").UNet2DConditionModel
    crossing = len(channels) - 1
    return unet(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * crossing),
        up_block_types=(*("CrossAttnUpBlock2D",) * crossing, "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers takes this for the number of heads
        norm_num_groups=8,
    )


def build_scheduler() -> Any:
    """DDIM with Stable Diffusion's noise schedule, v-prediction."""
    return require("diffusers", extra="diffusion").DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def train_denoiser(
    data: LatentSet,
    folder: Path,
    recipe: Recipe = RECIPE,
    *,
    device: str = "cpu",
    patterned: float = PATTERNED,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Train it on `data`; returns it, with averaged weights, and the facts for `training.json`.

    Args:
        data: Latents and captions.
        folder: Where checkpoints are written.
        recipe: How.
        device: Where.
        patterned: How often images with a pattern are drawn, relative to others.
        options: For the loop.
    """
    torch.manual_seed(recipe.seed)
    unet = build_denoiser().to(device)
    weights = torch.where(_patterned(data.scenes), patterned, 1.0)
    alphas = build_scheduler().alphas_cumprod
    n, captions = data.texts.shape

    def loss(step: int) -> Tensor:
        generator = recipe.generator(step)
        chosen = torch.multinomial(weights, recipe.batch, replacement=True, generator=generator)
        told = data.texts[chosen, torch.randint(0, captions, (recipe.batch,), generator=generator)]
        told = torch.where(torch.rand(recipe.batch, generator=generator) < _EMPTY, 0, told)
        times = torch.randint(0, len(alphas), (recipe.batch,), generator=generator)
        x0 = data.latents[chosen]
        noisy, target = noised(x0, alphas[times], generator)
        v = unet(noisy.to(device), times.to(device), data.embeddings[told].float().to(device)).sample
        return F.mse_loss(v, target.to(device))

    facts = train(unet, loss, recipe, folder, **options)
    return unet.cpu(), facts | {"images": n, "patterned": patterned}


def noised(x0: Tensor, alphas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents `(n, c, h, w)` with noise, and the v that is to be predicted of them.

    Args:
        x0: The latents.
        alphas: Cumulative products of the schedule at the time of each, `(n,)`.
        generator: Source of the noise.
    """
    eps = torch.randn(x0.shape, generator=generator)
    alpha, sigma = (a.sqrt()[:, None, None, None] for a in (alphas, 1 - alphas))
    return alpha * x0 + sigma * eps, alpha * eps - sigma * x0


def _patterned(scenes: Scenes) -> Tensor:
    labels = torch.tensor([i for i, style in enumerate(STYLES) if style.family == "pattern"])
    return torch.isin(scenes.style, labels)
