"""Prompts of a case as its denoiser is given them, and what it is given where nothing is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView


def asked(view: PipelineView, texts: Sequence[str]) -> PromptEmbedding:
    """Prompts, one branch; through the edits of text that are on the pipeline."""
    return view.encode(list(texts), allow_unknown=True).replace(negative=None)


def empty(view: PipelineView, n: int) -> PromptEmbedding:
    """What guidance starts from, n times: the pipeline's own negative branch, or the empty prompt where it has none."""
    found = view.encode("")
    start = found if found.negative is None else found.negative.replace(prompts=("",))
    return PromptEmbedding.cat([start.replace(negative=None)] * n)
