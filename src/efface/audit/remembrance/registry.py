"""Who and what may be remembered: entities with their names, groups, popularity and relation to what is erased.

Merit and popularity are inputs: a declared standard, which an audit measures and does not find.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_type, did_you_mean
from efface.audit.remembrance.words import folded
from efface.core.doors import check_call, check_fields, check_word, length_of

Floats = NDArray[np.float64]
Relation = Literal["target", "alias", "neighbour", "sibling", "superclass", "subclass", "binomial", "unrelated"]
Scheme = Literal["cumulative thirds", "equal thirds"]
Ambiguous = Literal["refused", "apart"]
TARGET, ALIAS, UNRELATED = "target", "alias", "unrelated"
HEAD, TORSO, TAIL = "head", "torso", "tail"
STRATA = (HEAD, TORSO, TAIL)
EXACT = 2**53
"""Whole numbers below it are exact as floats."""
UNKNOWN = ""
"""Stratum or group of an entity of which it is not known."""


def normalised(name: str) -> str:
    """A name as it is compared: folded (see `folded`), with single spaces.

    >>> normalised("  Ada  LOVELACE ")
    'ada lovelace'
    """
    return " ".join(folded(name).split())


def is_gap(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, pandas' NA and NaT.

    >>> is_gap(None), is_gap(float("nan")), is_gap("")
    (True, True, False)
    """
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)  # noqa: PLR0124


def names_of(values: NDArray[Any]) -> NDArray[Any]:
    """Values as ids: a whole number has one name, whatever type of number it came as.

    >>> names_of(np.array([3.0, 0.5])).tolist(), names_of(np.array(["3.0", "b"])).tolist()
    (['3', '0.5'], ['3.0', 'b'])
    """
    if values.dtype.kind != "f":
        return values.astype(str)
    wide = values.astype(np.float64)
    whole = (wide == np.floor(wide)) & (np.abs(wide) < EXACT)
    return np.where(whole, np.where(whole, wide, 0).astype(np.int64).astype(str), values.astype(str))


def name_of(value: Any) -> str:
    """One value as an id, see `names_of`.

    >>> name_of(3.0), name_of(3), name_of("3")
    ('3', '3', '3')
    """
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


@dataclass(frozen=True)
class Entity:
    """Someone or something that answers may mention.

    Attributes:
        id: Its name in the ledger; it may be opaque.
        aliases: Other names that answers may call it by.
        groups: Dimension -> group, e.g. `{"profession": "nurse"}`; nothing is inferred about anybody.
        popularity: How present it is elsewhere, from 0, e.g. how many documents name it; None if unknown.
        relation: To what is erased: `"target"` (and `"alias"`, the target by another name), or what else it is.
        similarity: To the target, in any unit; None if unknown.
    """

    id: str
    aliases: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict, hash=False)
    popularity: float | None = None
    relation: Relation = UNRELATED
    similarity: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in (self.id, *self.aliases):
            if not normalised(name):
                raise InputError(f"a name of entity {self.id!r} is {name!r}: write a name with at least one sign")
        if self.popularity is not None and not (math.isfinite(self.popularity) and self.popularity >= 0):
            raise InputError(f"popularity of {self.id} is {self.popularity}: write a number from 0, or None")
        if self.similarity is not None and not math.isfinite(self.similarity):
            raise InputError(f"similarity of {self.id} is {self.similarity}: write a finite number, or None")


