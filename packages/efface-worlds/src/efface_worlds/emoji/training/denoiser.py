"""Stages `unet`, `seed2` and the gold models: the denoiser, and the same denoiser that never saw something.

It predicts v = alpha eps - sigma x0 (Salimans and Ho, arXiv:2202.00512, appendix D) in latents, conditioned by
cross-attention on the frozen text encoder at 6 x 6 and 3 x 3.

What a prompt asks for is learned first where nothing else is: from plain captions, which tell all that is to be seen
(half of the things that have other words by one of these), and from latents that are mostly noise. In the rest of the
steps, of less noise, eleven captions of sixteen may be any: whoever reads plain ones alone draws nothing that is asked
for in another order, or at length.

A gold model begins with other weights and lacks the images that show what it must not know, and so their captions.
Everything else of it is the denoiser's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._lazy import require
from efface_worlds.emoji.scenes import NONE
from efface_worlds.emoji.text import WIDTH
from efface_worlds.emoji.training.latents import LatentSet
from efface_worlds.shapes.training.denoiser import build_scheduler, noised
from efface_worlds.shapes.training.loop import Recipe, train

RECIPE = Recipe("unet", steps=12_000, batch=64, learning_rate=1e-3, flat_until=0.5, warmup=200, average=0.998, seed=7)

CHANNELS = (64, 128, 176)
_CROSSING = 2  # levels that read the text: the coarsest, where it costs least
_EMPTY = 0.1  # share of prompts that are dropped, for guidance
_PLAIN = 0.6  # share of the steps, the first, that read plain captions of single large objects
_STILL_PLAIN = 0.3125  # share of a batch that reads them after that
_NOISY_PLAIN, _NOISY = 0.25, 0.6  # below 1, more steps of much noise, where what the prompt says is all that there is


def build_denoiser(channels: tuple[int, ...] = CHANNELS) -> Any:
    """The untrained denoiser of 12 x 12 x 4 latents."""
    unet = require("diffusers", extra="diffusion").UNet2DConditionModel
    plain = len(channels) - _CROSSING
    return unet(
        sample_size=12,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * _CROSSING,
        up_block_types=("CrossAttnUpBlock2D",) * _CROSSING + ("UpBlock2D",) * plain,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers takes this for the number of heads
        norm_num_groups=8,
    )


def train_denoiser(
    data: LatentSet,
    folder: Path,
    recipe: Recipe = RECIPE,
    *,
    device: str = "cpu",
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Train it on `data`; returns it, with averaged weights, and the facts for `training.json`.

    Activations are in bfloat16, weights in float32.

    Args:
        data: Latents and captions.
        folder: Where checkpoints are written.
        recipe: How.
        device: Where.
        options: For the loop.
    """
    torch.manual_seed(recipe.seed)
    unet = build_denoiser().to(device, memory_format=torch.channels_last)
    # On processors the backward pass of the fused attention is slower than plain products at these sizes.
    unet.set_attn_processor(require("diffusers.models.attention_processor", extra="diffusion").AttnProcessor())
    alphas = build_scheduler().alphas_cumprod
    single, every = (data.plain != NONE).nonzero()[:, 0], torch.arange(len(data.texts))

    def loss(step: int) -> Tensor:
        generator = recipe.generator(step)
        first = step < _PLAIN * recipe.steps
        short = recipe.batch if first else round(_STILL_PLAIN * recipe.batch)
        chosen = torch.cat([_some(single, short, generator), _some(every, recipe.batch - short, generator)])
        texts = torch.cat([data.plain[chosen[:short]], data.texts[chosen[short:]]])
        told = torch.where(torch.rand(recipe.batch, generator=generator) < _EMPTY, 0, texts)
        noisy = _NOISY_PLAIN if first else _NOISY
        late = torch.rand(recipe.batch, generator=generator) ** noisy  # which rounds to 1 at times
        times = (len(alphas) * late).long().clamp(max=len(alphas) - 1)
        x0 = data.latents[chosen]
        latents, target = noised(x0, alphas[times], generator)
        latents = latents.to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            v = unet(latents, times.to(device), data.embeddings[told].float().to(device)).sample
        return F.mse_loss(v.float(), target.to(device))

    facts = train(unet, loss, recipe, folder, **options)
    unet.set_default_attn_processor()
    return unet.cpu().to(memory_format=torch.contiguous_format), facts | {"images": len(every)}


def _some(rows: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return rows[torch.randint(0, len(rows), (n,), generator=generator)]
