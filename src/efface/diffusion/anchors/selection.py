"""Anchors by what the text encoder and the denoiser's first readers of text make of candidates.

Inspired by SELECT (arXiv:2510.16342), which chooses sibling-exclusive anchors in two stages, contextual activation and
semantic coherence, and keeps boundary anchors. **The formulas, thresholds and candidates are ours**: the paper's were
in no text that we could read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.concept import Concept, ConceptLike, Concepts, word_key
from efface.core.config import Config, option
from efface.core.doors import check_call
from efface.diffusion.anchors.anchors import Anchors, Candidate
from efface.diffusion.anchors.candidates import (
    VOCABULARY,
    WORDNET,
    Pool,
    of_list,
    of_vocabulary,
    of_wordnet,
    ruled_out,
)
from efface.diffusion.anchors.encoding import ShortEncoder
from efface.diffusion.anchors.keys import TextReaders
from efface.diffusion.anchors.readings import Readings, read
from efface.diffusion.anchors.vocabulary import Vocabulary
from efface.pipelines.view import PipelineView

Source = Literal["wordnet", "vocabulary"]
"""Where candidates come from where none are given."""

_TEMPLATES = ("a {} in a photo", "the picture of a {}")
_OTHERS = 16
_ANY_MEMBERS = 2
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class AnchorConfig(Config):
    """Options of the choice."""

    boundary: int = option(5, "how many words are kept beside the anchor", least=0)
    sibling: float = option(0.2, "a candidate must be this near to the family's middle, 0 being any word", most=1)
    exclusive: float = option(0.4, "and may have this much of what tells the concept from its family", most=1)
    pieces: int = option(4, "tokens beyond which a candidate that was not given is rare", least=1)
    shortlist: int = option(32, "how many candidates are read in templates: the nearest by word vectors", least=1)


def select_anchors(
    pipe: Any,
    concept: ConceptLike,
    candidates: Source | Sequence[str] = WORDNET,
    *,
    parent: str | None = None,
    synset: str | None = None,
    wordnet: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Anchors:
    """Choose what to show in place of a concept, and what to keep beside it.

    **Inspired by SELECT (arXiv:2510.16342); the formulas are ours.** `x` is what the text encoder makes of a word in
    a template: the mean of the word's own rows, and the row that has read the whole prompt. `o` is its mean over 16
    words of the vocabulary at random, `m` that of the concept c and its candidates; where the parent is known, `m` is
    halfway to it. Means over templates:

    * sibling-exclusive filter: `cos(a - o, m' - o) >= sibling`, with m' the middle m without the candidate a itself;
      `cos(a - m, c - m) <= exclusive`, m having o twice among its members, so that few candidates say less;
    * stage one, contextual activation: `cos(W_l (a_r - o_r), W_l (c_r - o_r))` over the layers l that make keys and
      values of text, and over the rows r *around* the word: redirecting the concept to the anchor shall not drag
      its context along;
    * stage two, semantic coherence: `cos(a - o, m' - o)` of the row that has read the whole prompt.

    The anchor is the candidate with the highest product, and the boundary those with the largest `cos(a - o, c - o)`
    beside it. Of more candidates than `shortlist` those are read whose word vectors are nearest to the concept's.
    Ties go to the word that is first in the alphabet: the order of candidates does not matter.

    Args:
        pipe: A pipeline, or a view of it; nothing of it is changed. Its denoiser is not run for candidates.
        concept: The concept. Its words and what it preserves can become neither anchor nor boundary; templates of its
            own are used instead of ours.
        candidates: Words; `"wordnet"` for sister terms; `"vocabulary"` for the text encoder's nearest words.
        parent: What the concept is a kind of; None for WordNet's, or for none.
        synset: Which meaning WordNet takes, `"cat.n.01"`; None lets the text encoder choose.
        wordnet: Folder of a WordNet; None for the one that is found.
        **options: Of `AnchorConfig`.

    Raises:
        InputError: If the pipeline does not know a word, WordNet does not know the concept, or no candidate is left;
            the text says which filter dropped which.
        MissingExtraError: If WordNet is asked for and is not there.

    Does not guarantee: that the denoiser can draw the anchor, or that it is the best one by pictures.
    """
    check_call(select_anchors, locals())
    single = Concept.of(concept)
    return Selector.of(pipe, options).choose(single, single.words, candidates, parent, synset, wordnet)


def select_for_each(
    pipe: Any,
    concepts: Concepts,
    candidates: Source | Sequence[str] = WORDNET,
    *,
    wordnet: str | os.PathLike[str] | None = None,
    **options: Any,
) -> tuple[Anchors, ...]:
    """The same for several concepts: what one erases is neither anchor nor boundary of another (see also `apart`).

    Args:
        pipe: As in `select_anchors`.
        concepts: The concepts.
        candidates: As in `select_anchors`, the same for all.
        wordnet: As in `select_anchors`.
        **options: Of `AnchorConfig`.
    """
    check_call(select_for_each, locals())
    every = Concept.each(concepts)
    erased = tuple(word for each in every for word in each.words)
    selector = Selector.of(pipe, options)
    return apart([selector.choose(each, erased, candidates, None, None, wordnet) for each in every])


def apart(chosen: Sequence[Anchors]) -> tuple[Anchors, ...]:
    """Choices that go together: the anchor of one is in no boundary of another, as it stays by itself."""
    shown = {word_key(each.anchor): each.concept for each in chosen}
    return tuple(_without(each, shown) for each in chosen)


def _without(chosen: Anchors, shown: dict[str, str]) -> Anchors:
    out = {word: f"the anchor of {shown[word_key(word)]}" for word in chosen.boundary if word_key(word) in shown}
    table = [replace(row, role="kept", why=out[row.word]) if row.word in out else row for row in chosen.table]
    return replace(chosen, boundary=tuple(w for w in chosen.boundary if w not in out), table=tuple(table))


@dataclass(frozen=True)
class Selector:
    """What choices for several concepts share.

    Attributes:
        vocabulary: Of the text encoder.
        encoder: The text side.
        readers: The layers of the denoiser that read it.
        config: The options.
    """

    vocabulary: Vocabulary
    encoder: ShortEncoder
    readers: TextReaders
    config: AnchorConfig

    @classmethod
    def of(cls, pipe: Any, options: dict[str, Any]) -> Selector:
        """That of a pipeline."""
        view = PipelineView.of(pipe)
        return cls(Vocabulary(view), ShortEncoder(view), TextReaders(view), AnchorConfig.of(options, method="select"))

    def choose(
        self,
        concept: Concept,
        erased: Sequence[str],
        candidates: Source | Sequence[str],
        parent: str | None,
        synset: str | None,
        folder: str | os.PathLike[str] | None,
    ) -> Anchors:
        """The anchors of one concept; the arguments are those of `select_anchors`, and all that is erased with it."""
        self.encoder.view.check_concept(replace(concept, anchor=None))
        pool = self.pool(concept, candidates, parent, synset, folder)
        table = {w: Candidate(w, source, "kept", "") for w, source in sorted(pool.words.items())}
        _drop(table, ruled_out(pool, concept, erased, self.vocabulary, self.config.pieces))
        self._shorten(table, concept)
        if not _left(table):
            raise InputError(_none_left(concept, table))
        others = self.vocabulary.any_words(_OTHERS, [*concept.words, *table])
        self._score(table, concept, pool, others)
        anchor, boundary = self._decide(table, concept)
        order = {"anchor": 0, "boundary": 1, "kept": 2, "dropped": 3}
        rows = sorted(table.values(), key=lambda each: (order[each.role], -(each.score or 0.0), each.word))
        return Anchors(concept.name, anchor, boundary, tuple(rows), self._how(candidates), pool.sense)

    def pool(
        self,
        concept: Concept,
        candidates: Source | Sequence[str],
        parent: str | None,
        synset: str | None,
        folder: str | os.PathLike[str] | None,
    ) -> Pool:
        """The candidates, from where they are asked for."""
        if parent is not None and word_key(parent) in map(word_key, concept.words):
            raise InputError(f"the parent {parent!r} is what is to be erased: name what it is a kind of, or none")
        if parent is not None and self.vocabulary.unknown([parent]):
            raise InputError(
                f"the text encoder does not know the parent {parent!r}: write another word, or leave it out"
            )
        if isinstance(candidates, str) and candidates == WORDNET:
            return of_wordnet(self.vocabulary, self.encoder, concept, parent, synset, folder)
        if synset is not None:
            raise InputError("synset says what WordNet means: it goes with candidates='wordnet'")
        if not isinstance(candidates, str):
            return of_list([*candidates], parent)
        if candidates == VOCABULARY:
            return of_vocabulary(self.vocabulary, concept, parent)
        raise InputError(f"candidates is {candidates!r}: write 'wordnet', 'vocabulary', or a list of words")

    def _how(self, candidates: Source | Sequence[str]) -> str:
        source = candidates if isinstance(candidates, str) else "given words"
        return f"inspired by SELECT, formulas ours; candidates: {source}; words read by {self.vocabulary.encoder}"

    def _shorten(self, table: dict[str, Candidate], concept: Concept) -> None:
        words = _left(table)
        if len(words) <= self.config.shortlist:
            return
        near = self.vocabulary.nearness(words, concept.name)
        order = sorted(range(len(words)), key=lambda i: (-round(near[i], _DIGITS), words[i]))
        last = near[order[self.config.shortlist - 1]]
        _drop(
            table,
            {
                words[i]: f"not among the {self.config.shortlist} nearest word vectors ({near[i]:.2f} < {last:.2f})"
                for i in order[self.config.shortlist :]
            },
        )

    def _score(self, table: dict[str, Candidate], concept: Concept, pool: Pool, others: Sequence[str]) -> None:
        """Read what is left, filter it, and score what passes."""
        words = _left(table)
        parent = [pool.parent] if pool.parent and not self.vocabulary.unknown([pool.parent]) else []
        every = list(dict.fromkeys([concept.name, *parent, *words, *others]))
        own = concept.templates != Concept("a").templates
        readings = read(self.encoder, every, concept.templates if own else _TEMPLATES)
        at = _Places(readings, concept.name, words, parent, others)
        numbers = [x.tolist() for x in (at.near(), at.sibling(), at.exclusive())]
        for word, near, s, e in zip(words, *numbers, strict=True):
            n, s, e = round(near, _DIGITS), round(s, _DIGITS), round(e, _DIGITS)
            table[word] = replace(table[word], near=n, sibling=s, exclusive=e)
            if s < self.config.sibling:
                _drop(table, {word: f"no sibling: {s:.2f} < {self.config.sibling:g}"})
            elif e > self.config.exclusive:
                _drop(table, {word: f"too like {concept.name}: {e:.2f} > {self.config.exclusive:g}"})
        if not (kept := _left(table)):
            raise InputError(_none_left(concept, table))
        context, coherence = at.context(self.readers, kept).tolist(), at.coherence(kept).tolist()
        for word, a, b in zip(kept, context, coherence, strict=True):
            score = max(a, 0.0) * max(b, 0.0)
            a, b, score = round(a, _DIGITS), round(b, _DIGITS), round(score, _DIGITS)
            table[word] = replace(table[word], context=a, coherence=b, score=score)

    def _decide(self, table: dict[str, Candidate], concept: Concept) -> tuple[str, tuple[str, ...]]:
        kept = [table[word] for word in _left(table)]
        best = min(kept, key=lambda each: (-(each.score or 0.0), each.word))
        near = sorted((each for each in kept if each is not best), key=lambda e: (-(e.near or 0.0), e.word))
        boundary = near[: self.config.boundary]
        for each in kept:
            table[each.word] = replace(each, why="passed all filters")
        for each in boundary:
            table[each.word] = replace(each, role="boundary", why=f"among the nearest to {concept.name} beside it")
        table[best.word] = replace(best, role="anchor", why="highest context x coherence")
        return best.word, tuple(each.word for each in boundary)


@dataclass(frozen=True)
class _Places:
    """Words of a reading by what they are in a choice."""

    readings: Readings
    target: str
    words: Sequence[str]
    parent: Sequence[str]
    others: Sequence[str]

    def _rows(self, words: Sequence[str]) -> list[int]:
        return [self.readings.row[word] for word in words]

    def _any(self, x: Tensor) -> Tensor:
        """What x is like whatever the word; without other words, the mean of all."""
        return x[self._rows(self.others)].mean(0) if self.others else x.mean(0)

    def _towards(self, x: Tensor, words: Sequence[str]) -> Tensor:
        """How near words are to the middle of the rest of the family, `(n,)`."""
        x = x - self._any(x)
        members, own = x[self._rows([self.target, *self.words])], x[self._rows(words)]
        rest = (members.sum(0) - own) / max(1, len(members) - 1)
        if self.parent:
            rest = (rest + x[self._rows(self.parent)].mean(0)) / 2
        return _cos(own, rest)

    def sibling(self) -> Tensor:
        return self._towards(self.readings.means, self.words)

    def near(self) -> Tensor:
        x = self.readings.means - self._any(self.readings.means)
        return _cos(x[self._rows(self.words)], x[self.readings.row[self.target]])

    def exclusive(self) -> Tensor:
        x = self.readings.means - self._any(self.readings.means)
        members = x[self._rows([self.target, *self.words])]
        middle = members.sum(0) / (len(members) + _ANY_MEMBERS)
        if self.parent:
            middle = (middle + x[self._rows(self.parent)].mean(0)) / 2
        return _cos(x[self._rows(self.words)] - middle, x[self.readings.row[self.target]] - middle)

    def context(self, readers: TextReaders, words: Sequence[str]) -> Tensor:
        each = [
            readers.likeness(x[self._rows(words)], x[self.readings.row[self.target]], self._any(x))
            for x in self.readings.around
        ]
        return torch.stack(each).mean(0)

    def coherence(self, words: Sequence[str]) -> Tensor:
        return self._towards(self.readings.summary, words)


def _cos(x: Tensor, y: Tensor) -> Tensor:
    """Mean over templates of cosines, `(n,)`."""
    return torch.cosine_similarity(x, y, dim=-1).mean(-1)


def _left(table: dict[str, Candidate]) -> list[str]:
    return [word for word, each in table.items() if each.role != "dropped"]


def _drop(table: dict[str, Candidate], reasons: dict[str, str]) -> None:
    for word, why in reasons.items():
        table[word] = replace(table[word], role="dropped", why=why)


def _none_left(concept: Concept, table: dict[str, Candidate]) -> str:
    said = [f"{word!r} ({each.why})" for word, each in table.items()]
    more = f" and {len(said) - 8} more" if len(said) > 8 else ""
    return (
        f"no candidate for an anchor of {concept.name!r} is left: {', '.join(said[:8])}{more}. Give other "
        "candidates=[...], or loosen sibling= or exclusive="
    )
