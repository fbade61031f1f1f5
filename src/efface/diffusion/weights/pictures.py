"""Pictures that a pipeline draws of prompts, as clean latents, with noise put into them anew at each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface._errors import InputError
from efface.diffusion.weights.tuning import Tuning
from efface.pipelines.noising import Noising, noise_like
from efface.training.seeds import generator, seeds_of

_DRAWN, _NOISED = 10, 11


class Noised(NamedTuple):
    """A batch of pictures with noise in them.

    Attributes:
        latents: (n, ...) as the denoiser is given them.
        t: (n,) timesteps.
        truth: What the denoiser would predict if it knew picture and noise.
        which: Of which of the prompts each is.
    """

    latents: Tensor
    t: Tensor
    truth: Tensor
    which: list[int]


class Pictures:
    """n pictures of prompts in turn, drawn by the pipeline as it is, by its own call.

    They are drawn again where a fit goes on from a checkpoint, which does not keep them. Noise levels are drawn
    evenly from all timesteps; of flows from those of the sampling's schedule, which lie as its pictures' size asks.

    Args:
        tuning: The fit.
        texts: The prompts; all of them are known to its passes.
        n: How many pictures.
    """

    def __init__(self, tuning: Tuning, texts: Sequence[str], n: int) -> None:
        config, view = tuning.config, tuning.view
        self._config, self._of = config, [i % len(texts) for i in range(n)]
        self._noising = Noising(view.scheduler, view.prediction_type)
        self._schedule = tuning.passes.schedule(config.sampling_steps)
        embedding = tuning.passes.of([texts[i] for i in self._of], guided=True)
        seeds = seeds_of(n, generator(config.seed, _DRAWN))
        scale = config.guidance if view.guidance.argument else None
        sampling = {"steps": config.sampling_steps, "guidance": scale, "batch_size": config.at_once}
        with tuning.passes.computing():
            self._clean = view.sample(embedding, seeds, latent=True, **sampling, **tuning.call).to(tuning.passes.device)
        if not bool(self._clean.isfinite().all()):
            raise InputError("the pipeline draws latents that are not finite: load it in float32 or bfloat16")

    def at(self, step: int, stream: int = 0) -> Noised:
        """Those of a step; other streams draw others."""
        source, n = generator(self._config.seed, _NOISED, stream, step), self._config.batch
        rows = torch.randint(len(self._clean), (n,), generator=source)
        clean = self._clean[rows.to(self._clean.device)]
        t = self._noising.drawn(self._schedule, torch.rand(n, generator=source)).to(clean.device)
        noise = noise_like(clean, source)
        latents, truth = self._noising.noised(clean, noise, t), self._noising.truth(clean, noise, t)
        return Noised(latents, t, truth, [self._of[i] for i in rows.tolist()])