class Registry:
    """Entities, in the order of their ids, as columns.

    Args:
        entities: They.
        ambiguous: What to do with a name that stands for several: refuse the registry, or keep the name `"apart"`, and
            count as unresolved who is called so.

    Raises:
        InputError: If two have one id, or one name stands for two and is not kept apart.

    >>> registry = Registry([Entity("lovelace", ("Ada Lovelace",), popularity=3.0), Entity("somerville")])
    >>> registry.resolve("ada LOVELACE"), registry.resolve("Byron")
    ('lovelace', None)
    """

    def __init__(self, entities: Sequence[Entity], *, ambiguous: Ambiguous = "refused") -> None:
        check_word(ambiguous, Ambiguous, "ambiguous")
        if not isinstance(entities, Sequence) or isinstance(entities, str) or not entities:
            raise InputError(f"entities is {shown(entities)}: give a list of at least one Entity")
        for entity in entities:
            check_type(entity, Entity, "one of the entities")
        self.entities = tuple(sorted(entities, key=lambda entity: entity.id))
        self.ids = tuple(entity.id for entity in self.entities)
        self._place = {name: i for i, name in enumerate(self.ids)}
        if len(self._place) < len(self.ids):
            twice = sorted({name for name in self.ids if self.ids.count(name) > 1})
            raise InputError(f"the registry has {', '.join(twice[:5])} more than once: give each entity one id")
        self.ambiguous_names: dict[str, tuple[str, ...]] | None = None if ambiguous == "refused" else {}
        self.names: dict[str, str | None] = self._read_names()

    @classmethod
    def of(
        cls,
        ids: Sequence[Any],
        *,
        target: Sequence[Any] = (),
        popularity: Any = None,
        similarity: Any = None,
        relation: Sequence[str | None] | None = None,
        groups: Mapping[str, Sequence[Any]] | None = None,
        aliases: Sequence[Sequence[str]] | None = None,
        ambiguous: Ambiguous = "refused",
    ) -> Registry:
        """A registry from columns, one value an entity.

        Args:
            ids: Ids; what is no text is written as text.
            target: Those of them that were to be erased.
            popularity: Numbers from 0; here and below None or NaN where it is not known.
            similarity: Numbers.
            relation: Relations; `target` goes before them.
            groups: Dimension -> a group an entity.
            aliases: Other names, a list an entity.
            ambiguous: As of the class.

        >>> [e.relation for e in Registry.of([3, 5, 8], target=[3])]
        ['target', 'unrelated', 'unrelated']
        """
        names = [name_of(each) for each in ids]
        wanted = {name_of(each) for each in target}
        if not wanted <= set(names):
            strange = sorted(wanted - set(names))
            raise InputError(
                f"target has {', '.join(strange)}, which is none of the ids{did_you_mean(strange[0], names)}"
            )
        columns = {"popularity": popularity, "similarity": similarity, "relation": relation, "aliases": aliases}
        columns |= groups or {}
        known: dict[str, list[Any]] = {}
        for column, values in columns.items():
            if values is not None and length_of(values) is None:
                raise InputError(f"{column} is {shown(values)}: give a list, one value an entity")
            if values is not None and len(values) != len(names):
                raise InputError(f"{column} has {len(values)} values for {len(names)} ids: give one an entity")
            known[column] = [None] * len(names) if values is None else _with_none(values)
        for name, own in zip(names, () if aliases is None else aliases, strict=False):
            if not isinstance(own, list | tuple):
                raise InputError(f"aliases of {name} is {shown(own)}: write a list of names, [] for none")
        return cls(
            [
                Entity(
                    name,
                    () if aliases is None else tuple(aliases[i]),
                    groups={of: _group(known[of][i]) for of in groups or {}},
                    popularity=_number(known["popularity"][i]),
                    similarity=_number(known["similarity"][i]),
                    relation=TARGET if name in wanted else known["relation"][i] or UNRELATED,
                )
                for i, name in enumerate(names)
            ],
            ambiguous=ambiguous,
        )

    def _read_names(self) -> dict[str, str | None]:
        meant: dict[str, list[str]] = {}
        for entity in self.entities:
            for name in dict.fromkeys(map(normalised, (entity.id, *entity.aliases))):
                meant.setdefault(name, []).append(entity.id)
        for name, ids in meant.items():
            if len(ids) > 1 and self.ambiguous_names is None:
                raise InputError(
                    f"the name {name!r} stands for {ids[0]} and for {ids[1]}: take it from one of them, or write "
                    "ambiguous='apart', and who is called so counts as unresolved"
                )
            if len(ids) > 1 and self.ambiguous_names is not None:
                self.ambiguous_names[name] = tuple(ids)
        return {name: ids[0] if len(ids) == 1 else None for name, ids in meant.items()}

    def __len__(self) -> int:
        return len(self.entities)

    def __iter__(self) -> Iterator[Entity]:
        return iter(self.entities)

    def resolve(self, name: str) -> str | None:
        """The id of whom a name stands for, or None: of nobody's name, and of one that is several's."""
        check_call(Registry.resolve, locals())
        return self.names.get(normalised(name))

    def places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Where each id stands in the registry.

        Raises:
            InputError: If one is not in it.
        """
        strange = [name for name in ids if name not in self._place]
        if strange:
            raise InputError(
                f"{', '.join(strange[:5])} {'is' if len(strange) == 1 else 'are'} not in the registry "
                f"({len(strange)} unknown of {len(ids)}){did_you_mean(strange[0], self.ids)}: add them to it, or count "
                "them as unresolved names"
            )
        return np.array([self._place[name] for name in ids], dtype=np.int64)

    @cached_property
    def popularity(self) -> Floats:
        """Popularity of each, NaN if unknown."""
        return _column([entity.popularity for entity in self.entities])

    @cached_property
    def similarity(self) -> Floats:
        """Similarity of each to the target, NaN if unknown."""
        return _column([entity.similarity for entity in self.entities])

    @cached_property
    def relation(self) -> NDArray[np.str_]:
        """Relation of each to the target."""
        return np.array([entity.relation for entity in self.entities])

    @cached_property
    def targets(self) -> NDArray[np.bool_]:
        """Who was to be erased, under any name."""
        return np.isin(self.relation, (TARGET, ALIAS))

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Dimensions of groups, in order."""
        return tuple(sorted({name for entity in self.entities for name in entity.groups}))

    def group(self, dimension: str) -> NDArray[np.str_]:
        """Group of each in a dimension; `""` where it has none."""
        return np.array([entity.groups.get(dimension, UNKNOWN) for entity in self.entities])

    def strata(self, scheme: Scheme = "cumulative thirds") -> NDArray[np.str_]:
        """Head, torso or tail of popularity, for each; `""` where it is unknown.

        `"cumulative thirds"`: the most popular that hold the first third of all popularity are the head, those that
        hold the next the torso (as in Head-to-Tail, arXiv:2308.10168). `"equal thirds"`: as many entities in each.
        Entities of one popularity are in one stratum.
        """
        check_word(scheme, Scheme, "scheme")
        known = np.isfinite(self.popularity)
        found = np.full(len(self), UNKNOWN, dtype=np.array(STRATA).dtype)
        if not known.any():
            return found
        values = self.popularity[known]
        weight = np.ones_like(values) if scheme == "equal thirds" or not values.sum() else values
        order = np.argsort(-values, kind="stable")
        before = np.empty(len(values))
        before[order] = np.cumsum(weight[order]) - weight[order]
        # Of those with one popularity the first decides for all.
        _, tied = np.unique(values, return_inverse=True)
        first = np.full(int(tied.max()) + 1, np.inf)
        np.minimum.at(first, tied, before)
        third = np.minimum(2, np.floor(3 * first[tied] / weight.sum() + 1e-12)).astype(int)
        found[known] = np.array(STRATA)[third]
        return found


def _with_none(values: Any) -> list[Any]:
    """A column as plain values, with None where one is missing."""
    return [None if is_gap(v) else v for v in (values.tolist() if hasattr(values, "tolist") else values)]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _group(value: Any) -> str:
    return UNKNOWN if value is None else name_of(value)


def _column(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
