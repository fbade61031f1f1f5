"""What a pipeline draws with an erasure on it, and what the erasure counted."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.identity.groups.parts import embedding_parts
from benchmarks.identity.harness import text
from benchmarks.identity.inputs import pipelines


def erased(
    name: str,
    erasure: Any,
    pipe: Any,
    kind: str,
    *,
    images: bool = False,
    last: bool = False,
    prompts: list[str] | None = None,
    **call: Any,
) -> dict[str, Tensor]:
    """Embeddings after an edit, latents (and pictures) of the pipeline's own call, and what was counted."""
    from efface import PipelineView

    def draw(pipe: Any, **options: Any) -> Tensor:
        if kind == "shapes":
            return pipelines.world_drawn(pipe, prompts=prompts, **options)
        return pipelines.tiny_drawn(kind, pipe, **options)

    asked = prompts or (pipelines.WORLD_PROMPTS if kind == "shapes" else pipelines.TINY_PROMPTS)
    with erasure.on(pipe) as run:
        found = embedding_parts(f"{name}/embedding", PipelineView.of(pipe).encode(asked))
        found[f"{name}/latents"] = draw(pipe, **call)
        if images:
            found[f"{name}/images"] = draw(pipe, latent=False, **call)
    found[f"{name}/fired"] = text(run.log.counts)
    if last:
        found[f"{name}/last"] = text(run.log.last)
    return found
