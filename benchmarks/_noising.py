"""Noising clean latents, and what the denoiser should then predict, whatever it predicts.

For who trains or attacks a pipeline (`benchmarks/gate_attack.py`); no eraser needs it yet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efface._errors import InputError
from efface.pipelines.view import PipelineView


def noised(view: PipelineView, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Latents at a time, and the prediction that is right there.

    `x_t = alpha x_0 + sigma e`; the target is `e` (epsilon), `alpha e - sigma x_0` (velocity; Salimans and Ho,
    arXiv:2202.00512, appendix D), `x_0` (sample) or `e - x_0` with `alpha = 1 - sigma` (flow; arXiv:2210.02747).

    Args:
        view: The pipeline.
        latents: x_0, scaled as the pipeline's loop holds them, `(n, ...)`.
        noise: e, of the same shape.
        t: Times as the scheduler counts them in training, whole numbers from 0, `(n,)`.

    Returns:
        x_t and the target, both of the shape of `latents`.

    Raises:
        InputError: If shapes differ, or a time is outside of the schedule.
    """
    steps = int(view.scheduler.config.num_train_timesteps)
    if latents.shape != noise.shape or t.shape != latents.shape[:1]:
        raise InputError(
            f"latents {tuple(latents.shape)}, noise {tuple(noise.shape)}, t {tuple(t.shape)}: give noise for each "
            "latent and one time for each sample"
        )
    if bool((t < 0).any()) or bool((t >= steps).any()):
        raise InputError(f"t from {float(t.min())} to {float(t.max())}: write times from 0 to {steps - 1}")
    if view.prediction_type == "flow":
        sigma = (t.double() + 1) / steps
        alpha = 1 - sigma
    else:
        share = view.scheduler.alphas_cumprod.to(t.device)[t.long()].double()
        alpha, sigma = share.sqrt(), (1 - share).sqrt()
    alpha, sigma = (x.to(latents).view(-1, *[1] * (latents.ndim - 1)) for x in (alpha, sigma))
    targets = {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * latents,
        "sample": latents,
        "flow": noise - latents,
    }
    return torch.addcmul(sigma * noise, alpha, latents), targets[view.prediction_type]
