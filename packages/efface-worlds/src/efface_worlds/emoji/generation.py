"""Images from prompts or prompt embeddings with the emoji pipeline, a seed an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from efface_worlds.shelf import sample

STEPS, GUIDANCE = 15, 2.0
"""DDIM steps and guidance at which the world's quality is stated."""


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
        prompts: Texts, or embeddings `(n, 32, 384)`.
        seed: Image i starts from noise of seed `seed + i`, whatever the batch.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance.
        batch: Images at a time.

    Returns:
        `(n, 3, 48, 48)` in [0, 1].

    Raises:
        InputError: If there are no prompts.
    """
    return sample(pipeline, prompts, seed=seed, steps=steps, guidance=guidance, batch=batch)
