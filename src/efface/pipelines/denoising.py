"""The denoiser of a pipeline: what it is given, what it predicts, and where text enters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.pipelines import attention
from efface.pipelines.attention import ContextEmbedder, KeyValueLayer
from efface.pipelines.denoiser_call import DenoiserCall, catch, generators
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.following import unguided
from efface.pipelines.guidance import Guidance, Prediction, guidance_of, prediction_type
from efface.pipelines.prompts import PromptEncoder
from efface.pipelines.text_edits import active_edits, listeners, skipping

PROBE = {"height": 64, "width": 64, "num_frames": 9, "use_resolution_binning": False, "strength": 1.0}
"""Arguments of the small call that shows where text enters the denoiser; those that a pipeline lacks are left out."""


class Denoising:
    """Passes of a pipeline's denoiser, outside of its sampling.

    Attributes:
        text: The pipeline's text side.
        guidance: How text is strengthened.
    """

    def __init__(self, text: PromptEncoder, probe: Mapping[str, Any]) -> None:
        self.text, self.pipe, self.components = text, text.pipe, text.components
        prediction_type(self.components.scheduler)  # or it is refused
        encoding, denoiser = text.encoding, next(iter(self.components.denoisers.values()))
        self.guidance: Guidance = guidance_of(denoiser, encoding.parameters, encoding.call)
        self._probe = {k: v for k, v in (PROBE | dict(probe)).items() if k in encoding.call}

    @property
    def prediction_type(self) -> Prediction:
        """What the denoiser predicts: `"epsilon"`, `"v_prediction"`, `"sample"` or `"flow"`."""
        return prediction_type(self.components.scheduler_of(self.pipe))

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Refuse arguments that the pipeline's call does not have."""
        call = self.text.encoding.call
        if unknown := sorted(set(given) - set(call)):
            raise InputError(
                f"{type(self.pipe).__name__} takes no {unknown[0]!r}: it takes "
                f"{', '.join(name for name in call if name not in ('self', 'kwargs'))}"
            )

    def prepare(
        self, embedding: PromptEmbedding, *, seeds: Sequence[int] | None = None, steps: int = 1, **call: Any
    ) -> DenoiserCall:
        """What the denoiser would be given at the first step; as `PipelineView.prepare`."""
        self.text.check_embedding(embedding)
        seeds = [0] * len(embedding) if seeds is None else list(seeds)
        if len(seeds) != len(embedding):
            raise InputError(f"{len(seeds)} seeds for {len(embedding)} prompts: give one seed for each prompt")
        scale = {self.guidance.argument: 1.0} if self.guidance.negative and self.guidance.argument else {}
        prompts = self.text.encoding.arguments(embedding, negative=False)
        given = {**prompts, "num_inference_steps": steps, **scale, **call}
        self.check_arguments(given)
        done = embedding.edits & active_edits(self.pipe) | listeners(self.pipe)
        with torch.no_grad(), skipping(self.pipe, done, embedding.prompts):
            return catch(self.pipe, self.components, {**given, "generator": generators(seeds)})

    def predict(
        self, latents: Tensor, t: Any, embedding: PromptEmbedding, *, denoiser: str | None = None, **call: Any
    ) -> Tensor:
        """The denoiser's prediction, as it is; as `PipelineView.denoise`."""
        if latents.ndim < 2:
            raise InputError(f"latents have shape {tuple(latents.shape)}, expected (n, ...): one entry a prompt")
        embedding = PromptEmbedding.cat([embedding] * len(latents)) if len(embedding) == 1 else embedding
        if len(embedding) != len(latents):
            raise InputError(f"{len(latents)} latents for {len(embedding)} prompts: give one prompt, or one for each")
        chosen = self.components.denoiser(denoiser) if denoiser else None
        size = {**self.size_of(latents), **call}
        prepared = self.prepare(embedding, latents=latents.detach(), **size)
        return prediction(prepared, latents, t, embedding, chosen)

    @property
    def only(self) -> str:
        """Name of the denoiser.

        Raises:
            InputError: If there are several.
        """
        name, *more = self.components.denoisers
        if more:
            raise InputError(
                f"{type(self.pipe).__name__} has the denoisers {', '.join(self.components.denoisers)}, one for each "
                "part of the sampling, and here is room for one: choose a method that edits text or guidance"
            )
        return name

    def size_of(self, latents: Tensor) -> dict[str, int]:
        """Pixels of latents that are not packed."""
        if latents.ndim < 4:
            return {}
        vae = self.components.vae
        config = getattr(vae, "config", {})
        blocks = config.get("block_out_channels") or [0] * 4
        scale = getattr(vae, "spatial_compression_ratio", None) or config.get("scale_factor_spatial")
        scale = scale or 2 ** (len(blocks) - 1)
        return {"height": latents.shape[-2] * scale, "width": latents.shape[-1] * scale}

    @cached_property
    def entries(self) -> tuple[list[KeyValueLayer], list[ContextEmbedder]]:
        """The layers that make keys and values of text, and those that first read it; measured by a small pass."""
        embedding = self.text.reference.replace(negative=None)
        layers: list[KeyValueLayer] = []
        embedders: list[ContextEmbedder] = []
        for name, denoiser in self.components.denoisers.items():
            places = attention.candidates(denoiser)
            for size in (dict(self._probe), {**self._probe, "height": 96, "width": 96}):
                with torch.no_grad(), unguided(), attention.inputs_of(places) as inputs:
                    prepared = self.prepare(embedding, **size)
                    denoiser(**prepared.with_inputs(prepared.latents[:1], prepared.timesteps[0], embedding))
                if not attention.ambiguous(denoiser, inputs, embedding.sequence.shape[1]):
                    break
            layers += attention.key_value_layers(denoiser, name, inputs, embedding)
            embedders += attention.context_embedders(name, places, inputs, embedding)
        return layers, embedders

    def key_value_inputs(
        self, embedding: PromptEmbedding, latents: Tensor | None, t: Any, denoiser: str | None, call: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Path of each key or value layer -> the rows of text that it is given; as `PipelineView.key_value_inputs`."""
        if latents is None:
            call = {**self._probe, **call}
            prepared = self.prepare(embedding, **call)
            latents, t = prepared.latents, prepared.timesteps[0] if t is None else t
        if t is None:
            raise InputError("latents come with a timestep: pass t=")
        name = denoiser or next(iter(self.components.denoisers))
        layers = [layer for layer in self.entries[0] if layer.denoiser == name]
        with torch.no_grad(), attention.inputs_of({layer.path: layer.module for layer in layers}) as found:
            self.predict(latents, t, embedding, denoiser=name, **call)
        rows = embedding.sequence.shape[1]
        return {layer.path: layer.text_rows(found[layer.path], rows) for layer in layers}


def prediction(
    prepared: DenoiserCall, latents: Tensor, t: Any, embedding: PromptEmbedding, model: nn.Module | None = None
) -> Tensor:
    """The prediction of a denoiser, as it is: no guidance, no rule, no step; a learned variance is left out.

    Args:
        prepared: What the pipeline gives it for as many prompts.
        latents: (n, ...) latents.
        t: The timestep, a number or (n,).
        embedding: n prompts.
        model: Another of its architecture.
    """
    arguments = prepared.with_inputs(latents, t, embedding)
    with unguided():
        out = (prepared.denoiser if model is None else model)(**arguments)
    out = out[0] if isinstance(out, tuple) else out.sample
    return out.chunk(2, dim=1)[0] if out.shape[1] == 2 * latents.shape[1] else out
