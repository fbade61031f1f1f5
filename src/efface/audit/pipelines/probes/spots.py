"""Places in prompts that a search fills with words of the tokenizer: soft while it searches, written out at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from efface.audit.pipelines.probes.subject import NotApplicableError
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView


@dataclass(frozen=True, eq=False)
class Spots:
    """N prompts with k places each.

    Attributes:
        view: The pipeline.
        texts: The prompts, with the carrier in each place.
        carrier: The word that keeps a place.
        places: How many there are in a prompt.
        without: Words that no place is given.
    """

    view: PipelineView
    texts: tuple[str, ...]
    carrier: str
    places: int
    without: frozenset[str] = frozenset()

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words there are to choose from: one token of every text encoder, found again in a prompt.

        Raises:
            NotApplicableError: If there are none.
        """
        known = [set(self.view.words.whole(name).values()) for name in self.view.words.tokenizers]
        out = {word.lower() for word in self.without} | {self.carrier}
        common = {word for word in set.intersection(*known) if word.lower() not in out}
        found = tuple(sorted(word for word in common if word.isascii() and word.isalpha()))
        if len(found) < _FEWEST:
            raise NotApplicableError(f"{len(found)} words are one token of every text encoder: too few to search")
        return found

    @cached_property
    def tables(self) -> dict[str, Tensor]:
        """Text encoder -> `(words, width)` vectors of the words."""
        words = self.view.words
        return {
            name: words.table(name).detach().float()[[words.token(name, word) for word in self.words]]
            for name in words.tokenizers
        }

    def encoded(self, vectors: dict[str, Tensor]) -> PromptEmbedding:
        """The prompts with vectors `(n, k, width)` of each encoder in their places, one branch; gradients flow.

        Raises:
            NotApplicableError: If no gradient comes through what is on the pipeline.
        """
        with torch.enable_grad(), self.view.words.given(self.carrier, vectors):
            found = self.view.encode(list(self.texts), allow_unknown=True, truncate=True, grad=True)
        if not found.sequence.requires_grad:
            raise NotApplicableError("no gradient comes through what is on the pipeline to its words")
        return found.replace(negative=None)

    def written(self, chosen: Tensor) -> list[str]:
        """The prompts with words in their places; `chosen` are `(n, k)` numbers of words.

        Raises:
            NotApplicableError: If a tokenizer reads one of them in another way.
        """
        found = []
        for text, row in zip(self.texts, chosen.tolist(), strict=True):
            put = [self.words[i] for i in row]
            left = iter(put)
            written = " ".join(next(left) if word == self.carrier else word for word in text.split())
            for name in self.view.words.tokenizers:
                ids = self.view.words.ids(name, written)
                if any(self.view.words.token(name, word) not in ids for word in put):
                    raise NotApplicableError(f"{name} reads {written!r} in another way than its words")
            found.append(written)
        return found


_FEWEST = 2


def with_prefix(view: PipelineView, prompts: Sequence[str], places: int, without: Sequence[str] = ()) -> Spots:
    """Prompts behind k places."""
    carrier = view.words.carrier(prompts)
    begin = " ".join([carrier] * places)
    return Spots(view, tuple(f"{begin} {text}" for text in prompts), carrier, places, frozenset(without))


def in_place_of(view: PipelineView, prompts: Sequence[str], places: int, without: Sequence[str] = ()) -> Spots:
    """K places, and nothing else, for each prompt."""
    carrier = view.words.carrier(prompts)
    return Spots(view, (" ".join([carrier] * places),) * len(prompts), carrier, places, frozenset(without))


def between(view: PipelineView, prompts: Sequence[str], every: int, without: Sequence[str] = ()) -> Spots:
    """Prompts with a place after each few words; all have as many as the one with the fewest.

    >>> " ".join(_spread("a red circle on a white ground".split(), 3, "*", 2))
    'a red circle * on a white * ground'
    """
    carrier = view.words.carrier(prompts)
    places = max(1, min(len(text.split()) // every for text in prompts))
    texts = tuple(" ".join(_spread(text.split(), every, carrier, places)) for text in prompts)
    return Spots(view, texts, carrier, places, frozenset(without))


def _spread(words: Sequence[str], every: int, carrier: str, places: int) -> list[str]:
    found: list[str] = []
    put = 0
    for i, word in enumerate(words, start=1):
        found.append(word)
        if i % every == 0 and put < places:
            found.append(carrier)
            put += 1
    return [*found, *[carrier] * (places - put)]


def onto_simplex(rows: Tensor) -> Tensor:
    """The nearest rows of which all entries are at least 0 and the sum is 1.

    Source: Duchi et al., Efficient projections onto the l1-ball (ICML 2008), figure 1; the released attack bisects.

    >>> onto_simplex(torch.tensor([[0.5, 0.9, -0.2]])).tolist()[0]  # doctest: +ELLIPSIS
    [0.30..., 0.69..., 0.0]
    """
    ordered = rows.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(-1) - 1
    n = torch.arange(1, rows.shape[-1] + 1, device=rows.device)
    last = (ordered - sums / n > 0).sum(-1, keepdim=True)
    return (rows - sums.gather(-1, last - 1) / last).clamp(min=0)


class Straight(torch.autograd.Function):
    """A sample of each row as one of its entries; backwards the gradient itself, bounded to [-1, 1]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, source: torch.Generator) -> Tensor:  # type: ignore[override]
        """One-hot samples of rows of probabilities."""
        flat = (rows.detach().cpu().flatten(0, -2) + 1e-12).float()
        picked = torch.multinomial(flat, 1, generator=source).view(rows.shape[:-1]).to(rows.device)
        return torch.nn.functional.one_hot(picked, rows.shape[-1]).to(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradient, bounded."""
        return torch.nn.functional.hardtanh(grads[0]), None
