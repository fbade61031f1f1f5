"""Which row of an embedded prompt is of what kind, seen from a word in it."""

from __future__ import annotations

from collections.abc import Sequence

from efface.pipelines.embedding_parts import Part
from efface.pipelines.tokens import Tokens
from efface.pipelines.view import PipelineView

WORD, BEFORE, AFTER, END, PADDING, START, WHOLE = "word", "before", "after", "end", "padding", "start", "whole"
"""Rows of the word, of what stands before and after it, of the end of text, of padding, of the start of text, which is
the same in every prompt where a text encoder is causal, and sums the prompt up where it is BERT's; a pooled vector."""

KINDS = (WORD, BEFORE, AFTER, END, PADDING, START, WHOLE)
"""All of them; of those that a part has, and that tell prompts apart, the last has read most of the prompt."""


def tokens_of(view: PipelineView, prompts: Sequence[str]) -> dict[str, dict[str, Tokens]]:
    """Prompt -> text encoder -> its tokens."""
    each = list(dict.fromkeys(prompts))
    return {
        prompt: {tokens.encoder: tokens for tokens in found}
        for prompt, found in zip(each, view.text.tokenization(each), strict=True)
    }


def kinds_of(tokens: Tokens, part: Part, word: str) -> list[str]:
    """The kind of each row of a part of a prompt's embedding; empty for rows of a template.

    Where the word is not found, as a tokenizer's cleaning may have changed it, all rows of text are taken for it.

    Args:
        tokens: The prompt in the part's text encoder.
        part: The part.
        word: The word.
    """
    if part.pooled:
        return [WHOLE]
    here = [_kind(tokens, row, set(tokens.rows(word))) for row in range(tokens.window)]
    shift = part.rows[0] - tokens.slot.shift
    return [here[r + shift] if 0 <= r + shift < len(here) else "" for r in range(part.rows[1] - part.rows[0])]


def _kind(tokens: Tokens, row: int, own: set[int]) -> str:
    if tokens.padding[0] <= row < tokens.padding[1]:
        return PADDING
    if row == tokens.eos:
        return END
    if row == tokens.start:
        return START
    start, stop = tokens.spans[row]
    if not (start < stop and start < tokens.prompt[1] and tokens.prompt[0] < stop):
        return ""
    if not own or row in own:
        return WORD
    return BEFORE if row < max(own) else AFTER
