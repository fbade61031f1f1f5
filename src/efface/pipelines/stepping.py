"""The steps of a pipeline's scheduler, seen and changed from outside: what attacks on its latents stand on.

A change takes what the scheduler is given, which is after guidance and after all edits that are on the pipeline, and
gives what the next latents are. So what is on the pipeline stays on, and counts its steps as ever.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import brief
from efface.core.hooks import patched
from efface.pipelines.components import Components
from efface.pipelines.denoiser_call import generators
from efface.pipelines.denoising import Denoising
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.guidance import Prediction, prediction_type
from efface.pipelines.noising import Noising
from efface.pipelines.restoring import lock_of, preserved
from efface.pipelines.text_edits import active_edits, skipping


@dataclass(frozen=True)
class SchedulerStep:
    """One step of a scheduler, before it is taken.

    Attributes:
        index: Which step of the sampling it is, from 0.
        count: How many there are.
        timestep: The timestep.
        latents: (n, ...) where the sampling is.
        prediction: (n, ...) what the scheduler is given: the denoiser's prediction, guided, with all edits in it.
        kind: What is predicted.
    """

    index: int
    count: int
    timestep: Any
    latents: Tensor
    prediction: Tensor
    kind: Prediction
    _scheduler: Any = field(repr=False)
    _take: Callable[[Tensor], Tensor] = field(repr=False)

    __repr__ = brief

    def taken(self, prediction: Tensor | None = None) -> Tensor:
        """Where the scheduler itself goes, perhaps with another prediction; to be asked once a step."""
        return self._take(self.prediction if prediction is None else prediction)

    @property
    def amounts(self) -> tuple[float, float]:
        """`a` and `b` of the latents `a x_0 + b noise`.

        Raises:
            InputError: If the scheduler holds latents of another size, which it scales before each pass (Euler's).
        """
        self._check_size()
        return self._amounts_at(self.timestep)

    def clipped(self, clean: Tensor) -> Tensor:
        """Clean latents as the scheduler takes them, which may bound them.

        Raises:
            InputError: If it bounds them by a threshold that moves.
        """
        config = self._scheduler.config
        if config.get("thresholding"):
            raise InputError(f"{type(self._scheduler).__name__} bounds its latents by a moving threshold: {_DDIM}")
        most = config.get("clip_sample_range", 1.0)
        return clean.clamp(-most, most) if config.get("clip_sample") else clean

    @property
    def next_amounts(self) -> tuple[float, float]:
        """The same of the latents that the step leads to; the last step leads to where the scheduler ends.

        Raises:
            InputError: As `amounts`, or if its timesteps do not fall.
        """
        self._check_size()
        times = self._scheduler.timesteps
        if len(times) > 1 and not bool((times[1:] < times[:-1]).all()):
            raise InputError(f"{type(self._scheduler).__name__} comes to a timestep more than once: {_DDIM}")
        if self.index + 1 < len(times):
            return self._amounts_at(times[self.index + 1])
        last = getattr(self._scheduler, "final_alpha_cumprod", None)
        kept = 1.0 if last is None or self.kind == "flow" else float(last)
        return kept**0.5, (1 - kept) ** 0.5

    def split(self, prediction: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that a prediction says the latents are made of.

        Raises:
            InputError: As `amounts`.
        """
        a, b = self.amounts
        return split(self.latents, self.prediction if prediction is None else prediction, a, b, self.kind)

    def predicting(self, noise: Tensor) -> Tensor:
        """The prediction that says that this is the noise in the latents.

        Raises:
            InputError: As `amounts`.
        """
        a, b = self.amounts
        clean = (self.latents - b * noise) / max(a, _LEAST)
        return {"epsilon": noise, "sample": clean, "v_prediction": a * noise - b * clean, "flow": noise - clean}[
            self.kind
        ]

    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Clean latents with noise in them as the scheduler holds them after this step; of the last one without.

        To be asked after `taken`.
        """
        times = self._scheduler.timesteps
        if self.index + 1 >= len(times):
            return clean
        at = times[self.index + 1 : self.index + 2].expand(len(clean))
        scheduler = self._scheduler
        if hasattr(scheduler, "scale_noise"):
            return scheduler.scale_noise(clean, at, noise)
        return scheduler.add_noise(clean, noise, at)

    def _check_size(self) -> None:
        size = float(torch.as_tensor(getattr(self._scheduler, "init_noise_sigma", 1.0)).flatten()[0])
        if self.kind != "flow" and abs(size - 1) > _SAME_SIZE:
            raise InputError(f"{type(self._scheduler).__name__} holds latents {size:.3g} times as large: {_DDIM}")

    def _amounts_at(self, t: Any) -> tuple[float, float]:
        noising = Noising(self._scheduler, self.kind)
        a, b = noising.amounts(torch.as_tensor(t).reshape(1).cpu(), torch.zeros(1, dtype=torch.float64))
        return float(a), float(b)


_LEAST, _SAME_SIZE = 1e-6, 1e-3
_DDIM = "take DDIMScheduler.from_config(pipe.scheduler.config), which does not"

Change = Callable[[SchedulerStep], "Tensor | None"]
"""Takes a step; what it returns are the next latents, unless that is None."""


def split(latents: Tensor, prediction: Tensor, a: float, b: float, kind: Prediction) -> tuple[Tensor, Tensor]:
    """The clean latents and the noise of which latents are `a clean + b noise`, as a prediction has it."""
    if kind == "epsilon":
        return (latents - b * prediction) / max(a, _LEAST), prediction
    if kind == "sample":
        return prediction, (latents - a * prediction) / max(b, _LEAST)
    if kind == "flow":
        return latents - b * prediction, latents + a * prediction
    return a * latents - b * prediction, a * prediction + b * latents


@contextmanager
def stepped(pipe: Any, scheduler: Any, change: Change) -> Iterator[None]:
    """Change the steps of a pipeline's scheduler for the length of a block; other threads wait for the pipeline.

    The step is the scheduler's own, taken by `SchedulerStep.taken`; where a change does not ask for it, it is taken
    all the same, so that schedulers that count or remember their steps go on.
    """
    own, begin = scheduler.step, scheduler.set_timesteps
    names, kind = inspect.signature(own), prediction_type(scheduler)
    at = [0]

    @functools.wraps(begin)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        at[0] = 0
        return begin(*args, **kwargs)

    @functools.wraps(own)
    def step(*args: Any, **kwargs: Any) -> Any:
        given = names.bind(*args, **kwargs).arguments
        prediction, t, latents = (given.pop(name) for name in ("model_output", "timestep", "sample"))
        more, whole = given.pop("kwargs", {}), bool(given.pop("return_dict", True))
        outs: list[Any] = []

        def take(prediction: Tensor) -> Tensor:
            outs.append(own(prediction, t, latents, **given, **more, return_dict=True))
            return outs[-1].prev_sample

        found = SchedulerStep(at[0], len(scheduler.timesteps), t, latents, prediction, kind, scheduler, take)
        at[0] += 1
        changed = change(found)
        if not outs:
            take(prediction)
        out = outs[-1]
        if changed is not None:
            if changed.shape != latents.shape:
                raise InputError(
                    f"a change must keep the shape {tuple(latents.shape)}, it returned {tuple(changed.shape)}"
                )
            out.prev_sample = changed.to(latents)
        return out if whole else (out.prev_sample, *tuple(out.values())[1:])

    with lock_of(pipe), _put(scheduler, step=step, set_timesteps=set_timesteps):
        yield


@contextmanager
def _put(scheduler: Any, **parts: Any) -> Iterator[None]:
    """Attributes of a scheduler, which a sampling copies and puts back with all else that is its state."""
    own = vars(scheduler)
    before = {name: own[name] for name in parts if name in own}
    own.update(parts)
    try:
        yield
    finally:
        for name in parts:
            own.pop(name, None)
        own.update(before)


class _Reached(Exception):
    """Ends a pipeline's call at the step that was asked for."""

    def __init__(self, prediction: Tensor) -> None:
        super().__init__()
        self.prediction = prediction


def guided_prediction(
    denoising: Denoising,
    embedding: PromptEmbedding,
    latents: Tensor,
    at: int,
    *,
    steps: int,
    guidance: float | None = None,
    **call: Any,
) -> Tensor:
    """What the pipeline's scheduler would be given at a step, with guidance and all edits; gradients flow.

    It is the pipeline's own call. Before the step that is asked for its denoiser is not run and predicts nothing, so
    that edits that count steps count right; what they remember of predictions is that nothing was predicted.

    Args:
        denoising: The pipeline's denoiser.
        embedding: n prompts.
        latents: (n, ...) latents as the pipeline's loop holds them at that step.
        at: Which step, from 0.
        steps: Steps of the scheduler.
        guidance: Scale of guidance; None for the pipeline's default.
        **call: Further arguments of the pipeline's call.

    Raises:
        InputError: If there is no such step.
    """
    if not 0 <= at < steps:
        raise InputError(f"at={at}: write a step from 0 to {steps - 1}")
    pipe, components = denoising.pipe, denoising.components
    scale = {} if guidance is None or not denoising.guidance.argument else {denoising.guidance.argument: guidance}
    given = {**denoising.text.encoding.arguments(embedding), "num_inference_steps": steps, **scale, **call}
    denoising.check_arguments(given)
    given |= {"generator": generators([0] * len(embedding)), "output_type": "latent", "return_dict": False}
    scheduler = components.scheduler_of(pipe)
    size = float(torch.as_tensor(getattr(scheduler, "init_noise_sigma", 1.0)).flatten()[0])
    given["latents"] = latents.detach() / size  # a pipeline scales the latents that it is handed
    bare = inspect.unwrap(type(pipe).__call__)  # it computes without gradients, and what it wraps does not
    with ExitStack() as stack:
        stack.enter_context(preserved(pipe, scheduler))
        stack.enter_context(_standing_still(components, scheduler, latents, at))
        stack.enter_context(skipping(pipe, embedding.edits & active_edits(pipe), embedding.prompts))
        pipe.set_progress_bar_config(disable=True)
        try:
            bare(pipe, **given)
        except _Reached as end:
            return end.prediction
    raise InputError(f"{type(pipe).__name__} took fewer than {at + 1} steps of {steps}: write fewer")


@contextmanager
def _standing_still(components: Components, scheduler: Any, latents: Tensor, at: int) -> Iterator[None]:
    """The latents are these at every step, the denoiser is not run before the one that is asked for."""
    own, reached = scheduler.step, [0]
    names = inspect.signature(own)

    @functools.wraps(own)
    def step(*args: Any, **kwargs: Any) -> Any:
        if reached[0] == at:
            raise _Reached(names.bind(*args, **kwargs).arguments["model_output"])
        reached[0] += 1
        with torch.no_grad():
            own(*args, **kwargs)  # it counts its steps
        return (latents,)

    def idle(denoiser: nn.Module) -> Callable[..., Any]:
        own = denoiser.forward

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if reached[0] == at:
                return own(*args, **kwargs)
            nothing = torch.zeros_like(args[0] if args else next(iter(kwargs.values())))
            return types.SimpleNamespace(sample=nothing) if kwargs.get("return_dict", True) else (nothing,)

        return forward

    with ExitStack() as stack:
        stack.enter_context(_put(scheduler, step=step))
        for denoiser in components.denoisers.values():
            stack.enter_context(patched(denoiser, "forward", idle(denoiser)))
        yield
