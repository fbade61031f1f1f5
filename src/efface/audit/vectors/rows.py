"""The audit of vectors in one call: folds, probes, tasks and the edit, put into words that follow from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_finite, to_tensor
from efface.audit.audit import Audit
from efface.audit.figure import Figure
from efface.audit.finding import Finding
from efface.audit.vectors import probe_text
from efface.audit.vectors.folds import Erase, Fit, make_folds, repeated, views
from efface.audit.vectors.guardedness import EditSize, Guardedness, looks_fitted
from efface.audit.vectors.judging import of_the_fit
from efface.audit.vectors.labels import Kind, Labels
from efface.audit.vectors.pictures import before_after, by_group, decisions
from efface.audit.vectors.probes import PROBES, ProbeScores
from efface.audit.vectors.task import Task, as_tasks, audit_task
from efface.core.column_names import check_columns, check_same_rows
from efface.core.doors import check_call
from efface.core.labels import read_groups
from efface.core.provenance import called, provenance
from efface.report.data import AFTER

_PAIR = 2
_SCORES = {"accuracy": "share of rows read right", "R2": "R2"}


def rows(
    x: Any,
    z: Any,
    erase: Erase | None = None,
    *,
    fit: Fit | None = None,
    task: Any = None,
    groups: Any = None,
    name: str = "concept",
    kind: Kind | None = None,
    classes: tuple[str, ...] | None = None,
    title: str = "",
    probes: Sequence[str] = ("linear", "mlp"),
    folds: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> Audit:
    """Ask fresh probes for the concept before and after erasure, and a linear model for the task.

    Each row is scored once, by probes that were trained on other rows. Two ways to give the eraser:

    - `fit`, a function `(x_train, z_train) -> erase`: it is called in every fold with training rows only, so that
      neither the eraser nor the probes have seen the rows that are scored. Erasers whose work is probed learn from one
      half of them and the probes from the other, then the other way round, and scores are averaged: on rows of the fit
      there is nothing to learn, whatever is left on others. What is estimated is how well a probe of half the training
      rows reads what an eraser of as many leaves. For erasers of class means that is about what any number of fresh
      rows would show of an eraser of all training rows, and less where columns are more than half of these; of other
      erasers more rows may show more. Task, edit and class means are those of an eraser of all training rows.
    - `erase`, an eraser that is fitted already: then `x` must be an audit set, rows that it was *not* fitted on. The
      audit warns of rows that give themselves away; those among many other rows of the fit do not.

    Of two scores of a probe, its right answers and its loss, one that reads is enough. A probe that could not read the
    concept before erasure is too weak to judge, and never counts as a success; nor do rows too few to tell.

    Args:
        x: Vectors `(n, d)`: tensor, array, data frame. The eraser is given a tensor of this dtype.
        z: The concept `(n,)`, or numbers `(n, k)`. Integers, booleans and text are classes, floats are numbers.
        erase: A fitted eraser, `erase(x) -> x'` of the same shape; one of efface's is refused if `x` has other columns
            than those of its fit, or in another order.
        fit: A function that fits one, called three times a fold, and once more for each task; it is given classes as
            int64 `(m,)`, numbers as float64.
        task: Labels `(n,)`, a `Task`, or a sequence of `Task`.
        groups: Group of each row `(n,)`; whole groups are held out, and intervals resample whole groups.
        name: What to call the concept on the page.
        kind: `"categorical"` or `"continuous"`, to override what the dtype of `z` says.
        classes: Names of the classes, in the order of their sorted labels.
        title: Title of the audit.
        probes: Names from `PROBES`.
        folds: Number of folds.
        level: Confidence level of the intervals.
        seed: Seed of folds, probes and resampling.

    Returns:
        An `Audit` with findings, figures, conclusions and caveats.

    Raises:
        InputError: If both or neither of `erase` and `fit` are given, or the data cannot be used, or a fold, or with
            `fit` a half of one, lacks a class.
        MissingExtraError: If scikit-learn is not installed.

    Does not guarantee: that a stronger probe finds nothing. Intervals cover the draw of the rows (or groups), not the
    choice of the folds or of the probes' settings.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z = rng.integers(0, 2, 200)
    >>> x = rng.normal(size=(200, 3)) + 2 * z[:, None]
    >>> audit = rows(x, z, lambda x: 0 * x, probes=["linear"])
    >>> audit.find("linear probe", "accuracy", "before").verdict
    'above chance'
    >>> audit.find("linear probe", "accuracy", "after").verdict
    'at chance'
    """
    check_call(rows, locals())
    call = called("efface.audit.rows", locals())
    # The eraser is given tensors, which have no names.
    if hasattr(erase, "columns"):
        check_columns(erase.columns, x, whose="erase.columns")  # type: ignore[attr-defined]
    check_same_rows(x=x, z=z, groups=groups)
    for each in as_tasks(task):
        check_same_rows(x=x, task=each.y, groups=each.groups)
    groups = None if groups is None else read_groups(groups)
    data, concept = _read(x, z, name, kind, classes, groups)
    if (erase is None) == (fit is None):
        raise InputError("give either erase=a fitted eraser or fit=a function (x, z) -> eraser, and not both")
    run = _Run(data, concept, erase, fit, groups, folds, seed, level)
    concept_findings, figures, copies = run.concept(_chosen(probes))
    task_findings, task_figures = run.tasks(as_tasks(task))
    findings = (*concept_findings, *task_findings)
    of_a_fit = len(data) * (folds - 1) // folds // 2
    return Audit(
        title or f"Erasing {name}",
        text=probe_text.method(
            concept, n=len(data), d=data.shape[1], folds=folds, groups=groups, inside=fit is not None
        ),
        conclusions=(
            *probe_text.copied(copies, len(data)),
            *(() if fit is None else probe_text.thin(of_a_fit, data.shape[1], probe_text.readings(findings).values())),
            *probe_text.conclusions(findings, name),
        ),
        findings=findings,
        figures=(figures[0], *task_figures, *figures[1:]),
        caveats=probe_text.caveats(concept, fitted_inside=fit is not None, grouped=groups is not None),
        settings=_settings(data, concept, folds, seed, level, probes),
        provenance=provenance(subject=fit if erase is None else erase, data={"x": data, "z": z}, seed=seed, call=call),
    )


@dataclass(frozen=True)
class _Run:
    x: Tensor
    labels: Labels
    erase: Erase | None
    fit: Fit | None
    groups: Any
    folds: int
    seed: int
    level: float

    def concept(self, probes: Sequence[str]) -> tuple[list[Finding], list[Figure], int]:
        """What was found, figures of it, and how many rows are copies of rows of their training fold."""
        labels, n = self.labels, len(self.labels)
        strata = labels.values if labels.is_categorical else None
        splits = make_folds(n, self.folds, groups=self.groups, strata=strata, seed=self.seed)
        scores = [ProbeScores(PROBES[p], labels, seed=self.seed) for p in probes]
        guarded = Guardedness(labels, fitted_inside=self.fit is not None, seed=self.seed)
        edit = EditSize(n, seed=self.seed)
        seen = False
        given: dict[str, Any] = {"fit": self.fit, "erase": self.erase, "groups": self.groups, "seed": self.seed}
        for view in views(self.x, labels, splits, **given):
            for score in scores:
                score.add(*view.crossed)
            guarded.add(view)
            edit.add(view)
            # A fitted eraser gives the same rows in every fold.
            if view.test is splits[0][1] and self.fit is None:
                seen = looks_fitted(view.after, labels.columns(), free=self.groups is None, seed=self.seed)
        probed = [f for s in scores for f in s.findings(groups=self.groups, level=self.level)]
        probed = of_the_fit(probed) if seen else probed
        findings = [*probed, edit.finding(groups=self.groups, level=self.level), *guarded.findings()]
        return findings, self._figures(probed, scores), repeated(self.x, splits)

    def _figures(self, probed: list[Finding], scores: list[ProbeScores]) -> list[Figure]:
        score = "accuracy" if self.labels.is_categorical else "R2"
        main = before_after(
            f"How well can {self.labels.name} be read?",
            [f for f in probed if f.name == score],
            x_label=_SCORES[score],
            caption="Fresh probes on held-out rows; whiskers are intervals, the dashed line is a constant guess.",
        )
        drawn = decisions(_strongest(probed, scores)) if len(self.labels.classes) == _PAIR else ()
        return [main, *drawn, *self._group_figures(scores)]

    def _group_figures(self, scores: list[ProbeScores]) -> list[Figure]:
        if self.groups is None or not self.labels.is_categorical:
            return []
        last = scores[-1]
        chance = last.findings(groups=self.groups)[0].chance or 0.0
        figure = by_group(
            f"After erasure, group by group: {last.probe.family}",
            last.hits("after"),
            self.groups,
            chance=chance,
            caption="Each group was held out when the eraser and the probe were fitted.",
        )
        return [] if figure is None else [figure]

    def tasks(self, tasks: Sequence[Task]) -> tuple[list[Finding], list[Figure]]:
        options = {"fit": self.fit, "erase": self.erase, "folds": self.folds, "seed": self.seed, "level": self.level}
        findings = [f for t in tasks for f in audit_task(self.x, self.labels, t, groups=self.groups, **options)]
        figures = [
            before_after(
                "What else went?",
                found,
                x_label=label,
                caption="The task, by a linear model that is trained anew on each side and scored on held-out rows.",
            )
            for score, label in _SCORES.items()
            if (found := [f for f in findings if f.name == score])
        ]
        return findings, figures


def _read(
    x: Any, z: Any, name: str, kind: Kind | None, classes: tuple[str, ...] | None, groups: Any
) -> tuple[Tensor, Labels]:
    rows = to_tensor(x, "x")
    if rows.ndim != _PAIR or rows.shape[1] == 0:
        raise InputError(f"x has shape {tuple(rows.shape)}, expected (n, d): one vector a row")
    rows = rows if rows.is_floating_point() else rows.to(torch.float64)
    check_finite(rows, "x")
    concept = Labels.of(z, name, kind=kind, classes=classes)
    if len(concept) != len(rows):
        raise InputError(f"x has {len(rows)} rows but z has {len(concept)}: give one label for each row")
    if groups is not None and len(groups) != len(rows):
        raise InputError(f"x has {len(rows)} rows but groups has {len(groups)}: give one group for each row")
    return rows, concept


def _strongest(probed: Sequence[Finding], scores: Sequence[ProbeScores]) -> ProbeScores:
    """The probe with the most information after erasure: what it makes of the rows is what is left to be read."""
    bits = {f.family: f.value for f in probed if f.name == "information" and f.condition == AFTER}
    return max(scores, key=lambda score: bits[score.family])


def _chosen(probes: Sequence[str]) -> Sequence[str]:
    unknown = [p for p in probes if p not in PROBES]
    if unknown or not probes:
        raise InputError(f"unknown probes {unknown}: choose at least one of {', '.join(PROBES)}")
    return probes


def _settings(x: Tensor, concept: Labels, folds: int, seed: int, level: float, probes: Sequence[str]) -> dict[str, Any]:
    return {
        "rows": len(x),
        "width": x.shape[1],
        "kind": concept.kind,
        "classes": list(concept.classes),
        "folds": folds,
        "seed": seed,
        "level": level,
        "probes": list(probes),
    }
