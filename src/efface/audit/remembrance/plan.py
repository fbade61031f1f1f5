"""How an audit of remembrance is run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from efface.audit.remembrance.bootstrap import Resample
from efface.audit.remembrance.multiplicity import Rule


@dataclass(frozen=True)
class Plan:
    """How an audit is run; see `efface.audit.remembered`."""

    outcome: str = "hit"
    margin: float = 0.05
    fdr: float = 0.05
    alpha: float = 0.05
    min_power: float = 0.5
    rule: Rule = "bh"
    draws: int = 2000
    resample: Resample = "both"
    smallest_cell: int = 5
    seed: int = 0

    def exchanges(self, classes: int) -> int:
        """So many that a p-value of a class or a group can be significant, adjusted for all of them."""
        return min(_MOST, max(self.draws, self._needed(classes)))

    def can_tell(self, classes: int) -> bool:
        """Whether there are that many."""
        return self._needed(classes) <= max(_MOST, self.draws)

    def _needed(self, classes: int) -> int:
        # Each class may be compared with others as well, and of the error budget it may have half.
        return math.ceil(4 * classes / self.alpha)


_MOST = 20_000
