"""Predictions of a denoiser and of what is tuned in its place, for prompts that were encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.pipelines.denoiser_call import DenoiserCall
from efface.pipelines.denoising import prediction
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.partial import partial_samples
from efface.pipelines.view import PipelineView

Precision = Literal["as loaded", "bfloat16"]
"""In which numbers a denoiser computes; what is trained is float32 at least."""

Texts: TypeAlias = "Sequence[str | None] | PromptEmbedding"
"""Prompts, or prompts as encoded; None is the one that guidance starts from."""

_AT_ONCE = 32


@dataclass(frozen=True)
class Aim:
    """What a tuned denoiser is to say of a prompt.

    Attributes:
        asked: The prompt; None is the one that guidance starts from.
        terms: Number and prompt: it is to say the sum of what the original says of these, times the numbers.
    """

    asked: str | None
    terms: tuple[tuple[float, str | None], ...]

    @classmethod
    def away(cls, text: str, eta: float) -> Self:
        """The opposite of what guidance would follow, from the neutral prompt: `e(0) - eta (e(text) - e(0))`."""
        return cls(text, ((1 + eta, None), (-eta, text)))

    @property
    def texts(self) -> tuple[str | None, ...]:
        """All its prompts."""
        return (self.asked, *(text for _, text in self.terms))


class Passes:
    """A pipeline's denoiser, and others of its architecture, asked for predictions.

    The prediction is the model's own (noise, velocity, sample or flow): guidance adds multiples of differences of
    such, and so do the targets of erasers. All of these are affine in each other at fixed latents and time, so that a
    sum whose numbers sum to 1 is the same target in each of them.

    Args:
        view: The pipeline.
        texts: All prompts; None is the one that guidance starts from.
        neutral: What that is: `""` takes the pipeline's own negative branch, where it has one (of zeros in SDXL).
        call: Further arguments of the pipeline's call.
        guidance: Scale of guidance of the sampling; of distilled denoisers, which take it as an input, of all passes.
        precision: In which numbers they compute.

    Attributes:
        rows: How many prompts have been passed through denoisers so far, but for the sampling.
    """

    def __init__(
        self,
        view: PipelineView,
        texts: Sequence[str | None],
        neutral: str = "",
        *,
        call: Mapping[str, Any] | None = None,
        guidance: float | None = None,
        precision: Precision = "as loaded",
    ) -> None:
        self.view, self.call, self.guidance = view, dict(call or {}), guidance
        self._encoded = _encoded(view, [text for text in dict.fromkeys(texts) if text is not None], neutral)
        self._prepared: dict[int, DenoiserCall] = {}
        low = next(view.denoiser.parameters()).dtype.itemsize < 4
        self._dtype = torch.bfloat16 if low or precision == "bfloat16" else None
        self.rows = 0

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.view.denoiser.parameters()).device

    def of(self, texts: Sequence[str | None], *, guided: bool = False) -> PromptEmbedding:
        """The embeddings of prompts, in order; with their negative branch if guided."""
        rows = [self._encoded[text] for text in texts]
        return PromptEmbedding.cat(row if guided else row.replace(negative=None) for row in rows)

    def __call__(self, model: nn.Module, latents: Tensor, t: Tensor, texts: Texts) -> Tensor:
        """A model's predictions in float32.

        Args:
            model: The denoiser, or one of its architecture.
            latents: (n, ...) as the denoiser is given them.
            t: (n,) timesteps.
            texts: n prompts, or these as encoded.
        """
        self.rows += len(texts)
        embedding = texts if isinstance(texts, PromptEmbedding) else self.of(texts)
        with self.computing():
            return prediction(self.prepared(len(texts)), latents, t, embedding, model).float()

    def aimed(self, model: nn.Module, latents: Tensor, t: Tensor, aims: Sequence[Aim]) -> Tensor:
        """What n aims ask for, by a model's own predictions in one pass; no gradient."""
        flat = [(row, number, text) for row, aim in enumerate(aims) for number, text in aim.terms]
        rows = torch.tensor([row for row, _, _ in flat], device=latents.device)
        numbers = torch.tensor([number for _, number, _ in flat], device=latents.device)
        with torch.no_grad():
            said = self(model, latents[rows], t[rows.to(t.device)], [text for _, _, text in flat])
            weighted = said * numbers.view(-1, *[1] * (said.ndim - 1))
            return torch.zeros_like(said[: len(aims)]).index_add(0, rows, weighted)

    def on_their_way(
        self, texts: Sequence[str | None], seeds: Sequence[int], stops: Sequence[int], steps: int, model: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Latents after some steps of guided sampling by a model, and their timesteps."""
        with self.computing():
            x, t = partial_samples(
                self.view.denoising,
                self.of(texts, guided=True),
                seeds,
                stops,
                steps=steps,
                guidance=self.guidance,
                model=model,
                **self.call,
            )
        return x.to(self.device), t

    def prepared(self, n: int) -> DenoiserCall:
        """What the pipeline gives its denoiser for n prompts."""
        if n not in self._prepared:
            guidance = self.view.guidance
            distilled = guidance.mode == "embedded" and guidance.argument and self.guidance is not None
            scale = {guidance.argument: self.guidance} if distilled else {}
            embedding = self.of([next(iter(self._encoded))] * n)
            self._prepared[n] = self.view.prepare(embedding, **{**scale, **self.call})  # type: ignore[arg-type]
        return self._prepared[n]

    def schedule(self, steps: int) -> Tensor:
        """The timesteps of a sampling."""
        return self.view.prepare(self.of([next(iter(self._encoded))]), steps=steps, **self.call).timesteps

    def computing(self) -> AbstractContextManager[Any]:
        """The numbers in which models compute."""
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, dtype=self._dtype)


def _encoded(view: PipelineView, texts: list[str], neutral: str) -> dict[str | None, PromptEmbedding]:
    """Text -> its embedding, all of one length; None -> what guidance starts from."""
    own = neutral == "" and view.guidance.negative  # there is a negative branch then
    every = texts if own else [*texts, neutral]
    found: dict[str | None, PromptEmbedding] = {}
    for start in range(0, len(every), _AT_ONCE):
        part = every[start : start + _AT_ONCE]
        # Templates may have words that a small tokenizer does not know; the concept's own were checked.
        encoded = view.encode(part, allow_unknown=True)
        found |= {text: encoded[i] for i, text in enumerate(part)}
    first = next(iter(found.values()))
    start = first.negative if own and first.negative is not None else found[neutral]
    found[None] = start.replace(negative=first.negative, prompts=(neutral,))
    for text, embedding in found.items():
        if not all(bool(value.isfinite().all()) for value in embedding.tensors().values()):
            raise InputError(f"the embedding of {text!r} is not finite: convert the text encoder to float32")
    return found
