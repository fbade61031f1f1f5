"""What a probe found of all models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD, SHAM
from efface.audit.pipelines.probes.recovery import FloorKind, Row, compared
from efface.audit.pipelines.probes.registry import Probe
from efface.audit.pipelines.probes.scores import Scores

SUBSTITUTE = "substitute"


@dataclass(frozen=True, eq=False)
class Ran:
    """One probe on all models.

    Attributes:
        probe: The probe.
        budget: What it was allowed to spend.
        scores: Model -> row of scores by name; models that it could not be asked of are left out.
        why: Model -> why it could not be asked of it.
        kind: What the floor is.
        times: How many times the items of its first look these are.
        level: Confidence level of its intervals.
        over: Whether there are no more items to look at.
        before: The first look, where this is a further one: a sham edit is asked of in that alone.
    """

    probe: Probe
    budget: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Scores]]
    why: Mapping[str, str]
    kind: FloorKind
    times: int = 1
    level: float = 0.95
    over: bool = False
    before: Ran | None = None

    def rows(self, *, seed: int = 0, model: str = ERASED) -> list[Row]:
        """A row of recovery for each row of scores."""
        if model == SHAM and self.before is not None:
            return self.before.rows(seed=seed, model=model)
        own, base = self.scores.get(model, {}), self.scores.get(BASE, {})
        floor = self.scores.get(GOLD if self.kind == "gold" else SUBSTITUTE, {})
        name = self.probe.name if model == ERASED else f"{model} edit, {self.probe.name}"
        return [
            compared(name, scores, base[row], _floor(floor.get(row), self.kind), self.kind, level=self.level, seed=seed)
            for row, scores in own.items()
            if row in base
        ]


def _floor(floor: Scores | None, kind: FloorKind) -> Scores | None:
    """What another concept costs says nothing of this one: only rates have a substitute."""
    return floor if floor is None or kind == "gold" or floor.is_share else None
