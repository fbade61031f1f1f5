"""What a step is taken on, where that is sampled anew: latents on their way through guided sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.diffusion.weights.passes import Aim
from efface.diffusion.weights.tuning import Tuning
from efface.training.seeds import generator, seeds_of

_STREAM = 2
"""Of random numbers; that of `probes` is 1, those of methods are from 10 on."""

_AHEAD = 4
"""So many times `at_once` samples are put in order before they are drawn."""


class Drawn(NamedTuple):
    """What a step is taken on: latents as the denoiser is given them, timesteps, and what is to be said."""

    latents: Tensor
    t: Tensor
    aims: list[Aim]


class Draws:
    """Latents on their way through guided sampling of the prompts that are asked, a batch for each step.

    Those of the original do not depend on what was learnt, so that many are drawn at once, in order of how far they
    go; those of the student are drawn for one step.

    Args:
        tuning: The fit.
        aims: One of these is drawn for each sample.
        by_student: Whether the student samples them.
        within: Whether times lie anywhere between the step that the sampling stopped at and the one before.
        batch: Samples a step; None for the fit's.
        stream: Of random numbers, where a step is taken on several batches.
    """

    def __init__(
        self,
        tuning: Tuning,
        aims: Sequence[Aim],
        *,
        by_student: bool = False,
        within: bool = False,
        batch: int | None = None,
        stream: int = _STREAM,
    ) -> None:
        self._tuning, self._aims, self._by_student, self._stream = tuning, aims, by_student, stream
        config = tuning.config
        self._batch = config.batch if batch is None else batch
        self._steps_ahead = 1 if by_student or config.at_once == 1 else max(1, _AHEAD * config.at_once // self._batch)
        self._block: tuple[int, list[Drawn]] = (-1, [])
        self._schedule = tuning.passes.schedule(config.sampling_steps) if within else None

    def at(self, step: int) -> Drawn:
        """Those of a step."""
        number, place = divmod(step, self._steps_ahead)
        if self._block[0] != number:
            self._block = number, self._drawn(number)
        return self._block[1][place]

    def _drawn(self, number: int) -> list[Drawn]:
        config, n = self._tuning.config, self._steps_ahead * self._batch
        source = generator(config.seed, self._stream, number)
        aims = [self._aims[i] for i in torch.randint(len(self._aims), (n,), generator=source).tolist()]
        stops = torch.randint(config.sampling_steps, (n,), generator=source).tolist()
        seeds, jitter = seeds_of(n, source), torch.rand(n, generator=source)
        order = sorted(range(n), key=stops.__getitem__)
        latents, times = dict[int, Tensor](), dict[int, Tensor]()
        model = self._tuning.student.module if self._by_student else self._tuning.teacher
        for start in range(0, n, config.at_once):
            part = order[start : start + config.at_once]
            own, until = [seeds[i] for i in part], [stops[i] for i in part]
            texts = [aims[i].asked for i in part]
            x, t = self._tuning.passes.on_their_way(texts, own, until, config.sampling_steps, model)
            latents |= dict(zip(part, x, strict=True))
            times |= dict(zip(part, t, strict=True))
        t = self._within(torch.stack([times[i] for i in range(n)]), stops, jitter)
        x = torch.stack([latents[i] for i in range(n)])
        parts = [slice(i, i + self._batch) for i in range(0, n, self._batch)]
        return [Drawn(x[p], t[p], aims[p]) for p in parts]

    def _within(self, t: Tensor, stops: Sequence[int], jitter: Tensor) -> Tensor:
        if self._schedule is None or len(self._schedule) < 2:
            return t
        times = self._schedule.to(t.device)
        before = torch.cat([2 * times[:1] - times[1:2], times])[torch.tensor(stops).to(t.device)]
        found = t + jitter.to(t.device) * (before - t)
        most = self._tuning.view.scheduler.config.num_train_timesteps
        return found if t.is_floating_point() else found.floor().clamp(max=most - 1).to(t.dtype)
