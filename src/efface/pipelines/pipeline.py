"""What a pipeline offers, by role: the one view that every eraser and audit of diffusion stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from efface._errors import InputError
from efface.pipelines.components import Components
from efface.pipelines.denoising import DenoiserView
from efface.pipelines.editing import TextEdit
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.sampling import sample_in_batches


class PipelineView(DenoiserView):
    """A diffusers pipeline by role.

    Nothing of the pipeline is copied or changed: the view holds the pipeline and what was found out about it, and what
    it runs leaves no trace, also when it fails. What costs a forward pass is found out when it is first asked for.

    Does not guarantee: that a pipeline which encodes and samples as described also uses its text in no other way;
    LoRA or IP-Adapter layers are not looked at.

    Attributes:
        pipe: The pipeline.
        components: Its parts by role.
        prediction_type: `"epsilon"`, `"v_prediction"`, `"sample"` or `"flow"`.
        guidance: How it strengthens its text.
    """

    @classmethod
    def of(cls, pipe: Any, *, probe: Mapping[str, Any] | None = None, **roles: Any) -> PipelineView:
        """The view of a pipeline.

        Args:
            pipe: A diffusers pipeline, or a view, which is returned as it is.
            probe: Arguments of the pipeline's call for the small pass that measures where text enters, if 64 x 64
                pixels (and 9 frames) do not suit it.
            **roles: A component's name or the component itself for a role, where the search finds nothing or the
                wrong thing: `text_encoders`, `tokenizers` (lists), `denoiser`, `vae`, `scheduler`.

        Raises:
            InputError: If a role is missing; the text says how to give it.
        """
        if isinstance(pipe, PipelineView):
            return pipe
        return cls(pipe, Components.of(pipe, roles), probe or {})

    def __repr__(self) -> str:
        return (
            f"PipelineView({type(self.pipe).__name__}: {', '.join(self.components.text_encoders)} -> "
            f"{', '.join(self.components.denoisers)}, {self.prediction_type}, {self.guidance})"
        )

    def sample(
        self,
        prompts: str | Sequence[str] | PromptEmbedding,
        seeds: int | Sequence[int],
        *,
        batch_size: int = 8,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | Sequence[str] | None = None,
        edit: TextEdit | None = None,
        truncate: bool = False,
        allow_unknown: bool = False,
        latent: bool = False,
        **call: Any,
    ) -> Tensor:
        """Pictures or films by the pipeline's own call, one generator a sample.

        At equal seeds and batches they are bit for bit what `pipe(...)` gives with `generator=` a list of
        `torch.Generator().manual_seed(seed)`. Noise is drawn on the CPU, so that a seed means the same on each device;
        in other batches the products round differently.

        Args:
            prompts: Prompts, or prompts as encoded by `encode`.
            seeds: A seed for each; or as many as you like for one prompt.
            batch_size: How many at a time.
            steps: Steps of the scheduler; None for the pipeline's default, as with what follows.
            guidance: Scale of guidance.
            negative: Negative prompts.
            edit: Edit of the prompts, for these samples only.
            truncate: Allow the end of a prompt to be lost.
            allow_unknown: Allow unknown words.
            latent: Give latents, not pixels.
            **call: Further arguments of the pipeline's call: `height`, `width`, `num_frames`, `true_cfg_scale`, ...

        Returns:
            (n, 3, height, width) or (n, frames, 3, height, width) in [0, 1], on the CPU, float32.

        Raises:
            InputError: If seeds are not as many as prompts, an argument is unknown, or a prompt cannot be encoded.
        """
        named = {"num_inference_steps": steps, self.guidance.argument: guidance}
        if guidance is not None and self.guidance.argument is None:
            raise InputError(f"{type(self.pipe).__name__} has no guidance scale: leave guidance out")
        given = {**{k: v for k, v in named.items() if k and v is not None}, **call}
        self.check_arguments(given)
        checks = {"truncate": truncate, "allow_unknown": allow_unknown}
        return sample_in_batches(self, prompts, seeds, batch_size, negative, edit, latent, given, checks)
