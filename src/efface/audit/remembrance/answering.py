"""Systems that are audited: a callable that answers in text or by a list of names, and one that ranks documents."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from efface._errors import InputError
from efface._text import shown
from efface.audit.remembrance.names import AliasMatcher
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.systems import REFUSED, Mention, Observation, Query
from efface.core.doors import check_fields


@dataclass(frozen=True)
class AnswerSystem:
    """What a callable says to each query: a language model, a chain, a person.

    Attributes:
        answer: Takes the query's payload (and the seed, if it takes two arguments), and gives text, in which names are
            found; a list of names, the first first, of whom those not in the registry are unresolved; or an
            `Observation`.
        registry: Who may be named.
        refuses: Whether a text is a refusal, which is no omission; None takes none for one.

    >>> from efface.audit.remembrance.registry import Entity
    >>> registry = Registry([Entity("ada"), Entity("mary")])
    >>> system = AnswerSystem(lambda prompt: "Mary, then Ada." if "science" in prompt else "", registry)
    >>> [(m.entity, m.rank) for m in system.observe(Query("q", "Who wrote on science?"), 0).mentions]
    [('mary', 0), ('ada', 1)]
    """

    answer: Callable[..., Any]
    registry: Registry
    refuses: Callable[[str], bool] | None = None
    _matcher: AliasMatcher = field(init=False, repr=False)
    _seeded: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "_matcher", AliasMatcher(self.registry))
        object.__setattr__(self, "_seeded", takes_two(self.answer, "answer"))

    def observe(self, query: Query, seed: int) -> Observation:
        """The answer, with who is named in it.

        Raises:
            InputError: If the callable gives something else than text, names or an observation.
        """
        said = self.answer(query.payload, seed) if self._seeded else self.answer(query.payload)
        if isinstance(said, Observation):
            return said
        if isinstance(said, str):
            if self.refuses is not None and self.refuses(said):
                return Observation(status=REFUSED)
            return self._matcher.read(said)
        if isinstance(said, list | tuple) and all(isinstance(name, str) for name in said):
            return Observation.of(said, self.registry)
        raise InputError(
            f"the answer to query {query.id!r} is {shown(said)}: return text, a list of names, or an Observation (of "
            "status 'refused' or 'error' where there is no answer)"
        )


@dataclass(frozen=True)
class RankedSystem:
    """Documents that a search gives for each query, and who they are about.

    Attributes:
        search: Takes the query's payload and how many documents are wanted, and gives their ids, the best first.
        about: Document -> entities; who is in several documents has the rank of the first.
        depth: How many documents a user sees.

    >>> system = RankedSystem(lambda query, k: ["d2", "d1"], {"d1": ["ada"], "d2": ["mary", "ada"]})
    >>> [(m.entity, m.rank) for m in system.observe(Query("q", "engines"), 0).mentions]
    [('mary', 0), ('ada', 0)]
    """

    search: Callable[[Any, int], Sequence[str]]
    about: Mapping[str, Sequence[str]]
    depth: int = 10

    def __post_init__(self) -> None:
        check_fields(self)
        if self.depth < 1:
            raise InputError(f"depth is {self.depth}: write a whole number from 1")

    def observe(self, query: Query, seed: int) -> Observation:
        """Who is in the documents.

        Raises:
            InputError: If the search gives a document twice, or one of which nothing is known.
        """
        found = list(self.search(query.payload, self.depth))[: self.depth]
        if strange := [name for name in found if name not in self.about]:
            raise InputError(
                f"the search gave {shown(strange[0])} for query {query.id!r}, of which `about` says nothing: add it, "
                "with an empty list if it is about nobody"
            )
        if len(set(found)) < len(found):
            raise InputError(f"the search gave a document twice for query {query.id!r}: give each once, the best first")
        ranks: dict[str, int] = {}
        for rank, document in enumerate(found):
            for entity in self.about[document]:
                ranks.setdefault(entity, rank)
        return Observation(tuple(Mention(entity, rank) for entity, rank in ranks.items()))


def takes_two(function: Callable[..., Any], name: str) -> bool:
    """Whether a callable takes a seed after the payload.

    Raises:
        InputError: If it takes neither one argument nor two.
    """
    try:
        said = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    for given in ((None, 0), (None,)):
        try:
            said.bind(*given)
        except TypeError:
            continue
        return len(given) == 2
    raise InputError(f"{name} cannot be called with a prompt, nor with a prompt and a seed: it takes {said}")
