"""Arms side by side: what each entity got in each answer, before and after, by common random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._lazy import require
from efface._validate import did_you_mean
from efface.audit.remembrance.columns import EXTRA
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.registry import Registry

Floats = NDArray[np.float64]
Matrix = Any
"""`(entities, queries)`: an array, or a sparse one of scipy where most pairs were not asked."""
_FILLED = 4


@dataclass(frozen=True, eq=False)
class Panel:
    """Rows of several arms, aligned.

    Attributes:
        registry: Entities; `entity` are places in it.
        queries: How many queries there are.
        entity: `(n,)`.
        query: `(n,)`.
        answer: `(n,)`, places in the answers, of which there is one for each query and seed.
        merit: `(n,)`, 0 for who was mentioned without being relevant.
        hit: Arm -> `(n,)`.
        score: Arm -> `(n,)`.
        exposure: Arm -> `(n,)`.
        status: Arm -> status of each answer.
        unresolved: Arm -> unresolved names of each answer, NaN if unknown.
        asked: Query of each answer.
    """

    registry: Registry
    queries: int
    entity: NDArray[np.int64]
    query: NDArray[np.int64]
    answer: NDArray[np.int64]
    merit: Floats
    hit: Mapping[str, Floats]
    score: Mapping[str, Floats]
    exposure: Mapping[str, Floats]
    status: Mapping[str, NDArray[np.int8]]
    unresolved: Mapping[str, Floats]
    asked: NDArray[np.int64]

    @property
    def relevant(self) -> NDArray[np.bool_]:
        """Rows of entities that should be remembered there, `(n,)`."""
        return self.merit > 0

    @property
    def size(self) -> tuple[int, int]:
        """Entities and queries."""
        return len(self.registry), self.queries

    def fine(self, *arms: str) -> NDArray[np.bool_]:
        """Rows whose answer was given (not refused, no error) in all of these arms, `(n,)`."""
        return np.logical_and.reduce([self.status[arm] == 0 for arm in arms])[self.answer]

    @cached_property
    def _cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of entity and query that there are, as one number, and which each row is in."""
        return np.unique(self.entity * self.queries + self.query, return_inverse=True)

    @cached_property
    def cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Entity and query of each pair that there is."""
        return np.divmod(self._cells[0], self.queries)

    def by_cell(self, values: NDArray[Any]) -> Floats:
        """Sums over seeds, one for each pair of `cells`."""
        return np.bincount(self._cells[1], values, len(self._cells[0])).astype(np.float64, copy=False)

    def by_entity(self, values: NDArray[Any]) -> Floats:
        """Sums over answers, one for each entity."""
        return np.bincount(self.entity, values, len(self.registry)).astype(np.float64, copy=False)

    @cached_property
    def there(self) -> NDArray[np.int64] | slice:
        """Places of the entities that have rows, where these are few of the registry; else of all."""
        found = np.unique(self.entity)
        return found if 2 * len(found) <= len(self.registry) else slice(None)

    def matrix(self, cells: Floats) -> Matrix:
        """Sums by cell as `(entities, queries)`, of the entities that are `there`."""
        entity, query = self.cells
        entities, queries = self.size
        if not isinstance(self.there, slice):
            entities, entity = len(self.there), np.searchsorted(self.there, entity)
        if entities * queries <= _FILLED * len(cells):
            found = np.zeros(entities * queries)
            found[entity * queries + query] = cells
            return found.reshape(entities, queries)
        sparse = require("scipy.sparse", extra=EXTRA)
        return sparse.csr_array((cells, (entity, query)), shape=(entities, queries))

    def without_rows(self) -> Panel:
        """The same answers, of no entity."""
        none, empty = np.empty(0, dtype=np.int64), np.empty(0)
        columns = {name: dict.fromkeys(self.hit, empty) for name in ("hit", "score", "exposure")}
        return replace(self, entity=none, query=none, answer=none, merit=empty, **columns)


class Rows(Protocol):
    """Rows of all arms, as panels that have all rows of some entities each."""

    @property
    def arms(self) -> Sequence[str]:
        """Names."""
        ...

    @property
    def parts(self) -> int:
        """How many panels there are."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where what is too much for memory may be kept meanwhile; None is the system's folder for such files."""
        ...

    def panels(self, registry: Registry, arms: Sequence[str]) -> Iterator[Panel]:
        """Arms side by side; may be asked for again."""
        ...


class InMemory:
    """A ledger as rows of one part."""

    parts, folder = 1, None

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self.arms = ledger, ledger.arms
        self._last: tuple[tuple[str, ...], Panel] | None = None

    def panels(self, registry: Registry, arms: Sequence[str]) -> Iterator[Panel]:
        """The one panel; it is kept until other arms are asked for."""
        if self._last is None or self._last[0] != tuple(arms):
            self._last = tuple(arms), aligned(self._ledger, registry, arms)
        yield self._last[1]


