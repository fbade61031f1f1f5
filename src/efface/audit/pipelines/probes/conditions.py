"""Prompts of a case as its denoiser is given them, and what it is given where nothing is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.restoring import lock_of
from efface.pipelines.text_edits import active_edits, listeners, skipping
from efface.pipelines.view import PipelineView


def asked(view: PipelineView, texts: Sequence[str]) -> PromptEmbedding:
    """Prompts, one branch; through the edits of text that are on the pipeline."""
    return view.encode(list(texts), allow_unknown=True).replace(negative=None)


def empty(view: PipelineView, n: int) -> PromptEmbedding:
    """What guidance starts from, n times: the pipeline's own negative branch, or the empty prompt where it has none.

    It is encoded with the weights as they are now, beside the edits of text that are on the pipeline: a guard that puts
    the concept into the negative branch must not make the denoiser look as if it had changed.
    """
    pipe = view.pipe
    edits = active_edits(pipe)
    with lock_of(pipe), torch.no_grad(), skipping(pipe, edits | listeners(pipe)):
        found = view.text.encoding([""], None, view.layout)
    start = found if found.negative is None else found.negative.replace(prompts=("",))
    return PromptEmbedding.cat([start.replace(negative=None)] * n).replace(edits=edits)
