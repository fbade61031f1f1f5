"""Which rows of a prompt are keys, and which row of another prompt each is paired with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import shown
from efface.core.concept import Concept, word_key
from efface.core.method import Field
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.tokens import Tokens
from efface.pipelines.view import PipelineView

_T = TypeVar("_T")

Span = Literal["last", "last_to_end", "all"]
KeySpan = Span | Literal["others", "text"]
"""Which rows of a prompt are keys.

`"last"`: the last token of the word; `"last_to_end"`: from there to the end of the window, as in a causal text encoder
the rows behind a word carry it too; `"all"`: every row; `"others"`: every row that is not of the word;
`"text"`: the rows of the text itself, its start and end among them, without padding.
"""

SPAN_HELP = "which rows of a prompt are keys: the word's last, from there to the end of the window, or all of them"

READS: tuple[Field, ...] = ("synonyms", "erase_from", "anchor", "preserve", "templates", "neutral")


def reads_of(config: Any, data: Mapping[str, Any]) -> tuple[Field, ...]:
    """What a method with such options reads of a concept."""
    left_out = {"templates": not config.in_templates, "anchor": data.get("debias") is not None}
    return tuple(name for name in READS if not left_out.get(name))


AT_ONCE = 32
"""How many pairs of prompts are encoded at once."""


@dataclass(frozen=True)
class Phrase:
    """A word or phrase in a prompt."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Pair:
    """What is erased, and what is read in its place.

    Attributes:
        key: What is erased.
        target: What it is to be read as.
    """

    key: Phrase
    target: Phrase


def pairs_of(concepts: Sequence[Concept], in_templates: bool = False) -> list[Pair]:
    """What each word of each concept is to be read as: its anchor, or else its neutral prompt.

    Of an attribute of something (`erase_from`) the two together are read as the thing, or the thing with the anchor as
    its attribute.

    Args:
        concepts: The concepts.
        in_templates: In each template, not by itself.

    >>> [(p.key.prompt, p.target.prompt) for p in pairs_of([Concept("red", erase_from="apple")])]
    [('red apple', 'apple')]
    """
    found = []
    for concept in concepts:
        of = f" {concept.erase_from}" if concept.erase_from else ""
        target = f"{concept.anchor}{of}" if concept.anchor else of.strip() or concept.neutral
        for template in concept.templates if in_templates else ("{}",):
            for word in concept.words:
                found.append(Pair(_phrase(template, word + of), _phrase(template, target)))
    return found


def preserved(concepts: Sequence[Concept], in_templates: bool = False) -> list[Phrase]:
    """What must be read as before: words to preserve, the neutral prompt, and an attribute elsewhere than in its thing.

    Args:
        concepts: The concepts.
        in_templates: In each template, not by itself.
    """
    found: dict[Phrase, None] = {}
    for concept in concepts:
        own = (*concept.words, concept.erase_from) if concept.erase_from else ()
        for template in concept.templates if in_templates else ("{}",):
            for word in (*concept.preserve, *own):
                found[_phrase(template, word)] = None
        found[Phrase(concept.neutral, concept.neutral)] = None
    erased = {pair.key.prompt for pair in pairs_of(concepts, in_templates)}
    return [phrase for phrase in found if phrase.prompt not in erased]


def _phrase(template: str, text: str) -> Phrase:
    return Phrase(template.replace("{}", text).strip(), text)


