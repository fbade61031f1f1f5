"""Images from prompts or prompt embeddings with the shapes pipeline, a seed an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError

STEPS, GUIDANCE = 30, 3.0
"""DDIM steps and guidance at which the world's quality is stated."""


@torch.no_grad()
def generate(
    pipeline: Any,
    prompts: Sequence[str] | Tensor,
    *,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = 32,
) -> Tensor:
    """One image a prompt.

    Args:
        pipeline: A `StableDiffusionPipeline`.
        prompts: Texts, or embeddings `(n, 24, 128)`.
        seed: Image i starts from noise of seed `seed + i`, whatever the batch.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance.
        batch: Images at a time.

    Returns:
        `(n, 3, 32, 32)` in [0, 1].

    Raises:
        InputError: If there are no prompts.
    """
    if not len(prompts):
        raise InputError("no prompts: write at least one")
    images = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        kind = "prompt_embeds" if isinstance(part, Tensor) else "prompt"
        noise = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        given = part if isinstance(part, Tensor) else list(part)
        options = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "pt", "generator": noise}
        images.append(pipeline(**{kind: given}, **options).images)
    return torch.cat(images).float()
