"""What else went: how well a linear model does a task before and after erasure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from efface._errors import InputError
from efface.audit.finding import Finding
from efface.audit.vectors.folds import Erase, Fit, make_folds, views
from efface.audit.vectors.labels import Kind, Labels
from efface.audit.vectors.probes import PROBES, ProbeScores
from efface.core.doors import check_fields
from efface.core.labels import read_groups


@dataclass(frozen=True)
class Task:
    """Something the vectors should still be good for.

    Attributes:
        y: Labels of the rows, `(n,)`: classes or numbers.
        name: What to call it on the page.
        kind: As in `Labels.of`.
        groups: Groups that are held out together; the audit's own if None.
    """

    y: Any
    name: str = "task"
    kind: Kind | None = None
    groups: Any = None

    def __post_init__(self) -> None:
        check_fields(self)


def as_tasks(task: Any) -> list[Task]:
    """Nothing, one task, a sequence of `Task`, or bare labels, as a list."""
    if task is None:
        return []
    if isinstance(task, Task):
        return [task]
    if isinstance(task, Sequence) and task and all(isinstance(t, Task) for t in task):
        return list(task)
    return [Task(task)]


def audit_task(
    x: Tensor,
    concept: Labels,
    task: Task,
    *,
    fit: Fit | None,
    erase: Erase | None,
    groups: Any,
    folds: int,
    seed: int,
    level: float,
) -> list[Finding]:
    """Score a linear model on the task, trained anew before and after erasure.

    Classes: accuracy and information; numbers: R2; and the paired change, each with its interval. The task's own folds
    are used, and the eraser is fitted anew on their training rows (if it is given as `fit`).
    """
    labels = Labels.of(task.y, task.name, kind=task.kind)
    if len(labels) != len(concept):
        raise InputError(f"{task.name} has {len(labels)} labels for {len(concept)} rows of x")
    units = groups if task.groups is None else read_groups(task.groups, f"groups of {task.name}")
    splits = make_folds(
        len(labels), folds, groups=units, strata=labels.values if labels.is_categorical else None, seed=seed
    )
    scores = ProbeScores(PROBES["linear"], labels, seed=seed, family=f"task: {task.name}", is_task=True)
    # Who does a task learns it from the rows that the eraser was fitted on.
    for view in views(x, concept, splits, fit=fit, erase=erase, crossed=False):
        scores.add(view)
    return [*scores.findings(groups=units, level=level), scores.change(groups=units, level=level)]