def texts_of(given: Any, name: str) -> tuple[str, ...]:
    """Further prompts of a fit; none for None.

    Raises:
        InputError: If they are no list of strings.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        raise InputError(f"{name} is one string: write a list, {name}=[{given!r}]")
    if not isinstance(given, Sequence) or not all(isinstance(each, str) for each in given):
        raise InputError(f"{name} is {shown(given)}: write a list of strings")
    return tuple(given)


def check_words(view: PipelineView, concepts: Sequence[Concept], *, more: Sequence[str] = ()) -> None:
    """Refuse concepts that the pipeline cannot read, and an anchor that another concept, or the same, preserves.

    Raises:
        InputError: If there is one.
    """
    kept = {word_key(word): concept for concept in concepts for word in concept.preserve}
    for concept in concepts:
        if concept.anchor is not None and word_key(concept.anchor) in kept:
            raise InputError(
                f"the anchor {concept.anchor!r} of {concept.name!r} is also to be preserved by "
                f"{kept[word_key(concept.anchor)].name!r}: take it out of preserve, as what is shown in a word's place "
                "stays by itself"
            )
    words = dict.fromkeys(
        word
        for c in concepts
        for word in (*c.words, *c.preserve, *(each for each in (c.anchor, c.erase_from) if each), c.neutral)
    )
    view.check_prompts([*words, *more])


class Read:
    """Prompts, encoded, with their tokens.

    Attributes:
        embedding: n prompts.
    """

    def __init__(self, view: PipelineView, prompts: Sequence[str]) -> None:
        self.at = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        texts = list(self.at)
        # Templates may have words that a small tokenizer does not know: they are the same in what is paired.
        with torch.no_grad():
            self.embedding = view.encode(texts, allow_unknown=True).replace(negative=None)
        for name, value in self.embedding.tensors().items():
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"the {name} of {texts[:3]} is not finite: convert the text encoder to float32")
        self._tokens = view.text.tokenization(texts)
        self._bands = _bands(self.embedding)

    def rows(self, phrase: Phrase, span: KeySpan) -> list[int]:
        """The rows of a phrase's prompt in the sequence that are keys."""
        i = self.at[phrase.prompt]
        return [row for band in self._bands for row in self._of_band(i, phrase, band, span)]

    def paired(self, pair: Pair, span: KeySpan) -> tuple[list[int], list[int]]:
        """Rows of the key's prompt, and for each the row of the target's prompt that stands in its place.

        They are counted from the last token of each one's phrase, so that ends of text go together; with `"all"` from
        the beginning. A row that the target's prompt does not have, or that says nothing, stands for its nearest.
        """
        i, j = self.at[pair.key.prompt], self.at[pair.target.prompt]
        keys: list[int] = []
        targets: list[int] = []
        for band in self._bands:
            rows = self._of_band(i, pair.key, band, span)
            own, other = self._last(i, pair.key, band), self._last(j, pair.target, band)
            said = self._said(j, band)
            if not said:
                continue
            keys += rows
            for row in rows:
                shift = other - own if span != "all" and row >= own else 0
                targets.append(min(max(row + shift, said[0]), said[-1]))
        return keys, targets

    def _of_band(self, i: int, phrase: Phrase, band: _Band, span: KeySpan) -> list[int]:
        said, last = self._said(i, band), self._last(i, phrase, band)
        if span == "all":
            return said
        if span == "last":
            return [row for row in said if row == last]
        if span == "last_to_end":
            return [row for row in said if row >= last]
        if span == "text":
            return [row for row in said if any(_inside(tokens, row) for tokens in self._of(i, band))]
        own = {row for tokens in self._of(i, band) for row in tokens.sequence_rows(_rows(tokens, phrase))}
        return [row for row in said if row not in own]

    def _said(self, i: int, band: _Band) -> list[int]:
        """Rows that the denoiser attends to and that are not zero (padding in Wan)."""
        first, stop = band.rows
        said = (self.embedding.sequence[i, first:stop] != 0).any(-1)
        if self.embedding.mask is not None:
            said = said & self.embedding.mask[i, first:stop].to(said.device).bool()
        return [first + int(row) for row in said.nonzero().flatten()]

    def _last(self, i: int, phrase: Phrase, band: _Band) -> int:
        """Where the phrase ends; of encoders side by side the later one. Of the empty prompt: before the end of text.

        That is the start of text in CLIP, and the end of text in T5, which has no start.
        """
        found = []
        for tokens in self._of(i, band):
            rows = _rows(tokens, phrase)
            end = tokens.content[1] if tokens.eos is None else tokens.eos
            found.append((rows[-1] if rows else end - 1) + tokens.slot.shift)
        return max(found)

    def _of(self, i: int, band: _Band) -> list[Tokens]:
        return [tokens for tokens in self._tokens[i] if tokens.encoder in band.encoders]


@dataclass(frozen=True)
class _Band:
    """Rows of the sequence, and the text encoders that lie in them side by side."""

    rows: tuple[int, int]
    encoders: tuple[str, ...]


def _bands(embedding: PromptEmbedding) -> list[_Band]:
    found: dict[tuple[int, int], tuple[str, ...]] = {}
    for slot in embedding.layout:
        if slot.in_sequence:
            rows = (slot.rows[0], min(slot.rows[1], embedding.sequence.shape[1]))
            found[rows] = (*found.get(rows, ()), slot.encoder)
    return [_Band(rows, encoders) for rows, encoders in found.items()]


def _rows(tokens: Tokens, phrase: Phrase) -> tuple[int, ...]:
    return tokens.rows(phrase.text) if phrase.text.strip() else ()


def _inside(tokens: Tokens, row: int) -> bool:
    first, stop = tokens.content
    return first <= row - tokens.slot.shift < stop


def in_parts(things: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Some at a time."""
    for start in range(0, len(things), AT_ONCE):
        yield things[start : start + AT_ONCE]


def picked(x: Tensor, i: int, rows: Sequence[int], pooled: bool) -> Tensor:
    """Some rows of one prompt of `(n, rows, width)`; of pooled vectors the one that there is."""
    return x[i] if pooled else x[i, torch.tensor(rows, dtype=torch.long, device=x.device)]
