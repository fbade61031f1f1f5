"""What the card of an interference matrix is made from: the pictures, what is known of everyone, and pooled kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.interference import Interference
from efface.audit.remembrance.pooled import Kept, Labels
from efface.audit.remembrance.registry import UNKNOWN, Registry

EVERYONE, RELATION, STRATUM = "all others", "relation", "popularity"


@dataclass(frozen=True, eq=False)
class Matter:
    """What the card is made from.

    Attributes:
        found: The pictures.
        registries: Erasure -> what is known of everyone, and their relation to what it erases.
        relations: Relation of each pair, `(erased, asked)`; an alias counts as the target.
        others: Whom nobody asked to erase, `(erased, asked)`.
        kinds: Kind -> pairs of each name, pooled.
        withheld: Titles of what is not shown, because it is of too few.
        fewest: Pairs of fewer pictures are left blank.
    """

    found: Interference
    registries: Mapping[str, Registry]
    relations: Labels
    others: NDArray[np.bool_]
    kinds: Mapping[str, tuple[Kept, ...]]
    withheld: tuple[str, ...]
    fewest: int

    @property
    def groups(self) -> list[str]:
        """Group of each entity in the first dimension; empty text where there is none."""
        registry = self.registries[self.found.erased[0]]
        places = registry.places(self.found.asked)
        if not registry.dimensions:
            return [UNKNOWN] * len(places)
        return registry.group(registry.dimensions[0])[places].tolist()
