"""How an audit of remembrance is run."""

from __future__ import annotations

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
