"""Sampling that stops on its way: latents as a denoiser meets them, for what is trained on them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.pipelines.components import Components
from efface.pipelines.denoiser_call import generators
from efface.pipelines.denoising import Denoising
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.following import unguided
from efface.pipelines.restoring import copied, twin_of
from efface.pipelines.text_edits import active_edits, listeners, skipping


def partial_samples(
    denoising: Denoising,
    embedding: PromptEmbedding,
    seeds: Sequence[int],
    stops: Sequence[int],
    *,
    steps: int,
    guidance: float | None = None,
    model: nn.Module | None = None,
    **call: Any,
) -> tuple[Tensor, Tensor]:
    """Latents of n samples on their way, each after a number of steps of its own.

    It is the pipeline's own call on a twin with a scheduler of its own, ended once the last sample has come as far as
    it is to come. Rules that are on the pipeline are left out.

    Args:
        denoising: The pipeline's denoiser.
        embedding: n prompts, with their negative branch where the pipeline has one.
        seeds: n seeds.
        stops: After how many steps each is taken, from 0 to `steps - 1`.
        steps: Steps of the scheduler.
        guidance: Scale of guidance; None for the pipeline's default.
        model: What is called in place of the denoiser.
        **call: Further arguments of the pipeline's call.

    Returns:
        (n, ...) latents as the denoiser is given them there (scaled where the scheduler scales), and (n,) timesteps.

    Raises:
        InputError: If numbers do not go together.
    """
    if not len(embedding) == len(seeds) == len(stops) > 0:
        raise InputError(f"{len(embedding)} prompts, {len(seeds)} seeds, {len(stops)} stops: give as many of each")
    if not 0 <= min(stops) <= max(stops) < steps:
        raise InputError(f"stops lie between {min(stops)} and {max(stops)}: write steps from 0 to {steps - 1}")
    pipe, components = denoising.pipe, denoising.components
    scale = {} if guidance is None or not denoising.guidance.argument else {denoising.guidance.argument: guidance}
    given = {**denoising.text.encoding.arguments(embedding), "num_inference_steps": steps, **scale, **call}
    denoising.check_arguments(given)
    given |= {"generator": generators(seeds), "output_type": "latent", "return_dict": False}
    done = embedding.edits & active_edits(pipe) | listeners(pipe)
    with torch.no_grad(), unguided(), skipping(pipe, done, embedding.prompts):
        return _stopped(pipe, components, given, stops, {} if model is None else {denoising.only: model})


def _stopped(
    pipe: Any, components: Components, given: Mapping[str, Any], stops: Sequence[int], parts: Mapping[str, nn.Module]
) -> tuple[Tensor, Tensor]:
    scheduler = copied(components.scheduler_of(pipe))
    way = _Way(scheduler, stops)
    vars(scheduler)["step"] = way.step
    twin = twin_of(pipe, {**parts, components.scheduler_name: scheduler})
    twin.set_progress_bar_config(disable=True)
    try:
        twin(**given)
    except _Arrived:
        return way.found()
    raise InputError(f"{type(pipe).__name__} took {way.taken} steps, fewer than {max(stops)}: write fewer stops")


class _Arrived(Exception):
    """Ends a pipeline's call once all samples are where they are to be."""


class _Way:
    """Stands in for a scheduler's step, and keeps each sample when it is as far as asked."""

    def __init__(self, scheduler: Any, stops: Sequence[int]) -> None:
        self._scheduler, self._stops = scheduler, stops
        self._step = type(scheduler).step
        self._names = list(inspect.signature(self._step).parameters)
        self._kept: dict[int, Tensor] = {}
        self.taken = 0

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's step."""
        given = dict(zip(self._names[1:], args, strict=False)) | kwargs
        if self.taken == 0:
            self._keep(given["sample"])
        out = self._step(self._scheduler, *args, **kwargs)
        self.taken += 1
        self._keep(out[0] if isinstance(out, tuple) else out.prev_sample)
        return out

    def _keep(self, latents: Tensor) -> None:
        if self.taken in self._stops:
            times = self._scheduler.timesteps
            if hasattr(self._scheduler, "scale_model_input"):
                latents = self._scheduler.scale_model_input(latents, times[self.taken])
            at = [i for i, stop in enumerate(self._stops) if stop == self.taken]
            self._kept |= {i: latents[i].clone() for i in at}
        if self.taken >= max(self._stops):
            raise _Arrived

    def found(self) -> tuple[Tensor, Tensor]:
        """The samples and their timesteps."""
        times = self._scheduler.timesteps[torch.tensor(self._stops).to(self._scheduler.timesteps.device)]
        return torch.stack([self._kept[i] for i in range(len(self._stops))]), times
