"""Pictures that a pipeline draws of prompts, as clean latents, with noise put into them anew at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface._errors import InputError
from efface.diffusion.weights.passes import Passes
from efface.diffusion.weights.tuning import Tuning, TuningConfig
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
        rows: Which of the pictures each is.
    """

    latents: Tensor
    t: Tensor
    truth: Tensor
    which: list[int]
    rows: tuple[int, ...] = ()


class Pictures:
    """n pictures of prompts in turn, drawn by the pipeline as it is, by its own call.

    They are drawn again where a fit goes on from a checkpoint, which does not keep them. Noise levels are drawn
    evenly from all timesteps; of flows from those of the sampling's schedule, which lie as its pictures' size asks.

    Args:
        tuning: The fit.
        texts: The prompts; all of them are known to its passes.
        n: How many pictures.
        clean: These, drawn before by `drawn`; None draws them.
        times: Numbers drawn evenly from 0 to 1 -> those that timesteps are taken at; None takes them as they are.
    """

    def __init__(
        self,
        tuning: Tuning,
        texts: Sequence[str],
        n: int,
        *,
        clean: Tensor | None = None,
        times: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        config, view = tuning.config, tuning.view
        self._times = times or Tensor.clone
        self._config, self._of = config, [i % len(texts) for i in range(n)]
        self._noising = Noising(view.scheduler, view.prediction_type)
        self._schedule = tuning.passes.schedule(config.sampling_steps)
        self._clean = drawn(tuning.passes, config, texts, n) if clean is None else clean

    def at(self, step: int, stream: int = 0) -> Noised:
        """Those of a step; other streams draw others."""
        source, n = generator(self._config.seed, _NOISED, stream, step), self._config.batch
        rows = torch.randint(len(self._clean), (n,), generator=source)
        clean = self._clean[rows.to(self._clean.device)]
        t = self._noising.drawn(self._schedule, self._times(torch.rand(n, generator=source))).to(clean.device)
        noise = noise_like(clean, source)
        latents, truth = self._noising.noised(clean, noise, t), self._noising.truth(clean, noise, t)
        return Noised(latents, t, truth, [self._of[i] for i in rows.tolist()], tuple(rows.tolist()))


def drawn(passes: Passes, config: TuningConfig, texts: Sequence[str], n: int, **more: Any) -> Tensor:
    """N pictures of prompts in turn, by the pipeline's own call: clean latents, or what `more` asks for.

    Args:
        passes: Which knows the prompts.
        config: How they are sampled.
        texts: The prompts.
        n: How many.
        **more: Of `PipelineView.sample`, in place of latents: `latent=False` for pixels.
    """
    view = passes.view
    embedding = passes.of([texts[i % len(texts)] for i in range(n)], guided=True)
    seeds = seeds_of(n, generator(config.seed, _DRAWN))
    scale = config.guidance if view.guidance.argument else None
    sampling = {"steps": config.sampling_steps, "guidance": scale, "batch_size": config.at_once}
    with passes.computing():
        found = view.sample(embedding, seeds, **{"latent": True, **sampling, **passes.call, **more}).to(passes.device)
    if not bool(found.isfinite().all()):
        raise InputError("the pipeline draws latents that are not finite: load it in float32 or bfloat16")
    return found
