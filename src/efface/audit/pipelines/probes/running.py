"""Probes run on every model of a panel, each kept on disk as soon as it is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._progress import Bar, progress
from efface.audit.pipelines.probes import kept
from efface.audit.pipelines.probes.apart import Job, check_processes, run_apart
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD, SHAM, Panel, sham_of
from efface.audit.pipelines.probes.recovery import FloorKind, Row, compared
from efface.audit.pipelines.probes.registry import Probe, Suite
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.core.checkpoint import Checkpoint
from efface.pipelines.restoring import lock_of

SUBSTITUTE = "substitute"
_WHY = "why.txt"
SHAMMED = ("direct prompt", "likelihood")
"""Probes that a sham edit goes through: the cheapest of those that need pictures, and of those that do not."""


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
        processes: How many probes and models are measured side by side, each in a process of its own.
        sham: Whether `SHAMMED` are asked of a sham edit beside an edit of weights, too.

    Raises:
        InputError: If there cannot be so many processes.
    """

    def __init__(
        self,
        panel: Panel,
        case: Case,
        saved: Checkpoint | None = None,
        budgets: Mapping[str, Any] | None = None,
        shared: dict[tuple[str, str], dict[str, Scores]] | None = None,
        processes: int = 1,
        sham: bool = True,
    ) -> None:
        check_processes(processes, panel.devices)
        models = [each for each in (panel.base, panel.erased, panel.gold) if each is not None]
        self._processes, self._locks = processes, [lock_of(each.view.pipe) for each in models]
        self._refused: dict[tuple[str, str], str] = {}
        self._found: dict[tuple[str, str], dict[str, Scores]] = {}
        self._shared = {} if shared is None else shared
        self._panel, self._case, self._budgets = panel, case, dict(budgets or {})
        self._saved = Checkpoint(None, {}) if saved is None else saved
        self._sham: list[Subject | None] = [] if sham else [None]
        self._floored = None if panel.gold is not None else case.floored()

    def __call__(self, chosen: Sequence[Probe], suite: Suite, say: Callable[[str], None] | None = None) -> list[Ran]:
        """All probes on all models, in order; `say` is told what is going on.

        Raises:
            LostError: If a process was killed.
        """
        if self._processes > 1:
            self._measure_apart(chosen, suite, say)
            return [self.one(probe, suite) for probe in chosen]
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
        budget = self._budget(probe, suite)
        scores: dict[str, dict[str, Scores]] = {}
        why: dict[str, str] = {}
        for name, subject, case in self._asked(probe):
            if ERASED in why:  # nothing could be compared with it
                break
            if not _wanted(name, scores.get(ERASED, {})):
                continue
            try:
                scores[name] = self._kept(probe, name, subject, case, budget)
            except NotApplicableError as error:
                why[name] = str(error)
        kind: FloorKind = "gold" if GOLD in scores else "substitute" if SUBSTITUTE in scores else "none"
        return Ran(probe, budget, scores, why, kind)

    def _budget(self, probe: Probe, suite: Suite) -> dict[str, Any]:
        budget = {**(probe.budget(suite) or {}), **self._budgets.get(probe.name, {})}
        check_budget(probe, budget)
        return budget

    def _measure_apart(self, chosen: Sequence[Probe], suite: Suite, say: Callable[[str], None] | None) -> None:
        """Measure in other processes what is not known; first the erased model, as the rest depends on it."""
        budgets = [self._budget(probe, suite) for probe in chosen]
        with progress("probing", None, unit="models") as bar:
            jobs: list[Job] = []
            for probe, budget in zip(chosen, budgets, strict=True):
                jobs += self._begun(probe, budget, self._asked(probe), say, bar)
            run_apart(jobs, self._processes, self._locks)

    def _begun(
        self,
        probe: Probe,
        budget: Mapping[str, Any],
        asked: Sequence[tuple[str, Subject, Case]],
        say: Callable[[str], None] | None,
        bar: Bar,
    ) -> list[Job]:
        """What can be measured now of a probe: of the erased model, and when that is known of the others."""

        def job(name: str, subject: Subject, case: Case) -> Job:
            def done(folder: Path) -> list[Job]:
                self._take(probe, name, folder)
                bar.update(1)
                return self._begun(probe, budget, asked, say, bar) if name == ERASED else []

            def begins() -> None:
                if say is not None and name == ERASED:
                    say(f"{probe.name}: {probe.summary}")

            return Job(_part(probe, name), begins, partial(_measured, probe, subject, case, budget), done)

        erased = self._known(probe, ERASED)
        if erased is None:
            return [] if (probe.name, ERASED) in self._refused else [job(*asked[0])]
        return [job(*each) for each in asked[1:] if _wanted(each[0], erased) and self._known(probe, each[0]) is None]

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
        if (probe.name, name) in self._refused:
            raise NotApplicableError(self._refused[probe.name, name])
        known = self._known(probe, name)
        return self._keep(probe, name, _asked_of(probe, subject, case, budget)) if known is None else known

    def _known(self, probe: Probe, name: str) -> dict[str, Scores] | None:
        """What was measured before, or None."""
        part = _part(probe, name)
        if part in self._saved.parts:
            with self._saved.reading():
                found = kept.load(self._saved.path(part))
            return self._for_all(probe, name, found)
        return self._shared.get((probe.name, name), self._found.get((probe.name, name)))

    def _for_all(self, probe: Probe, name: str, found: dict[str, Scores]) -> dict[str, Scores]:
        """What was found; of base and gold other erasures need it too."""
        if name in (BASE, GOLD):
            self._shared[probe.name, name] = found
        return found

    def _keep(self, probe: Probe, name: str, rows: Sequence[Scores]) -> dict[str, Scores]:
        part, found = _part(probe, name), {row.name: row for row in rows}
        self._saved.write({"done": [*self._saved.parts, part]}, {part: partial(kept.save, rows=rows)})
        return self._for_all(probe, name, found)

    def _take(self, probe: Probe, name: str, folder: Path) -> None:
        """Keep what another process measured."""
        if (folder / _WHY).is_file():
            self._refused[probe.name, name] = (folder / _WHY).read_text("utf-8")
        else:
            self._found[probe.name, name] = self._keep(probe, name, [*kept.load(folder).values()])


def _wanted(name: str, erased: Mapping[str, Scores]) -> bool:
    """Whether a model is asked: a substitute floor only where there is a rate that it is the floor of."""
    return name != SUBSTITUTE or any(row.is_share for row in erased.values())


def _part(probe: Probe, name: str) -> str:
    return f"{probe.name} | {name}"


def _asked_of(probe: Probe, subject: Subject, case: Case, budget: Mapping[str, Any]) -> list[Scores]:
    """The rows that a probe gives of a model."""
    _check_access(probe, subject)
    out = probe.run(subject, case, **budget)
    return [out] if isinstance(out, Scores) else list(out)


def _measured(probe: Probe, subject: Subject, case: Case, budget: Mapping[str, Any], folder: Path) -> None:
    """The same in a process of its own, which leaves the rows in a folder, or why there are none."""
    try:
        rows = _asked_of(probe, subject, case, budget)
    except NotApplicableError as error:
        folder.mkdir()
        (folder / _WHY).write_text(str(error), "utf-8")
    else:
        kept.save(folder, rows=rows)


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
