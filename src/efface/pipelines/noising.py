"""Noise put into clean latents, and what the denoiser would say of them if it were right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface.pipelines.guidance import Prediction


class Noising:
    """The forward process of a pipeline: `x_t = a(t) x_0 + b(t) noise`, as its denoiser is given it.

    Of diffusion `a^2` is the scheduler's `alphas_cumprod` and `a^2 + b^2 = 1`, also where the scheduler's own latents
    are of another size, which it scales before each pass (Euler's); of flows `b = t / 1000` and `a = 1 - b`.

    Args:
        scheduler: The pipeline's scheduler.
        prediction: What the denoiser predicts.

    Raises:
        InputError: If the scheduler has none of these (EDM).
    """

    def __init__(self, scheduler: Any, prediction: Prediction) -> None:
        self.prediction: Prediction = prediction
        self.times = int(scheduler.config.num_train_timesteps)
        alphas = getattr(scheduler, "alphas_cumprod", None)
        if prediction != "flow" and not isinstance(alphas, Tensor):
            raise InputError(
                f"{type(scheduler).__name__} does not say how much noise there is at a timestep (alphas_cumprod): take "
                "another scheduler of the same pipeline, such as DDIMScheduler.from_config(pipe.scheduler.config)"
            )
        self._alphas = alphas

    def amounts(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the clean latents and of the noise there is at (n,) timesteps; of shape (n, 1, ...)."""
        if self._alphas is None or self.prediction == "flow":
            b = t.to(like) / self.times
            a = 1 - b
        else:
            kept = self._alphas.to(like.device)[t.long()].to(like)
            a, b = kept.sqrt(), (1 - kept).sqrt()
        shape = (-1, *[1] * (like.ndim - 1))
        return a.view(shape), b.view(shape)

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(n, ...) clean latents with noise in them, at (n,) timesteps."""
        a, b = self.amounts(t, clean)
        return a * clean + b * noise

    def truth(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a denoiser that knows both would predict."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        if self.prediction == "flow":
            return noise - clean
        a, b = self.amounts(t, clean)
        return a * noise - b * clean

    def drawn(self, schedule: Tensor, u: Tensor) -> Tensor:
        """Timesteps of (n,) numbers from 0 to 1: of all of them alike, of flows of those of a schedule."""
        if self.prediction == "flow":
            return schedule[(u * len(schedule)).long().clamp(max=len(schedule) - 1).to(schedule.device)]
        return (u * self.times).long().clamp(max=self.times - 1)


def noise_like(clean: Tensor, source: torch.Generator) -> Tensor:
    """Noise of the shape of latents, drawn on the CPU."""
    return torch.randn(clean.shape, generator=source).to(clean)
