"""What is asked, and what answers: queries with merit, observations, systems as a protocol, and arms of an audit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_int, check_type
from efface.audit.remembrance.registry import Registry
from efface.core.doors import check_call, check_fields, fits

Status = Literal["ok", "refused", "error"]
OK, REFUSED, ERROR = "ok", "refused", "error"
STATUSES = (OK, REFUSED, ERROR)
BEFORE, AGAIN, AFTER, PLACEBO = "before", "before again", "after", "placebo"
"""Arms; there may be several placebos, whose names begin so."""


@dataclass(frozen=True)
class Query:
    """One question.

    Attributes:
        id: Its name in the ledger.
        payload: What the system is asked: a prompt, a row, anything.
        merit: Entity -> how much it should be remembered here, above 0; who is absent is not relevant.
    """

    id: str
    payload: Any = None
    merit: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_fields(self)
        for entity, value in self.merit.items():
            if not fits(value, float):
                raise InputError(f"query {self.id!r}: merit of {entity} is {shown(value)}: write a number above 0")
            if not (math.isfinite(value) and value > 0):
                raise InputError(
                    f"query {self.id!r}: merit of {entity} is {value}: write a number above 0, or leave out "
                    "who is not relevant"
                )


@dataclass(frozen=True)
class Mention:
    """An entity in an answer: its rank from 0 if answers are ordered, and a score in any unit."""

    entity: str
    rank: int | None = None
    score: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rank is not None and self.rank < 0:
            raise InputError(f"rank of {self.entity} is {self.rank}: the first has rank 0")


@dataclass(frozen=True)
class Observation:
    """One answer.

    Attributes:
        mentions: Who is in it.
        status: `"ok"`, `"refused"` (which is no omission) or `"error"`.
        unresolved: Names in it that stand for nobody in the registry, or for several.
    """

    mentions: tuple[Mention, ...] = ()
    status: Status = OK
    unresolved: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, names: Sequence[str], registry: Registry) -> Observation:
        """An answer that names these, in order; what the registry does not know is unresolved.

        >>> from efface.audit.remembrance.registry import Entity
        >>> Observation.of(["Ada", "Bob"], Registry([Entity("ada")])).unresolved
        ('Bob',)
        """
        found = [(registry.resolve(name), name) for name in names]
        ids = dict.fromkeys(known for known, _ in found if known is not None)
        mentions = tuple(Mention(known, rank) for rank, known in enumerate(ids))
        return cls(mentions, unresolved=tuple(name for known, name in found if known is None))


@runtime_checkable
class System(Protocol):
    """What is audited: anything that answers a query, by a seed."""

    def observe(self, query: Query, seed: int, /) -> Observation:
        """The answer."""
        ...


Answers = Mapping[tuple[str, int], Observation]
"""Query id and seed -> what was answered."""


def ask(
    before: System,
    after: System,
    queries: Sequence[Query],
    *,
    seeds: Sequence[int] = (0,),
    again: Sequence[int] | None = None,
    placebos: Sequence[System] = (),
) -> dict[str, Answers]:
    """Ask every system every query: arm -> answers, by common random numbers.

    The same queries and seeds go to all arms, but for the system before once more, which has other seeds: what it
    forgets by chance is what forgetting is measured against.

    Args:
        before: The system before the erasure.
        after: After it.
        queries: Each is asked once a seed.
        seeds: Seeds.
        again: Other seeds, as many, for the system before once more; None takes those that follow on the highest.
        placebos: After erasures of something that does not matter, of the same size.

    Raises:
        InputError: If seeds or queries are given twice, `again` shares one with `seeds`, or a system gives no
            `Observation`.
    """
    check_call(ask, locals())
    for query in queries:
        check_type(query, Query, "one of the queries")
    if not len(queries) or len({query.id for query in queries}) < len(queries):
        raise InputError("queries is empty, or two have one id: give each query an id of its own")
    shared = [check_int(seed, "one of the seeds") for seed in seeds]
    start = max(shared, default=0) + 1
    given = range(start, start + len(shared)) if again is None else again
    others = [check_int(seed, "one of again") for seed in given]
    if not shared or len({*shared, *others}) < 2 * len(shared) or len(others) != len(shared):
        raise InputError(f"seeds {shared} and again {others}: give as many of each, all different")
    arms = {BEFORE: before, AFTER: after, **{f"{PLACEBO} {i + 1}": system for i, system in enumerate(placebos)}}
    found: dict[str, Answers] = {arm: _answers(system, queries, shared, shared) for arm, system in arms.items()}
    found[AGAIN] = _answers(before, queries, shared, others)
    return found


def _answers(system: System, queries: Sequence[Query], seeds: Sequence[int], used: Sequence[int]) -> Answers:
    """Answers by the seed that they are paired by."""
    return {
        (query.id, seed): check_type(system.observe(query, other), Observation, f"the answer to {query.id!r}")
        for query in queries
        for seed, other in zip(seeds, used, strict=True)
    }
