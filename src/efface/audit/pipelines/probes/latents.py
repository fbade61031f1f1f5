"""Pictures as clean latents, as the pipeline's denoiser knows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efface.audit.pipelines.probes.subject import NotApplicableError
from efface.pipelines.noising import Noising
from efface.pipelines.view import PipelineView

_AT_ONCE = 32


@torch.no_grad()
def encoded(view: PipelineView, images: Tensor) -> Tensor:
    """Latents `(n, ...)` of pictures `(n, 3, h, w)` in [0, 1]: the mean that the autoencoder gives, scaled.

    Raises:
        NotApplicableError: If the pipeline's latents are packed, of films, or scaled in another way than by numbers.
    """
    vae: Any = view.vae
    config = vae.config
    scale, shift = config.get("scaling_factor"), config.get("shift_factor") or 0.0
    if scale is None or config.get("latents_mean") is not None:
        raise NotApplicableError(f"{type(vae).__name__} says of no scaling_factor how its latents are scaled")
    weight = next(vae.parameters())
    parts = []
    for part in images.split(_AT_ONCE):
        found = vae.encode((2 * part - 1).to(weight))
        mean = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        parts.append((mean.float() - shift) * scale)
    latents = torch.cat(parts)
    height, width = images.shape[-2:]
    own = view.prepare(view.encode("").replace(negative=None), height=height, width=width).latents
    if own.shape[1:] != latents.shape[1:]:
        raise NotApplicableError(
            f"the denoiser takes latents of shape {tuple(own.shape[1:])}, pictures are {tuple(latents.shape[1:])}"
        )
    return latents.to(own.device)


@torch.no_grad()
def decoded(view: PipelineView, latents: Tensor) -> Tensor:
    """Pictures `(n, 3, h, w)` in [0, 1], on the CPU, of clean latents."""
    vae: Any = view.vae
    config = vae.config
    weight = next(vae.parameters())
    raw = latents.to(weight) / config["scaling_factor"] + (config.get("shift_factor") or 0.0)
    images = torch.cat([vae.decode(part, return_dict=False)[0] for part in raw.split(_AT_ONCE)])
    return (images.float() / 2 + 0.5).clamp(0, 1).cpu()


def noising_of(view: PipelineView) -> Noising:
    """The pipeline's forward process."""
    return Noising(view.scheduler, view.prediction_type)


def clean_of(view: PipelineView, noisy: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
    """The clean latents that a prediction of the denoiser means, `x_0`."""
    a, b = noising_of(view).amounts(t, noisy)
    kind = view.prediction_type
    if kind == "sample":
        return prediction
    if kind == "epsilon":
        return (noisy - b * prediction) / a
    return noisy - b * prediction if kind == "flow" else a * noisy - b * prediction
