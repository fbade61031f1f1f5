"""Probes run on every model of a panel, each kept on disk as soon as it is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from efface._errors import InputError
from efface._io import load_folder, save_folder
from efface._progress import progress
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD, SHAM, Panel, sham_of
from efface.audit.pipelines.probes.recovery import FloorKind, Row, compared
from efface.audit.pipelines.probes.registry import Probe, Suite
from efface.audit.pipelines.probes.scores import Role, Scores
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.core.checkpoint import Checkpoint
from efface.core.codec import fields_of

SUBSTITUTE = "substitute"
SHAMMED = ("direct prompt", "likelihood")
"""Probes that a sham edit goes through: the cheapest of those that need pictures, and of those that do not."""

_TYPE = "ProbeScores"


@dataclass(frozen=True, eq=False)
class Ran:
    """One probe on all models.

    Attributes:
        probe: The probe.
        budget: What it was allowed to spend.
        scores: Model -> row of scores by name; models that it could not be asked of are left out.
        why: Model -> why it could not be asked of it.
        kind: What the floor is.
    """

    probe: Probe
    budget: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Scores]]
    why: Mapping[str, str]
    kind: FloorKind

    def rows(self, *, seed: int = 0, model: str = ERASED) -> list[Row]:
        """A row of recovery for each row of scores."""
        own, base = self.scores.get(model, {}), self.scores.get(BASE, {})
        floor = self.scores.get(GOLD if self.kind == "gold" else SUBSTITUTE, {})
        name = self.probe.name if model == ERASED else f"{model} edit, {self.probe.name}"
        return [
            compared(name, scores, base[row], _floor(floor.get(row), self.kind), self.kind, seed=seed)
            for row, scores in own.items()
            if row in base
        ]


def _floor(floor: Scores | None, kind: FloorKind) -> Scores | None:
    """What another concept costs says nothing of this one: only rates have a substitute."""
    return floor if floor is None or kind == "gold" or floor.is_share else None


class Runner:
    """Runs probes, and keeps what is done in a folder, from which it goes on.

    Args:
        panel: The models.
        case: What is asked.
        saved: Where scores are kept; None keeps none.
        budgets: Probe -> budget in place of the suite's.
        shared: Probe and model -> scores of base and gold, which several erasures of one base have in common; filled
            as they are measured.
    """

    def __init__(
        self,
        panel: Panel,
        case: Case,
        saved: Checkpoint | None = None,
        budgets: Mapping[str, Any] | None = None,
        shared: dict[tuple[str, str], dict[str, Scores]] | None = None,
    ) -> None:
        self._shared = {} if shared is None else shared
        self._panel, self._case, self._budgets = panel, case, dict(budgets or {})
        self._saved = Checkpoint(None, {}) if saved is None else saved
        self._sham: list[Subject | None] = []
        self._floored = None if panel.gold is not None else case.floored()

    def __call__(self, chosen: Sequence[Probe], suite: Suite, say: Callable[[str], None] | None = None) -> list[Ran]:
        """All probes on all models, in order; `say` is told what is going on."""
        found: list[Ran] = []
        with progress("probing", len(chosen), unit="probes") as bar:
            for probe in chosen:
                if say is not None:
                    say(f"{probe.name}: {probe.summary}")
                found.append(self.one(probe, suite))
                bar.update(1)
        return found

    def one(self, probe: Probe, suite: Suite) -> Ran:
        """One probe on all models."""
        budget = {**(probe.budget(suite) or {}), **self._budgets.get(probe.name, {})}
        check_budget(probe, budget)
        scores: dict[str, dict[str, Scores]] = {}
        why: dict[str, str] = {}
        for name, subject, case in self._asked(probe):
            if ERASED in why:  # nothing could be compared with it
                break
            if name == SUBSTITUTE and not any(row.is_share for row in scores.get(ERASED, {}).values()):
                continue
            try:
                scores[name] = self._kept(probe, name, subject, case, budget)
            except NotApplicableError as error:
                why[name] = str(error)
        kind: FloorKind = "gold" if GOLD in scores else "substitute" if SUBSTITUTE in scores else "none"
        return Ran(probe, budget, scores, why, kind)

    def _asked(self, probe: Probe) -> list[tuple[str, Subject, Case]]:
        panel, case = self._panel, self._case
        asked = [(ERASED, panel.erased, case), (BASE, panel.base, case)]
        if panel.gold is not None:
            asked.append((GOLD, panel.gold, case))
        elif self._floored is not None:
            asked.append((SUBSTITUTE, panel.base, self._floored))
        if probe.name in SHAMMED and (sham := self._shammed()) is not None:
            asked.append((SHAM, sham, case))
        return asked

    def _shammed(self) -> Subject | None:
        if not self._sham:
            self._sham.append(sham_of(self._panel, self._case.seed))
        return self._sham[0]

    def _kept(
        self, probe: Probe, name: str, subject: Subject, case: Case, budget: Mapping[str, Any]
    ) -> dict[str, Scores]:
        part = f"{probe.name} | {name}"
        if part in self._saved.parts:
            with self._saved.reading():
                return _loaded(self._saved.path(part))
        if (probe.name, name) in self._shared:
            return self._shared[probe.name, name]
        _check_access(probe, subject)
        out = probe.run(subject, case, **budget)
        rows = [out] if isinstance(out, Scores) else list(out)
        self._saved.write({"done": [*self._saved.parts, part]}, {part: partial(_save, rows=rows)})
        found = {row.name: row for row in rows}
        if name in (BASE, GOLD):
            self._shared[probe.name, name] = found
        return found


def check_budget(probe: Probe, budget: Mapping[str, Any]) -> None:
    """Refuse options that a probe does not take.

    Raises:
        InputError: If one is unknown; the text lists those there are.
    """
    taken = [p.name for p in inspect.signature(probe.run).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if odd := [name for name in budget if name not in taken]:
        raise InputError(f"the probe {probe.name!r} takes no {odd[0]!r}: it takes {', '.join(taken) or 'nothing'}")


def _check_access(probe: Probe, subject: Subject) -> None:
    if probe.access not in subject.access:
        raise NotApplicableError(
            f"it needs access to {probe.access}, and {subject.name} grants {', '.join(subject.access) or 'none'}"
        )


def _save(folder: Path, *, rows: Sequence[Scores]) -> None:
    tensors: dict[str, Tensor] = {}
    plain = []
    for i, row in enumerate(rows):
        for name in ("values", "images", "draws"):
            if (value := getattr(row, name)) is not None:
                tensors[f"{i}.{name}"] = value.contiguous()
        plain.append(
            {
                "name": row.name,
                "role": row.role,
                "items": list(row.items),
                "unit": row.unit,
                "reference": row.reference,
                "spent": dict(row.spent),
                "note": row.note,
            }
        )
    save_folder(folder, {"type": _TYPE, "rows": plain}, tensors)


def _loaded(folder: Path) -> dict[str, Scores]:
    config, tensors = load_folder(folder, expect=_TYPE, finite=False)
    found: dict[str, Scores] = {}
    for i, row in enumerate(config["rows"]):
        name, role, items, unit, spent, note = fields_of(
            row, name=str, role=str, items=list[str], unit=str, spent=dict[str, int], note=str
        )
        if role not in get_args(Role):
            raise ValueError(f"{role!r} is no role of a row")
        (reference,) = fields_of(row, reference=float | None)
        more = {key: tensors.get(f"{i}.{key}") for key in ("images", "draws")}
        values = tensors[f"{i}.values"]
        found[name] = Scores(
            name, role, values, tuple(items), **more, unit=unit, reference=reference, spent=spent, note=note
        )
    return found
