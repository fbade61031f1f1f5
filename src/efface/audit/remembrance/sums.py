"""Second pass over the rows: resampled sums of hits and attention, from which S1, S2, S4, S7 and S10 follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.attention import coins, exchanged, exchanged_sums, heirs
from efface.audit.remembrance.bootstrap import resampled, weights
from efface.audit.remembrance.classes import Class
from efface.audit.remembrance.crossed import Products, narrowed, of_cells, products
from efface.audit.remembrance.effects import means_by_cell
from efface.audit.remembrance.kept import Kept
from efface.audit.remembrance.panel import Panel, Rows
from efface.audit.remembrance.plan import Plan
from efface.audit.remembrance.spillover import Design
from efface.audit.remembrance.standing import Standing
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from efface.audit.remembrance.totals import Totals

Floats = NDArray[np.float64]
N, THEN, NOW, BOTH = "rows", "hits before", "hits after", "hits before and after"
N_AGAIN, THEN_AGAIN, BOTH_AGAIN = "rows again", "hits before, of those", "hits before and again"
DUE_THEN, GOT_THEN, DUE_NOW, GOT_NOW = "merit before", "merit hit before", "merit after", "merit hit after"
GAP, NAMED, QUESTIONS = "mean change of a question", "the same of mentions", "questions"
SEEN_THEN, SEEN_NOW = "attention before", "attention after"
FLIPS = 499


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of each class, and their resamples.

    Attributes:
        classes: What they are of.
        exact: Name -> `(classes,)`.
        draws: Name -> `(classes, draws)`.
        free: Which classes are samples of entities, of which entities were resampled as well.
        products: See `crossed.products`.
        largest: Largest error of a bystander in each resample, in its standard errors, `(draws,)`.
        slopes: Coefficients of the spillover in each resample, `(terms, draws)`, if there is one.
        by_query: Sum over a class of the changes in each query, `(classes, queries)`.
        queries: How many queries have a row of each class, `(classes,)`.
        heirs: See `attention.heirs`, of the targets.
        chance: See `attention.exchanged`.
    """

    classes: Sequence[Class]
    exact: Mapping[str, Floats]
    draws: Mapping[str, Floats]
    free: NDArray[np.bool_]
    products: Products
    largest: Floats
    slopes: Floats | None
    by_query: Floats
    queries: NDArray[np.int64]
    heirs: tuple[Floats, Floats, int]
    chance: Mapping[str, Floats]

    @property
    def units(self) -> NDArray[np.int64]:
        """Independent units behind each class: queries, or of entities and queries the fewer, `(classes,)`."""
        entities = np.array([int(each.members.sum()) for each in self.classes])
        return np.where(self.free, np.minimum(entities, self.queries), self.queries)

    def ratio(self, top: str, bottom: str, less: str | None = None) -> tuple[Floats, Floats]:
        """`(top - less) / bottom` of each class, and of each resample; NaN where there is nothing to divide by."""
        exact, draws = (self._divided(sums, top, bottom, less) for sums in (self.exact, self.draws))
        return exact, self._narrowed(exact, draws, self._slopes(exact, top, bottom, less))

    def lost(self, kept: tuple[str, str], chance: tuple[str, str]) -> tuple[Floats, Floats]:
        """`1 - kept / chance` of two ratios `(top, bottom)`, in the same way."""
        pairs = []
        for sums in (self.exact, self.draws):
            one, other = (self._divided(sums, *names) for names in (kept, chance))
            pairs.append(np.where(other > 0, 1 - one / np.where(other > 0, other, 1), np.nan))
        one, other = (self._divided(self.exact, *names) for names in (kept, chance))
        scale = np.where(other > 0, other, np.nan)
        weights = {name: -w / scale for name, w in self._slopes(one, *kept).items()}
        weights |= {name: w * one / scale**2 for name, w in self._slopes(other, *chance).items()}
        return pairs[0], self._narrowed(pairs[0], pairs[1], weights)

    @staticmethod
    def _divided(sums: Mapping[str, Floats], top: str, bottom: str, less: str | None = None) -> Floats:
        under = sums[bottom]
        over = sums[top] if less is None else sums[top] - sums[less]
        return np.where(under > 0, over / np.where(under > 0, under, 1), np.nan)

    def _slopes(self, ratio: Floats, top: str, bottom: str, less: str | None = None) -> dict[str, Floats]:
        """What one more in each sum does to a ratio."""
        under = np.where(self.exact[bottom] > 0, self.exact[bottom], np.nan)
        return {top: 1 / under, bottom: -ratio / under} | ({} if less is None else {less: -1 / under})

    def _narrowed(self, exact: Floats, draws: Floats, weights: Mapping[str, Floats]) -> Floats:
        cells = of_cells(self.products, weights)
        return np.where(self.free[:, None], narrowed(exact, draws, cells), draws)


