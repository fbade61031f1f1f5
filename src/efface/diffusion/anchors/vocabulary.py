"""Words of a text encoder's own vocabulary, and the vectors that it starts from: what costs no pass."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface.pipelines.encoding import check_texts
from efface.pipelines.view import PipelineView

_MARKS = ("</w>", "▁", "Ġ")
_WORD = re.compile(r"[^\W\d_]{3,}")


class Vocabulary:
    """The vocabulary of the first text encoder that gives rows, or of the first of all.

    Attributes:
        view: The pipeline.
        encoder: Name of the text encoder.
        tokenizer: Its tokenizer.
    """

    def __init__(self, view: PipelineView) -> None:
        self.view = view
        slots = sorted(view.layout, key=lambda slot: not slot.in_sequence)
        self.encoder = slots[0].encoder
        self.tokenizer: Any = view.tokenizers[view.tokens("a")[self.encoder].tokenizer]

    @cached_property
    def words(self) -> dict[str, int]:
        """Lower-case words of three letters or more that are one token, with its number."""
        known: dict[str, int] = self.tokenizer.get_vocab()
        marked = {mark for mark in _MARKS if any(mark in token for token in known)}
        special = set(self.tokenizer.all_special_tokens)
        found: dict[str, int] = {}
        for token, number in known.items():
            text = token
            for mark in marked:
                text = text.replace(mark, "")
            # Where a sign marks words, a token without it is part of one.
            if (text == token and marked) or token in special or text != text.lower() or not _WORD.fullmatch(text):
                continue
            found[text] = number
        return dict(sorted(found.items()))

    @cached_property
    def table(self) -> Tensor:
        """The text encoder's input embedding, `(tokens, width)`."""
        weight = self.view.text_encoders[self.encoder].get_input_embeddings().weight  # type: ignore[operator]
        return weight.detach().float()

    def ids(self, words: Sequence[str]) -> list[list[int]]:
        """Tokens of each word, without those of start and end."""
        if not words:
            return []
        check_texts(words, "a word")
        return self.tokenizer(list(words), add_special_tokens=False, verbose=False)["input_ids"]

    def unknown(self, words: Sequence[str]) -> set[str]:
        """Words that one of the pipeline's tokenizers does not know in full."""
        found: set[str] = set()
        check_texts(words, "a word")
        for tokenizer in self.view.tokenizers.values() if words else ():
            unk = getattr(tokenizer, "unk_token_id", None)
            ids = tokenizer(list(words), add_special_tokens=False, verbose=False)["input_ids"]
            found |= {word for word, each in zip(words, ids, strict=True) if unk in each or not each}
        return found

    def vectors(self, words: Sequence[str]) -> Tensor:
        """The mean vector of each word's tokens, `(n, width)`, less that of all words of the vocabulary."""
        rows = [self.table[each or [0]].mean(0) for each in self.ids(words)]
        return torch.stack(rows) - self.middle

    @cached_property
    def middle(self) -> Tensor:
        """Mean vector of all words."""
        return self.table[list(self.words.values())].mean(0) if self.words else self.table.mean(0)

    def nearness(self, words: Sequence[str], target: str) -> list[float]:
        """Cosine of each word's vector with the target's."""
        return torch.cosine_similarity(self.vectors(words), self.vectors([target])).tolist() if words else []

    def nearest(self, target: str, n: int) -> tuple[str, ...]:
        """The n words nearest to one, itself left out.

        Raises:
            InputError: If the vocabulary has no whole words.
        """
        if not self.words:
            raise InputError(f"the tokenizer of {self.encoder} has no whole words: give candidates=[...]")
        words = list(self.words)
        vectors = self.table[list(self.words.values())] - self.middle
        near = torch.cosine_similarity(vectors, self.vectors([target]))
        order = torch.sort(near, descending=True, stable=True).indices.tolist()
        return tuple(self._whole([words[i] for i in order if words[i] != target.casefold()], n))

    def any_words(self, n: int, without: Sequence[str], seed: int = 0) -> tuple[str, ...]:
        """N words at random, the same every time: what a word is like that has nothing to do with the concept."""
        words = list(self.words)
        random.Random(seed).shuffle(words)
        left = {word.casefold() for word in without}
        return tuple(self._whole([word for word in words if word not in left], n))

    def _whole(self, words: Sequence[str], n: int) -> list[str]:
        """The first n words that the tokenizer reads as the one token that they are."""
        found: list[str] = []
        for start in range(0, len(words), max(n, 1)):
            part = words[start : start + n]
            found += [w for w, each in zip(part, self.ids(part), strict=True) if each == [self.words[w]]]
            if len(found) >= n:
                break
        return found[:n]
