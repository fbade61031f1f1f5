"""What erasers by guidance share: the text that is guided away from, and pipelines and calls without guidance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from efface._errors import InputError, NothingErasedWarning
from efface.core.concept import Concept
from efface.core.run import Run
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView


def text_of(view: PipelineView, concepts: Sequence[Concept], text: str | None) -> str:
    """A text of one's own, or all words with commas between them.

    Raises:
        InputError: If the pipeline cannot read it.
    """
    for concept in concepts:
        view.check_concept(concept)
    text = ", ".join(word for concept in concepts for word in concept.words) if text is None else text
    view.check_prompts([text], allow_unknown=True)  # the words are known; commas need not be
    return text


def check_guided(view: PipelineView, method: str) -> None:
    """Refuse a pipeline that runs without a negative prompt."""
    if not view.guidance.negative:
        raise InputError(
            f"{type(view.pipe).__name__} has {view.guidance.mode} guidance and runs without a negative prompt, so that "
            f"method={method!r} has nothing to guide with: choose a method that edits text or weights"
        )


def with_negative(embedding: PromptEmbedding, text: str, view: PipelineView) -> PromptEmbedding:
    """The prompts with a text behind the negative prompts that they have."""
    there = embedding.negative
    own = (there.prompts if there is not None else ()) or ("",) * len(embedding)
    apart = {} if there is None else {s.argument: there.texts.get(s.encoder) for s in there.layout}
    more: dict[str, Any] = {f"negative_{name}": _behind(texts, text) for name, texts in apart.items() if texts}
    encoded = view.encode([""] * len(embedding), negative=_behind(own, text), allow_unknown=True, **more)
    rows, given = encoded.sequence.shape[1], embedding.sequence.shape[1]
    if rows != given:
        raise InputError(
            f"the prompt was handed in as embeddings of {given} rows, and negative prompts have {rows} here: what is "
            "guided away from cannot go beside it; shorten the prompt, or choose a method that edits the prompt itself"
        )
    return embedding.replace(negative=encoded.negative)


def _behind(own: Sequence[str], text: str) -> list[str]:
    return [f"{before}, {text}" if before.strip() else text for before in own]


def tell_unguided(erasure: Any, run: Run, n: int) -> None:
    """Count and warn of prompts of a call without guidance."""
    run.count("prompts without guidance", n)
    warnings.warn(
        f"{erasure!r} erases nothing in a call without guidance: pass a guidance_scale above 1",
        NothingErasedWarning,
        stacklevel=2,
    )
