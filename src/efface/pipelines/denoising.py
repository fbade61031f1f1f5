"""A pipeline's view of its denoiser: predictions, and where text enters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.pipelines import attention
from efface.pipelines.attention import ContextEmbedder, KeyValueLayer
from efface.pipelines.calls import DenoiserCall, catch, generators
from efface.pipelines.components import Components
from efface.pipelines.editing import active_edits, listeners, skipping
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.kinds import Guidance, Prediction, guidance_of, prediction_type
from efface.pipelines.prediction import Rule, Swap, install_rule, install_swap, unguided
from efface.pipelines.prompts import PromptView

PROBE = {"height": 64, "width": 64, "num_frames": 9, "use_resolution_binning": False, "strength": 1.0}
"""Arguments of the small call that shows where text enters the denoiser; those that a pipeline lacks are left out."""


class DenoiserView(PromptView):
    """The part of `PipelineView` that has to do with the denoiser.

    Attributes:
        prediction_type: `"epsilon"`, `"v_prediction"`, `"sample"` or `"flow"`.
        guidance: How text is strengthened.
    """

    def __init__(self, pipe: Any, components: Components, probe: Mapping[str, Any]) -> None:
        super().__init__(pipe, components)
        self.prediction_type: Prediction = prediction_type(components.scheduler)
        self.guidance: Guidance = guidance_of(self.denoiser, self.encoding.parameters, self.encoding.call)
        self._probe = {k: v for k, v in (PROBE | dict(probe)).items() if k in self.encoding.call}

    @property
    def denoiser(self) -> nn.Module:
        """The model that predicts; of two, the first."""
        return next(iter(self.components.denoisers.values()))

    @property
    def vae(self) -> nn.Module:
        """The autoencoder."""
        return self.components.vae

    @property
    def scheduler(self) -> Any:
        """The sampler."""
        return self.components.scheduler

    @property
    def is_video(self) -> bool:
        """Whether samples are films."""
        return "num_frames" in self.encoding.call

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return self.pipe._execution_device

    def prepare(
        self, embedding: PromptEmbedding, *, seeds: Sequence[int] | None = None, steps: int = 1, **call: Any
    ) -> DenoiserCall:
        """What the pipeline would give its denoiser at the first step, without guidance: latents, timesteps, arguments.

        Args:
            embedding: n prompts.
            seeds: A seed for each; None for 0.
            steps: Steps of the scheduler.
            **call: Further arguments of the pipeline's call: `height`, `width`, `num_frames`, `latents`.
        """
        self.check_embedding(embedding)
        seeds = [0] * len(embedding) if seeds is None else list(seeds)
        scale = {self.guidance.argument: 1.0} if self.guidance.negative and self.guidance.argument else {}
        given = {**self.encoding.arguments(embedding, negative=False), "num_inference_steps": steps, **scale, **call}
        self.check_arguments(given)
        done = embedding.edits & active_edits(self.pipe) | listeners(self.pipe)
        with torch.no_grad(), skipping(self.pipe, done, embedding.prompts):
            return catch(self.pipe, self.components, {**given, "generator": generators(seeds)})

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Refuse arguments that the pipeline's call does not have."""
        if unknown := sorted(set(given) - set(self.encoding.call)):
            raise InputError(
                f"{type(self.pipe).__name__} takes no {unknown[0]!r}: it takes "
                f"{', '.join(name for name in self.encoding.call if name not in ('self', 'kwargs'))}"
            )

    def denoise(
        self, latents: Tensor, t: Any, embedding: PromptEmbedding, *, denoiser: str | None = None, **call: Any
    ) -> Tensor:
        """The denoiser's prediction, as it is: no guidance, no rule, no scaling of latents, no step. Gradients flow.

        Args:
            latents: (n, ...) as the pipeline's loop holds them, such as `view.prepare(...).latents`.
            t: The timestep as the scheduler writes it, a number or (n,).
            embedding: n prompts, or one for all.
            denoiser: Name of the denoiser, if there are several (Wan 2.2); None for the one of the first step.
            **call: Further arguments of the pipeline's call. Films need `num_frames`, and packed latents (FLUX,
                LTX-Video) `height` and `width`, where these are not the pipeline's default.

        Returns:
            Of the shape of `latents`; a learned variance (PixArt) is left out.
        """
        embedding = PromptEmbedding.cat([embedding] * len(latents)) if len(embedding) == 1 else embedding
        if len(embedding) != len(latents):
            raise InputError(f"{len(latents)} latents for {len(embedding)} prompts: give one prompt, or one for each")
        size = {**self._size(latents), **call}
        prepared = self.prepare(embedding, latents=latents.detach(), **size)
        arguments = prepared.with_inputs(latents, t, embedding)
        with unguided():
            out = (self.components.denoisers[denoiser] if denoiser else prepared.denoiser)(**arguments)
        out = out[0] if isinstance(out, tuple) else out.sample
        return out.chunk(2, dim=1)[0] if out.shape[1] == 2 * latents.shape[1] else out

    def _size(self, latents: Tensor) -> dict[str, int]:
        """Pixels of latents that are not packed."""
        if latents.ndim < 4:
            return {}
        config = getattr(self.vae, "config", {})
        blocks = config.get("block_out_channels") or [0] * 4
        scale = getattr(self.vae, "spatial_compression_ratio", None) or config.get("scale_factor_spatial")
        scale = scale or 2 ** (len(blocks) - 1)
        return {"height": latents.shape[-2] * scale, "width": latents.shape[-1] * scale}

    @cached_property
    def _entries(self) -> tuple[list[KeyValueLayer], list[ContextEmbedder]]:
        embedding = self._reference.replace(negative=None)
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

    def key_value_layers(self) -> list[KeyValueLayer]:
        """The layers that make keys and values of text, in the order of the denoiser."""
        return list(self._entries[0])

    def context_embedders(self) -> list[ContextEmbedder]:
        """The layers that first read the embedding, where these are not keys and values themselves."""
        return list(self._entries[1])

    def key_value_inputs(
        self,
        embedding: PromptEmbedding,
        *,
        latents: Tensor | None = None,
        t: Any = None,
        denoiser: str | None = None,
        **call: Any,
    ) -> dict[str, Tensor]:
        """Path of each key or value layer -> (n, rows, width): the rows of text that it is given.

        In plain cross-attention they depend on the prompt alone; in joint attention (SD3, FLUX, CogVideoX,
        HunyuanVideo) on latents and time too.

        Args:
            embedding: n prompts.
            latents: Latents to go with them; None for small ones of seed 0.
            t: The timestep; None for the scheduler's first, with `latents=None` only.
            denoiser: Name of the denoiser, if there are several; None for the first.
            **call: Further arguments of the pipeline's call.

        Raises:
            InputError: If latents come without a timestep.
        """
        if latents is None:
            call = {**self._probe, **call}
            prepared = self.prepare(embedding, **call)
            latents, t = prepared.latents, prepared.timesteps[0] if t is None else t
        if t is None:
            raise InputError("latents come with a timestep: pass t=")
        name = denoiser or next(iter(self.components.denoisers))
        layers = [layer for layer in self.key_value_layers() if layer.denoiser == name]
        with torch.no_grad(), attention.inputs_of({layer.path: layer.module for layer in layers}) as found:
            self.denoise(latents, t, embedding, denoiser=name, **call)
        rows = embedding.sequence.shape[1]
        return {layer.path: layer.text_rows(found[layer.path], rows) for layer in layers}

    @contextmanager
    def guided(self, rule: Rule) -> Iterator[None]:
        """Change what the denoiser predicts for the prompts, before guidance, for the length of a block.

        Args:
            rule: Takes a `Step`, gives what replaces its `cond`, or None.
        """
        remove = self.install_rule(rule)
        try:
            yield
        finally:
            remove()

    def install_rule(self, rule: Rule) -> Callable[[], None]:
        """The same until the function that is returned is called."""
        return install_rule(self, rule)

    def install_swap(self, swap: Swap) -> Callable[[], None]:
        """Give the denoiser other rows of text at some steps, until the function that is returned is called.

        Args:
            swap: Takes the index of a step, the prompts and their rows; gives what replaces the rows, or None.
        """
        return install_swap(self, swap)