def matrices_of(panel: Panel, *, weighted: bool) -> dict[str, NDArray[Any]]:
    """What is summed, a value a row `(n,)`.

    Args:
        panel: The arms.
        weighted: Whether sums by merit are others than counts.
    """
    before, after = panel.hit[BEFORE], panel.hit[AFTER]
    answered = panel.fine(BEFORE, AFTER)
    paired = panel.relevant & answered
    found = {N: paired * 1.0, THEN: before * paired, NOW: after * paired, BOTH: before * after * paired}
    if weighted:
        for due, got, arm in ((DUE_THEN, GOT_THEN, BEFORE), (DUE_NOW, GOT_NOW, AFTER)):
            found[due] = panel.merit * panel.fine(arm)
            found[got] = found[due] * panel.hit[arm]
    if AGAIN in panel.hit:
        twice = panel.relevant & panel.fine(BEFORE, AGAIN)
        found |= {N_AGAIN: twice * 1.0, THEN_AGAIN: before * twice, BOTH_AGAIN: before * panel.hit[AGAIN] * twice}
    return {**found, SEEN_THEN: panel.exposure[BEFORE] * answered, SEEN_NOW: panel.exposure[AFTER] * answered}


@dataclass
class _Entities:
    """What is kept of each entity's resampled changes: the largest error, and the slopes."""

    standing: Standing
    spill: Design | None
    there: NDArray[np.int64] | slice
    largest: list[Floats] = field(default_factory=list)
    slopes: list[Floats] = field(default_factory=list)

    def __post_init__(self) -> None:
        own, there = self.standing, self.there
        self._change, self._error, self._able = (
            own.found.change[there],
            own.error[there],
            np.isfinite(own.shrunk[there]),
        )

    def __call__(self, sums: Mapping[str, Floats]) -> None:
        own = self._change[:, None]
        rows, gap = (sums[QUESTIONS], sums[GAP]) if GAP in sums else (sums[N], sums[NOW] - sums[THEN])
        change = np.where(rows > 0, gap / np.where(rows > 0, rows, 1), own)
        far = np.abs(change[self._able] - own[self._able]) / self._error[self._able][:, None]
        self.largest.append(far.max(axis=0, initial=0.0))
        if self.spill is not None:
            named = change if NAMED not in sums else sums[NAMED] / np.where(rows > 0, rows, 1)
            self.slopes.append(self.spill.fit(named, self.there))


