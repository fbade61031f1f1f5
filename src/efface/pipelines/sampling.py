"""Samples in batches, through the pipeline's own call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._progress import progress
from efface.pipelines.calls import generators
from efface.pipelines.editing import TextEdit, active_edits, skipping
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.state import preserved

if TYPE_CHECKING:
    from efface.pipelines.pipeline import PipelineView


def sample_in_batches(
    view: PipelineView,
    prompts: str | Sequence[str] | PromptEmbedding,
    seeds: int | Sequence[int],
    batch_size: int,
    negative: str | Sequence[str] | None,
    edit: TextEdit | None,
    latent: bool,
    given: Mapping[str, Any],
    checks: Mapping[str, bool],
) -> Tensor:
    """What `PipelineView.sample` does; its arguments, with those of the pipeline's call in `given`."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    seeds = [seeds] if isinstance(seeds, int) else [int(seed) for seed in seeds]
    items = _spread(prompts, len(seeds))
    if isinstance(items, PromptEmbedding):
        if negative is not None:
            raise InputError("negative goes with prompts: an embedding has its own, e.replace(negative=...)")
        view.check_embedding(items)
    negatives = _spread_negative(negative, len(seeds))
    options = {k: v for k, v in given.items() if k in view.encoding.options}
    batches: list[Tensor] = []
    with progress("sampling", len(seeds), unit="samples") as bar:
        for start in range(0, len(seeds), batch_size):
            part = slice(start, start + batch_size)
            if isinstance(items, PromptEmbedding):
                embedding = items[part] if len(items) > 1 else PromptEmbedding.cat([items] * len(seeds[part]))
            else:
                embedding = view.encode(items[part], negative=negatives and negatives[part], **checks, **options)
            if edit is not None:
                embedding = edit(embedding) or embedding
            batches.append(_call(view, embedding, seeds[part], latent, given))
            bar.update(len(seeds[part]))
    return torch.cat(batches)


def _call(
    view: PipelineView, embedding: PromptEmbedding, seeds: Sequence[int], latent: bool, given: Mapping[str, Any]
) -> Tensor:
    pipe = view.pipe
    # Those edits that are on now and that the embedding has been through already.
    done = embedding.edits & active_edits(pipe)
    arguments = {
        **view.encoding.arguments(embedding),
        **given,
        "generator": generators(seeds),
        "output_type": "latent" if latent else "pt",
        "return_dict": False,
    }
    with preserved(pipe, view.scheduler), skipping(pipe, done, embedding.prompts), torch.no_grad():
        pipe.set_progress_bar_config(disable=True)
        out = pipe(**arguments)[0]
    return out.detach().float().cpu()


def _spread(prompts: str | Sequence[str] | PromptEmbedding, n: int) -> list[str] | PromptEmbedding:
    """As many prompts as seeds; or an embedding of as many, or of one."""
    items = [prompts] if isinstance(prompts, str) else prompts if isinstance(prompts, PromptEmbedding) else [*prompts]
    if n == 0:
        raise InputError("there are no seeds: give one for each sample")
    if len(items) == n:
        return items
    if len(items) != 1:
        raise InputError(f"{n} seeds for {len(items)} prompts: give one seed for each prompt")
    return items if isinstance(items, PromptEmbedding) else items * n


def _spread_negative(negative: str | Sequence[str] | None, n: int) -> list[str] | None:
    if negative is None or isinstance(negative, str):
        return None if negative is None else [negative] * n
    if len(negative) != n:
        raise InputError(f"{len(negative)} negative prompts for {n} samples: give one, or one for each")
    return list(negative)
