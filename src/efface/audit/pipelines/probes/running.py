"""Probes run on every model of a panel, each kept on disk as soon as it is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._progress import Bar, progress
from efface.audit.pipelines.probes import kept
from efface.audit.pipelines.probes.apart import Job, check_processes, run_apart
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.looks import MORE, Look, joined, level_of, looks
from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD, SHAM, Panel, sham_of
from efface.audit.pipelines.probes.ran import SUBSTITUTE, Ran
from efface.audit.pipelines.probes.recovery import FloorKind
from efface.audit.pipelines.probes.registry import Probe, Suite
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.core.checkpoint import Checkpoint
from efface.pipelines.restoring import lock_of

_WHY = "why.txt"
SHAMMED = ("direct prompt", "likelihood")
"""Probes that a sham edit goes through: the cheapest of those that need pictures, and of those that do not."""


class Runner:
    """Runs probes, and keeps what is done in a folder, from which it goes on.

    Args:
        panel: The models.
        case: What is asked.
        saved: Where scores are kept; None keeps none.
        budgets: Probe -> budget in place of the suite's.
        shared: Part -> scores of base and gold, which several erasures of one base have in common; filled as they are
            measured.
        processes: How many probes and models are measured side by side, each in a process of its own.
        sham: Whether `SHAMMED` are asked of a sham edit beside an edit of weights, too.
        more: How many times the items of its first look a probe may look at (`looks`).

    Raises:
        InputError: If there cannot be so many processes, or so few looks.
    """

    def __init__(
        self,
        panel: Panel,
        case: Case,
        saved: Checkpoint | None = None,
        budgets: Mapping[str, Any] | None = None,
        shared: dict[str, dict[str, Scores]] | None = None,
        processes: int = 1,
        sham: bool = True,
        more: int = MORE,
    ) -> None:
        self._more, self._most = more, looks(more)[-1]
        check_processes(processes, panel.devices)
        models = [each for each in (panel.base, panel.erased, panel.gold) if each is not None]
        self._processes, self._locks = processes, [lock_of(each.view.pipe) for each in models]
        self._refused: dict[str, str] = {}
        self._found: dict[str, dict[str, Scores]] = {}
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
        found = [Look(probe, self._budget(probe, suite)) for probe in chosen]
        return self._all(found, say, "probing")

    def one(self, probe: Probe, suite: Suite) -> Ran:
        """One probe on all models."""
        return self._one(Look(probe, self._budget(probe, suite)))

    def may_look_on(self, ran: Ran) -> bool:
        """Whether a probe can look at more items, and may."""
        return bool(ran.probe.count) and ran.times < self._most and ERASED in ran.scores and not ran.over

    def further(self, before: Sequence[Ran], suite: Suite, say: Callable[[str], None] | None = None) -> list[Ran]:
        """Each probe at twice the items; as it was where there are no more."""
        known = [Look(one.probe, self._budget(one.probe, suite), 2 * one.times) for one in before]
        if say is not None:
            names = ", ".join(one.probe.name for one in before)
            say(f"the verdict is open for want of items, so twice as many: {names}")
        found = self._all(known, None, "looking on")
        return [_after(old, one) for one, old in zip(found, before, strict=True)]

    def _all(self, chosen: Sequence[Look], say: Callable[[str], None] | None, what: str) -> list[Ran]:
        if self._processes > 1:
            self._measure_apart(chosen, say)
            return [self._one(look) for look in chosen]
        found: list[Ran] = []
        with progress(what, len(chosen), unit="probes") as bar:
            for look in chosen:
                if say is not None:
                    say(f"{look.probe.name}: {look.probe.summary}")
                found.append(self._one(look))
                bar.update(1)
        return found

    def _one(self, look: Look) -> Ran:
        scores: dict[str, dict[str, Scores]] = {}
        why: dict[str, str] = {}
        for name, subject, case in self._asked(look):
            if ERASED in why:  # nothing could be compared with it
                break
            if not _wanted(name, scores.get(ERASED, {})):
                continue
            try:
                scores[name] = self._kept(look, name, subject, case)
            except NotApplicableError as error:
                why[name] = str(error)
        kind: FloorKind = "gold" if GOLD in scores else "substitute" if SUBSTITUTE in scores else "none"
        return Ran(look.probe, look.whole, scores, why, kind, look.times, level_of(look.probe, look.times, self._more))

    def _budget(self, probe: Probe, suite: Suite) -> dict[str, Any]:
        budget = {**(probe.budget(suite) or {}), **self._budgets.get(probe.name, {})}
        check_budget(probe, budget)
        return budget

    def _measure_apart(self, chosen: Sequence[Look], say: Callable[[str], None] | None) -> None:
        """Measure in other processes what is not known; first the erased model, as the rest depends on it."""
        with progress("probing", None, unit="models") as bar:
            jobs: list[Job] = []
            for look in chosen:
                jobs += self._begun(look, self._asked(look), say, bar)
            run_apart(jobs, self._processes, self._locks)

    def _begun(
        self,
        look: Look,
        asked: Sequence[tuple[str, Subject, Case]],
        say: Callable[[str], None] | None,
        bar: Bar,
    ) -> list[Job]:
        """What can be measured now of a probe: of the erased model, and when that is known of the others."""

        def job(name: str, subject: Subject, case: Case) -> Job:
            def done(folder: Path) -> list[Job]:
                self._take(look, name, folder)
                bar.update(1)
                return self._begun(look, asked, say, bar) if name == ERASED else []

            def begins() -> None:
                if say is not None and name == ERASED:
                    say(f"{look.probe.name}: {look.probe.summary}")

            return Job(look.part(name), begins, partial(_measured, look, subject, case), done)

        erased = self._known(look, ERASED)
        if erased is None:
            return [] if look.part(ERASED) in self._refused else [job(*asked[0])]
        return [job(*each) for each in asked[1:] if _wanted(each[0], erased) and self._known(look, each[0]) is None]

    def _asked(self, look: Look) -> list[tuple[str, Subject, Case]]:
        panel, case = self._panel, self._case
        asked = [(ERASED, panel.erased, case), (BASE, panel.base, case)]
        if panel.gold is not None:
            asked.append((GOLD, panel.gold, case))
        elif self._floored is not None:
            asked.append((SUBSTITUTE, panel.base, self._floored))
        if look.probe.name in SHAMMED and look.times == 1 and (sham := self._shammed()) is not None:
            asked.append((SHAM, sham, case))
        return asked

    def _shammed(self) -> Subject | None:
        if not self._sham:
            self._sham.append(sham_of(self._panel, self._case.seed))
        return self._sham[0]

    def _kept(self, look: Look, name: str, subject: Subject, case: Case) -> dict[str, Scores]:
        if (part := look.part(name)) in self._refused:
            raise NotApplicableError(self._refused[part])
        known = self._known(look, name)
        return self._keep(look, name, _asked_of(look, subject, case)) if known is None else known

    def _known(self, look: Look, name: str) -> dict[str, Scores] | None:
        """What was measured before, of all items of the look, or None."""
        part = look.part(name)
        if part in self._shared or part in self._found:
            return self._shared.get(part, self._found.get(part))
        if part not in self._saved.parts:
            return None
        with self._saved.reading():
            found = kept.load(self._saved.path(part))
        return self._all_of(look, name, found)

    def _all_of(self, look: Look, name: str, found: dict[str, Scores]) -> dict[str, Scores]:
        """What was found, after what was known before; of base and gold other erasures need it too."""
        if look.times > 1 and not look.probe.anew:
            before = self._known(look.fewer(), name) or {}
            found = {row: joined(before[row], scores) for row, scores in found.items() if row in before}
        where = self._shared if name in (BASE, GOLD) else self._found
        where[look.part(name)] = found
        return found

    def _keep(self, look: Look, name: str, rows: Sequence[Scores]) -> dict[str, Scores]:
        part, found = look.part(name), {row.name: row for row in rows}
        self._saved.write({"done": [*self._saved.parts, part]}, {part: partial(kept.save, rows=rows)})
        return self._all_of(look, name, found)

    def _take(self, look: Look, name: str, folder: Path) -> None:
        """Keep what another process measured."""
        if (folder / _WHY).is_file():
            self._refused[look.part(name)] = (folder / _WHY).read_text("utf-8")
        else:
            self._keep(look, name, [*kept.load(folder).values()])


def _after(old: Ran, new: Ran) -> Ran:
    """A further look, or where it was not possible the one before."""
    all_asked = {*new.scores} >= {*old.scores} - {SHAM}
    return replace(new, before=old.before or old) if all_asked else replace(old, over=True)


def _wanted(name: str, erased: Mapping[str, Scores]) -> bool:
    """Whether a model is asked: a substitute floor only where there is a rate that it is the floor of."""
    return name != SUBSTITUTE or any(row.is_share for row in erased.values())


def _asked_of(look: Look, subject: Subject, case: Case) -> list[Scores]:
    """The rows that a probe gives of a model."""
    _check_access(look.probe, subject)
    out = look.probe.run(subject, case, **look.spending)
    return [out] if isinstance(out, Scores) else list(out)


def _measured(look: Look, subject: Subject, case: Case, folder: Path) -> None:
    """The same in a process of its own, which leaves the rows in a folder, or why there are none."""
    try:
        rows = _asked_of(look, subject, case)
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
    taken = [name for name in taken if name != "first"]
    if odd := [name for name in budget if name not in taken]:
        raise InputError(f"the probe {probe.name!r} takes no {odd[0]!r}: it takes {', '.join(taken) or 'nothing'}")


def _check_access(probe: Probe, subject: Subject) -> None:
    if probe.access not in subject.access:
        raise NotApplicableError(
            f"it needs access to {probe.access}, and {subject.name} grants {', '.join(subject.access) or 'none'}"
        )