@dataclass(eq=False)
class _Second:
    """What the second pass adds up, panel by panel."""

    classes: Sequence[Class]
    free: NDArray[np.bool_]
    standing: Standing
    spill: Design | None
    plan: Plan
    first: Totals
    drawn: Iterable[tuple[NDArray[Any], NDArray[Any]]] | None
    sides: Iterable[tuple[NDArray[np.int8]]] | None
    found: dict[str, Any] = field(default_factory=dict)
    products: Products = field(default_factory=dict)
    largest: Floats | None = None
    moves: list[Floats] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.members = np.stack([each.members for each in self.classes]).astype(np.float64)
        self.seen = np.zeros((len(self.classes), self.first.answers.queries), dtype=bool)

    def add(self, panel: Panel) -> None:
        values = matrices_of(panel, weighted=self.first.weighted)
        kept = _Entities(self.standing, self.spill, panel.there)
        cells = {name: panel.by_cell(value) for name, value in values.items()}
        matrices = {name: panel.matrix(value) for name, value in cells.items()}
        draws = resampled(
            matrices | self._by_question(panel),
            self.members,
            free=self.free,
            draws=self.plan.draws,
            seed=self.plan.seed,
            each=kept,
            there=panel.there,
            drawn=self.drawn,
        )
        exact = {name: self.members @ panel.by_entity(value) for name, value in values.items()}
        gap = matrices[NOW] - matrices[THEN]
        by_query = np.asarray((gap.T @ self.members[:, panel.there].T).T)
        gained, anyway, self.answers = heirs(
            panel, panel.registry.targets, BEFORE, AFTER, came=self.first.came, dropped=self.first.dropped
        )
        self._sum({f"draws {name}": each for name, each in draws.items() if name not in (GAP, NAMED, QUESTIONS)})
        self._sum({f"exact {name}": each for name, each in exact.items()})
        counted = {name: each for name, each in cells.items() if name not in (SEEN_THEN, SEEN_NOW)}
        found = products(counted, panel.cells[0], self.members)
        self.products = found if not self.products else {k: v + found[k] for k, v in self.products.items()}
        self._sum({"by query": by_query, "gained": gained, "anyway": anyway})
        if kept.slopes:
            self._sum({"slopes": np.concatenate(kept.slopes, axis=1)})
        largest = np.concatenate(kept.largest)
        self.largest = largest if self.largest is None else np.maximum(self.largest, largest)
        for place, each in enumerate(self.classes):
            self.seen[place, panel.query[each.members[panel.entity]]] = True
        self._exchange(panel, matrices[SEEN_THEN], matrices[SEEN_NOW])

    def _by_question(self, panel: Panel) -> dict[str, Any]:
        """Changes of entities as they are tested, by question; nothing where sums of mentions say the same."""
        hits = self.plan.outcome == "hit"
        count, then, now = means_by_cell(panel, BEFORE, AFTER, outcome=self.plan.outcome)
        if hits and len(np.unique(count[count > 0])) <= 1:
            return {}
        found = {GAP: now - then, QUESTIONS: (count > 0).astype(np.float64)}
        if not hits and self.spill is not None:
            _, then, now = means_by_cell(panel, BEFORE, AFTER, outcome="hit")
            found[NAMED] = now - then
        return {name: panel.matrix(value) for name, value in found.items()}

    def _sum(self, parts: Mapping[str, Any]) -> None:
        for name, part in parts.items():
            self.found[name] = self.found[name] + part if name in self.found else part

    def _exchange(self, panel: Panel, then: Any, now: Any) -> None:
        """Attention where arms are exchanged; of several panels what moved is kept until all are there."""
        if self.sides is None:
            self.chance = exchanged(then, now, flips=FLIPS, seed=self.plan.seed)
            return
        whole = np.zeros(len(panel.registry))
        whole[panel.there] = np.asarray(then.sum(axis=1) + now.sum(axis=1)).reshape(-1)
        self._sum({"whole": whole})
        gap = now - then
        for place, (side,) in enumerate(self.sides):
            if place == len(self.moves):
                self.moves.append(np.zeros((len(whole), side.shape[1])))
            self.moves[place][panel.there] += np.asarray(gap @ side)

    def result(self) -> Sums:
        parts = {
            kind: {n.removeprefix(kind): v for n, v in self.found.items() if n.startswith(kind)} for kind in _KINDS
        }
        exact, draws = (parts[kind] for kind in _KINDS)
        found = dict(self.products)
        for due, got, rows, hits in ((DUE_THEN, GOT_THEN, N, THEN), (DUE_NOW, GOT_NOW, N, NOW)):
            for sums in (exact, draws):
                sums.setdefault(due, sums[rows])
                sums.setdefault(got, sums[hits])
            if (due, due) not in found:
                found |= {(due, due): found[N, N], (due, got): found[N, hits], (got, got): found[hits, hits]}
        return Sums(
            self.classes,
            exact,
            draws,
            self.free,
            found,
            np.empty(0) if self.largest is None else self.largest,
            self.found.get("slopes"),
            self.found["by query"],
            self.seen.sum(axis=1),
            (self.found["gained"], self.found["anyway"], self.answers),
            self.chance if self.sides is None else exchanged_sums(self.found["whole"], self.moves),
        )


_KINDS = ("exact ", "draws ")


def summed(
    rows: Rows,
    arms: Sequence[str],
    first: Totals,
    classes: Sequence[Class],
    free: NDArray[np.bool_],
    standing: Standing,
    spill: Design | None,
    plan: Plan,
) -> Sums:
    """Sums of all classes with their resamples.

    Args:
        rows: The rows.
        arms: Arms to read.
        first: What the first pass found.
        classes: Of which entities.
        free: Which classes are samples of entities; the others, such as the target, are whole.
        standing: What each entity's change is.
        spill: Regression on likeness, if there is one.
        plan: How the audit is run.
    """
    registry, queries = first.answers.registry, first.answers.queries
    second = _Second(classes, free, standing, spill, plan, first, None, None)
    with ExitStack() as stack:
        if rows.parts > 1:  # the same for all of them
            size = len(registry), queries
            sides, drawn = coins(*size, FLIPS, plan.seed), weights(*size, plan.draws, plan.seed)
            second.sides = stack.enter_context(Kept(((side,) for side in sides), rows.folder))
            second.drawn = stack.enter_context(Kept(drawn, rows.folder))
        for panel in rows.panels(registry, arms):
            second.add(panel)
    return second.result()
