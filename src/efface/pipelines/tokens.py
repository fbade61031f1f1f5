"""Which token stands where in a prompt: plain values, made by `tokenization`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from efface.pipelines.embedding import Slot

Span = tuple[int, int]


@dataclass(frozen=True)
class Tokens:
    """One prompt as one text encoder gets it.

    Attributes:
        encoder: Name of the text encoder.
        tokenizer: Name of the tokenizer.
        text: The text as it reached the tokenizer: cleaned, or in a template.
        ids: Token ids, padded to the window.
        content: First row that is not padding, and the one past the last.
        start: Row of the start-of-text token (BERT's [CLS]); None if the tokenizer writes none.
        eos: Row of the end-of-text token (BERT's [SEP]); None if the tokenizer writes none.
        padding: First row of padding, and the one past the last.
        spans: Characters of `text` that each row stands for; (0, 0) for special tokens and padding.
        prompt: Characters of `text` that are the prompt.
        length: How many tokens the text has without truncation.
        unknown: Words of the prompt that the tokenizer does not know.
        slot: Where the rows go in the embedding.
    """

    encoder: str
    tokenizer: str
    text: str
    ids: tuple[int, ...]
    content: Span
    start: int | None
    eos: int | None
    padding: Span
    spans: tuple[Span, ...]
    prompt: Span
    length: int
    unknown: tuple[str, ...]
    slot: Slot

    @property
    def window(self) -> int:
        """How many tokens the text encoder is given."""
        return len(self.ids)

    @property
    def truncated(self) -> bool:
        """Whether the end of the text is cut off."""
        return self.length > self.window

    def rows(self, word: str) -> tuple[int, ...]:
        """Rows of a word or phrase in the prompt, every time it occurs; none if it does not."""
        start, stop = self.prompt
        pattern = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
        found = [m.span() for m in re.finditer(pattern, self.text, re.IGNORECASE) if start <= m.start() < stop]
        return tuple(
            row for row, (a, b) in enumerate(self.spans) if any(a < end and b > begin and a < b for begin, end in found)
        )

    def sequence_rows(self, rows: Sequence[int]) -> tuple[int, ...]:
        """The same rows in the sequence of the embedding; those that do not get there are left out."""
        first, stop = self.slot.rows
        return tuple(r + self.slot.shift for r in rows if first <= r + self.slot.shift < stop)


@dataclass(frozen=True)
class WordRows:
    """Rows of a word in one text encoder and in the sequence that the denoiser gets."""

    encoder: str
    rows: tuple[int, ...]
    sequence: tuple[int, ...]
