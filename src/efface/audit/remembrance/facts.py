"""Questions whose answers are known, as benchmarks of editing and unlearning have them, and who they are about.

What is remembered here is a fact of an entity: a query is hit where its answer says what was expected. So one word can
stand for many (Paris is the answer to all that is there), which names in running text could not tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from efface._errors import InputError
from efface._text import brief, shown
from efface.audit.remembrance.answering import takes_two
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.systems import REFUSED, Answers, Mention, Observation, Query
from efface.audit.remembrance.words import words
from efface.core.doors import check_call, check_fields

Wordings = tuple[tuple[str, ...], ...]
"""Groups of wordings: of each group one has to be said."""


@dataclass(frozen=True)
class Fact:
    """What answers should say.

    Attributes:
        query: Id of the query.
        entity: Whose fact it is.
        asked: Prompts, each with what its answer should say.
        every: Whether all answers have to say it, or one of them.
        conditions: What the system before has to know for the query to count: prompts with what they expect.
        from_share: Said is a wording of which so much is in the answer, as `recall` counts it; None asks for all of it,
            word by word in one piece.
    """

    query: str
    entity: str
    asked: tuple[tuple[str, Wordings], ...]
    every: bool = True
    conditions: tuple[tuple[str, Wordings], ...] = ()
    from_share: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        expected = [wordings for _, wordings in (*self.asked, *self.conditions)]
        if (
            not self.asked
            or not all(expected)
            or not all(any(map(words, group)) for each in expected for group in each)
        ):
            raise InputError(f"query {self.query!r} expects nothing that could be said: write at least one wording")
        if self.from_share is not None and not 0 < self.from_share <= 1:
            raise InputError(f"from_share is {self.from_share}: write a number above 0, up to 1, or None")

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is asked."""
        return tuple(prompt for prompt, _ in self.asked)

    def read(self, texts: Sequence[str], refuses: Callable[[str], bool] | None = None) -> Observation:
        """Answers to the prompts: they name the entity if they say its fact."""
        if refuses is not None and any(map(refuses, texts)):
            return Observation(status=REFUSED)
        hit, score = self.told(texts)
        return Observation((Mention(self.entity, None, score),) if hit else ())

    def told(self, texts: Sequence[str]) -> tuple[bool, float]:
        """Whether answers to the prompts say it, and how much of it."""
        said = [told(text, each, self.from_share) for text, (_, each) in zip(texts, self.asked, strict=True)]
        score = (min if self.every else max)(share for _, share in said)
        return (all if self.every else any)(hit for hit, _ in said), score


def told(text: str, expected: Sequence[Sequence[str]], from_share: float | None = None) -> tuple[bool, float]:
    """Whether a text says what is expected, and the least share of it that is there.

    >>> told("It lies in France.", [["French Republic", "France"]]), told("frances", [["France"]])
    ((True, 1.0), (False, 0.0))
    """
    said = words(text)
    score = min((max(_share(said, words(wording), from_share) for wording in group) for group in expected), default=0.0)
    return score >= (1.0 if from_share is None else from_share), score


def _share(said: list[str], wording: list[str], from_share: float | None) -> float:
    if not wording:
        return 0.0
    if from_share is not None:
        return recall(said, wording)
    return float(any(said[i : i + len(wording)] == wording for i in range(len(said) - len(wording) + 1)))


def recall(said: Sequence[str], wording: Sequence[str]) -> float:
    """Share of the words of a wording that are said in its order: the longest common subsequence (ROUGE-L's recall).

    >>> recall("the tower is in the city of paris".split(), "in the city paris".split())
    1.0
    """
    longest = np.zeros(len(wording) + 1, dtype=int)
    places: dict[str, list[int]] = {}
    for place, word in enumerate(wording):
        places.setdefault(word, []).append(place)
    for word in said:
        for place in reversed(places.get(word, ())):
            longest[place + 1] = max(longest[place + 1], longest[: place + 1].max() + 1)
    return float(longest.max() / len(wording)) if len(wording) else 0.0


