"""A tiny, untrained pipeline of the emoji world: MiniLM, as it ships, before a small denoiser and autoencoder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from efface_worlds.emoji.shipped import build_pipeline
from efface_worlds.emoji.training.autoencoder import build_autoencoder
from efface_worlds.emoji.training.denoiser import build_denoiser, build_scheduler

CHANNELS = (8, 16, 16)


def build_tiny(seed: int = 0) -> Any:
    """A pipeline of its own."""
    torch.manual_seed(seed)
    return build_pipeline(build_denoiser(CHANNELS).eval(), build_autoencoder().eval(), build_scheduler())


@cache
def tiny_emoji() -> Any:
    """One that all tests share, which leave it as it is."""
    return build_tiny()


def save_parts(folder: Path) -> Path:
    """A folder of weights as it ships: denoiser, autoencoder and scheduler in half precision, no text encoder."""
    pipe = build_tiny()
    for name in ("unet", "vae"):
        getattr(pipe, name).half().save_pretrained(folder / "pipeline" / name)
    pipe.scheduler.save_pretrained(folder / "pipeline" / "scheduler")
    return folder
