"""A few steps of tuning a denoiser on pictures, on weights of its own: the pipeline keeps the ones it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from efface._errors import InputError
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.latents import noising_of
from efface.audit.pipelines.probes.subject import NotApplicableError
from efface.pipelines.denoising import prediction
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.noising import noise_like
from efface.pipelines.view import PipelineView
from efface.training.loop import DivergedError


class Tuned:
    """The denoiser of a pipeline with weights that are tuned, in float32 at least.

    Args:
        view: The pipeline; its edits of weights may be on.
        rate: Learning rate of Adam.
        clip: Largest norm of the gradient.
    """

    def __init__(self, view: PipelineView, rate: float, clip: float = 1.0) -> None:
        if len(view.components.denoisers) > 1:
            raise NotApplicableError(f"it has the denoisers {', '.join(view.components.denoisers)}, and one is tuned")
        self.view, self.denoiser, self._clip = view, view.denoiser, clip
        self.weights = {name: _own(value) for name, value in self.denoiser.named_parameters()}
        self._adam = torch.optim.Adam(self.weights.values(), lr=rate)
        self._prepared: dict[int, Any] = {}

    def __call__(self, noisy: Tensor, t: Tensor, given: PromptEmbedding) -> Tensor:
        """The prediction with the weights as they are now."""
        n = len(noisy)
        if n not in self._prepared:
            size: dict[str, Any] = {**self.view.denoising.size_of(noisy)}
            self._prepared[n] = self.view.prepare(given, **size)
        return prediction(self._prepared[n], noisy, t, given, self._called)  # type: ignore[arg-type]

    def _called(self, **arguments: Any) -> Any:
        return functional_call(self.denoiser, self.weights, (), arguments)

    def step(self, clean: Tensor, given: PromptEmbedding, case: Case, stream: Sequence[int]) -> float:
        """One step of the loss that the denoiser was trained by, each latent at a noise level of its own.

        Raises:
            DivergedError: If the loss is not finite.
        """
        return self.descend(self.errors(clean, given, case, stream).mean())

    def errors(self, clean: Tensor, given: PromptEmbedding, case: Case, stream: Sequence[int]) -> Tensor:
        """Squared errors of the predictions, of the latents' shape."""
        source, noising = case.source(*stream), noising_of(self.view)
        schedule = self.view.prepare(given[0], steps=50).timesteps
        noise = noise_like(clean, source)
        t = noising.drawn(schedule, torch.rand(len(clean), generator=source)).to(clean.device)
        said = self(noising.noised(clean, noise, t), t, given)
        return (said - noising.truth(clean, noise, t)).pow(2)

    def descend(self, loss: Tensor) -> float:
        """One step of Adam down a loss of the weights.

        Raises:
            DivergedError: If it is not finite.
        """
        if not bool(loss.isfinite()):
            raise DivergedError("the loss of relearning is not finite: write a smaller rate")
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(self.weights.values()), self._clip)
        self._adam.step()
        return float(loss.detach())

    @contextmanager
    def held(self) -> Iterator[None]:
        """The pipeline's own denoiser has the tuned weights, for the length of a block."""
        own = dict(self.denoiser.named_parameters())
        before = {name: value.data for name, value in own.items()}
        try:
            for name, value in own.items():
                value.data = self.weights[name].detach().to(value.dtype)
            yield
        finally:
            for name, value in own.items():
                value.data = before[name]


def _own(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise InputError(f"a weight is of {value.dtype}: load the pipeline without quantisation to tune it")
    dtype = torch.promote_types(value.dtype, torch.float32)
    return value.detach().to(dtype, copy=True).requires_grad_(True)
