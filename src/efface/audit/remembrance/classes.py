"""Declared classes of entities: relations to the target, strata of popularity, groups, and groups within strata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.registry import STRATA, UNKNOWN, Registry

Mask = NDArray[np.bool_]
EVERYONE = "all bystanders"
RELATION, STRATUM, ALL = "relation", "popularity", "all"


@dataclass(frozen=True, eq=False)
class Class:
    """Some of the bystanders, by what was declared of them.

    Attributes:
        kind: `"all"`, `"relation"`, `"popularity"` or a dimension of groups.
        name: What to call it.
        members: `(entities,)`.
        stratum: Stratum that it is within, or `""`.
    """

    kind: str
    name: str
    members: Mask
    stratum: str = UNKNOWN

    @property
    def title(self) -> str:
        """Kind and name in one line."""
        if self.kind == ALL:
            return self.name
        return f"{self.kind}: {self.name}" + (f", {self.stratum}" if self.stratum else "")


def declared(registry: Registry, strata: NDArray[np.str_], there: Mask, smallest: int) -> tuple[list[Class], list[str]]:
    """Classes with enough entities to be shown, and the titles of those without.

    Where what is withheld could be told by taking what is shown from the whole of them, the smallest that is shown is
    withheld too.

    Args:
        registry: Who there is.
        strata: Stratum of each.
        there: Bystanders that were asked for.
        smallest: Classes of fewer entities are withheld: numbers of a few people are numbers of persons.
    """
    found = [each for each in _all(registry, strata, there) if each.members.any()]
    kept = [each for each in found if each.kind == ALL or each.members.sum() >= smallest]
    while (telling := _telling(kept, there, strata, smallest)) is not None:
        kept.remove(telling)
    return kept, [each.title for each in found if each not in kept]


def _telling(kept: list[Class], there: Mask, strata: NDArray[np.str_], smallest: int) -> Class | None:
    """A class that has to go, because it and others leave too few of a whole that is shown as well."""
    for whole, parts in _partitions(kept, there, strata):
        left = int((whole & ~np.logical_or.reduce([each.members for each in parts])).sum())
        if 0 < left < smallest:
            return min(parts, key=lambda each: int(each.members.sum()))
    return None


def _partitions(kept: list[Class], there: Mask, strata: NDArray[np.str_]) -> Iterator[tuple[Mask, list[Class]]]:
    """Wholes whose numbers are shown, with the classes shown that make them up but for what is withheld."""
    inside = [each for each in kept if each.kind != ALL]
    for kind in dict.fromkeys(each.kind for each in inside):
        of_kind = [each for each in inside if each.kind == kind]
        for stratum in dict.fromkeys(each.stratum for each in of_kind):
            whole = there & (strata == stratum) if stratum else there
            yield whole, [each for each in of_kind if each.stratum == stratum]
        for one in [each for each in of_kind if not each.stratum]:
            layers = [each for each in of_kind if each.stratum and each.name == one.name]
            if layers:
                yield one.members, layers


def _all(registry: Registry, strata: NDArray[np.str_], there: Mask) -> Iterator[Class]:
    yield Class(ALL, EVERYONE, there)
    relations = sorted(set(registry.relation[there].tolist()))
    if len(relations) > 1:
        yield from (Class(RELATION, name, there & (registry.relation == name)) for name in relations)
    layers = [name for name in STRATA if (there & (strata == name)).any()]
    if len(layers) > 1:
        yield from (Class(STRATUM, name, there & (strata == name)) for name in layers)
    for dimension in registry.dimensions:
        groups = registry.group(dimension)
        for name in sorted(set(groups[there].tolist()) - {UNKNOWN}):
            members = there & (groups == name)
            yield Class(dimension, name, members)
            if len(layers) > 1:
                yield from (Class(dimension, name, members & (strata == layer), layer) for layer in layers)