def aligned(ledger: Ledger, registry: Registry, arms: Sequence[str]) -> Panel:
    """Arms of a ledger side by side.

    Who was mentioned in one arm without being relevant counts as not mentioned in another that has no row of it; a
    relevant entity must have its row in each.

    Raises:
        InputError: If an arm is missing, arms have not the same queries, seeds, relevant entities or merit, or an
            entity is not in the registry.
    """
    if strange := [arm for arm in arms if arm not in ledger.arms]:
        near = did_you_mean(strange[0], [arm for arm in ledger.arms if arm not in arms])
        raise InputError(f"the ledger has no arm {strange[0]!r}; it has {', '.join(map(repr, ledger.arms))}{near}")
    place = registry.places(ledger.entities)
    seeds = np.unique(ledger.answers["seed"])
    parts = {arm: _part(ledger, arm, seeds) for arm in arms}
    first, *others = arms
    for arm in others:
        _check_balance(ledger, parts[first], parts[arm], first, arm)
    keys = parts[first].keys
    if any(not np.array_equal(keys, part.keys) for part in parts.values()):
        keys = np.unique(np.concatenate([part.keys for part in parts.values()]))
    answered, entity = np.divmod(keys, len(ledger.entities))
    merit = np.zeros(len(keys))
    for part in parts.values():
        merit[np.searchsorted(keys, part.keys)] = part.rows["merit"]
    answers = parts[first].answers
    return Panel(
        registry,
        len(ledger.queries),
        entity=place[entity],
        query=answered // len(seeds),
        answer=np.searchsorted(parts[first].answer_keys, answered),
        merit=merit,
        hit={arm: part.spread("hit", keys) for arm, part in parts.items()},
        score={arm: part.spread("score", keys) for arm, part in parts.items()},
        exposure={arm: part.spread("exposure", keys) for arm, part in parts.items()},
        status={arm: part.answers["status"] for arm, part in parts.items()},
        unresolved={arm: part.answers["unresolved"] for arm, part in parts.items()},
        asked=answers["query"].astype(np.int64),
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """One arm: rows by key (query, seed, entity), answers by key (query, seed), both in order."""

    rows: Mapping[str, NDArray[Any]]
    keys: NDArray[np.int64]
    answers: Mapping[str, NDArray[Any]]
    answer_keys: NDArray[np.int64]

    def spread(self, column: str, keys: NDArray[np.int64]) -> Floats:
        """A column at all keys, 0 where this arm has no row."""
        values = self.rows[column].astype(np.float64)
        if len(keys) == len(self.keys):
            return values
        found = np.zeros(len(keys))
        found[np.searchsorted(keys, self.keys)] = values
        return found


def _part(ledger: Ledger, arm: str, seeds: NDArray[np.int64]) -> _Part:
    number = ledger.arms.index(arm)
    rows = {name: values[ledger.rows["arm"] == number] for name, values in ledger.rows.items()}
    answers = {name: values[ledger.answers["arm"] == number] for name, values in ledger.answers.items()}
    answered = rows["query"].astype(np.int64) * len(seeds) + np.searchsorted(seeds, rows["seed"])
    keys = answers["query"].astype(np.int64) * len(seeds) + np.searchsorted(seeds, answers["seed"])
    if not np.isin(answered, keys).all():
        raise InputError(f"arm {arm!r} has rows of an answer that is not among its answers: give each answer a row")
    return _Part(rows, answered * len(ledger.entities) + rows["entity"], answers, keys)


def _check_balance(ledger: Ledger, one: _Part, other: _Part, first: str, second: str) -> None:
    advice = "ask both arms the same queries with the same seeds"
    if not np.array_equal(one.answer_keys, other.answer_keys):
        lacks = len(np.setxor1d(one.answer_keys, other.answer_keys))
        raise InputError(f"arms {first!r} and {second!r} are unbalanced: {lacks} answers are in one of them: {advice}")
    relevant = [part.keys[part.rows["merit"] > 0] for part in (one, other)]
    if not np.array_equal(relevant[0], relevant[1]):
        odd = np.setxor1d(relevant[0], relevant[1])
        names = sorted({ledger.entities[key % len(ledger.entities)] for key in odd[:1000].tolist()})
        raise InputError(
            f"arms {first!r} and {second!r} are unbalanced: {len(odd)} rows of relevant entities "
            f"({', '.join(names[:5])}) are in one of them, or have merit in one of them: {advice}"
        )
    merits = [part.rows["merit"][part.rows["merit"] > 0] for part in (one, other)]
    if not np.array_equal(merits[0], merits[1]):
        raise InputError(f"arms {first!r} and {second!r} disagree on merit: it is one number for an entity and a query")