@dataclass(frozen=True, eq=False)
class Questions:
    """Queries with what their answers should say, and the registry of whom they are about.

    Attributes:
        registry: Who is asked for.
        queries: What is asked; payloads are prompts.
        facts: One for each query.
        left_out: Queries that a condition took out, see `known_to`.
    """

    registry: Registry
    queries: tuple[Query, ...]
    facts: tuple[Fact, ...]
    left_out: tuple[str, ...] = ()
    __repr__ = brief

    def __post_init__(self) -> None:
        check_fields(self)
        if [query.id for query in self.queries] != [fact.query for fact in self.facts]:
            raise InputError(
                "queries and facts are not of the same ids in the same order: give one fact for each query"
            )

    @classmethod
    def of(cls, registry: Registry, facts: Sequence[Fact]) -> Questions:
        """Questions for facts, each of merit 1 to its entity."""
        check_call(Questions.of, locals())
        queries = tuple(Query(fact.query, "\n".join(fact.prompts), {fact.entity: 1.0}) for fact in facts)
        return cls(registry, queries, tuple(facts))

    def ledger(self, answers: Mapping[str, Answers]) -> Ledger:
        """A ledger of answers, as `ask` gives them."""
        return Ledger.of_answers(answers, self.queries, self.registry)

    def system(self, answer: Callable[..., str], refuses: Callable[[str], bool] | None = None) -> FactSystem:
        """A callable as a system that is asked these: it takes a prompt (and a seed) and gives text."""
        check_call(Questions.system, locals())
        return FactSystem(answer, {fact.query: fact for fact in self.facts}, refuses)

    def known_to(self, answer: Callable[..., str]) -> Questions:
        """Those whose conditions hold for a system, the one before the edit; the others were never its to forget.

        Raises:
            InputError: If none is left.
        """
        check_call(Questions.known_to, locals())
        asking, seen = _Asking(answer), {}
        kept = []
        for fact in self.facts:
            holds = True
            for prompt, expected in fact.conditions:
                if (prompt, expected) not in seen:
                    seen[prompt, expected] = told(asking(prompt, 0, prompt), expected)[0]
                holds = holds and seen[prompt, expected]
            kept.append(holds)
        if not any(kept):
            raise InputError(f"the conditions of none of the {len(kept)} queries hold: there is nothing to ask")
        pairs = [(q, f) for q, f, holds in zip(self.queries, self.facts, kept, strict=True) if holds]
        out = tuple(f.query for f, holds in zip(self.facts, kept, strict=True) if not holds)
        return replace(
            self,
            queries=tuple(query for query, _ in pairs),
            facts=tuple(fact for _, fact in pairs),
            left_out=(*self.left_out, *out),
        )


@dataclass(frozen=True)
class FactSystem:
    """A callable that is asked for facts; see `Questions.system`."""

    answer: Callable[..., str]
    facts: Mapping[str, Fact]
    refuses: Callable[[str], bool] | None = None
    _asking: _Asking = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "_asking", _Asking(self.answer))

    def observe(self, query: Query, seed: int) -> Observation:
        """Names the entity if the answer says its fact."""
        if query.id not in self.facts:
            raise InputError(f"nothing is known of query {query.id!r}: ask those of the same Questions")
        fact = self.facts[query.id]
        return fact.read([self._asking(prompt, seed, query.id) for prompt in fact.prompts], self.refuses)


class _Asking:
    """A callable of a prompt, or of a prompt and a seed, whose answers are text."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer, self._seeded = answer, takes_two(answer, "answer")

    def __call__(self, prompt: Any, seed: int, name: str) -> str:
        said = self._answer(prompt, seed) if self._seeded else self._answer(prompt)
        if not isinstance(said, str):
            raise InputError(f"the answer to {name!r} is {shown(said)}: return text")
        return said
