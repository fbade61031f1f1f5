"""What is measured at one site: a probe of the concept, a probe of the control task, and the class means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface.audit.finding import Finding
from efface.audit.vectors.folds import Rows, View
from efface.audit.vectors.guardedness import looks_fitted
from efface.audit.vectors.judging import of_the_fit
from efface.audit.vectors.labels import Labels
from efface.audit.vectors.probes import PROBES as LADDER
from efface.audit.vectors.probes import QUICK_LINEAR, ProbeScores
from efface.report.data import AFTER, BEFORE
from efface.stats.intervals import share_change_interval

Floats = NDArray[np.float64]

PROBE, BITS = QUICK_LINEAR.family, "information"
CONTROL, SELECTIVITY, GAP = "control task", "selectivity", "class-mean gap"
PROBES_BY_SITE = {"linear": QUICK_LINEAR, "mlp": LADDER["mlp"]}
"""The ladder of probes, as many of them are needed."""
PROBES = tuple(probe.family for probe in PROBES_BY_SITE.values())
INFORMATION = tuple(BITS if family == PROBE else f"{BITS}, {family}" for family in PROBES)
"""Families of the two scores of each probe."""
FAMILIES = (*PROBES, CONTROL, SELECTIVITY, GAP, *INFORMATION)
"""Families of the findings, in the order of a page; the name of each finding is its site."""

_SHUFFLES = 10
_SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Setting:
    """What is the same for every site.

    Attributes:
        labels: The concept, `n` labels.
        control: Control labels, if selectivity is asked for.
        groups: Group of each row `(n,)`, or None.
        splits: (train, test) rows of each fold.
        seed: Of probes, shuffles and resampling.
        level: Confidence level.
        probes: Names from `PROBES_BY_SITE`.
    """

    labels: Labels
    control: Labels | None
    groups: NDArray[Any] | None
    splits: Sequence[tuple[Rows, Rows]]
    seed: int
    level: float
    probes: Sequence[str] = ("linear",)

    @property
    def options(self) -> dict[str, Any]:
        """What intervals take."""
        return {"groups": self.groups, "level": self.level}


class SiteScores:
    """What probes make of one site, gathered fold by fold: `add(*views)`, then `findings()`.

    Args:
        site: Its name, which is that of its findings.
        setting: What is the same for every site.
        conditions: Sides of the views to score.
    """

    def __init__(self, site: str, setting: Setting, conditions: Sequence[str]) -> None:
        self.site, self.setting = site, setting
        options: dict[str, Any] = {"seed": setting.seed, "conditions": conditions}
        self.real = [ProbeScores(PROBES_BY_SITE[name], setting.labels, **options) for name in setting.probes]
        self.control = None
        if setting.control is not None:
            more = {"family": CONTROL, "may_lack": True, "is_task": True}
            self.control = ProbeScores(QUICK_LINEAR, setting.control, **more, **options)

    def add(self, *views: View) -> None:
        """Fit fresh probes on the training rows of a fold, and score its test rows, as `ProbeScores.add`."""
        for score in (*self.real, *([self.control] if self.control else [])):
            score.add(*views)

    def findings(self) -> Iterator[Finding]:
        """Accuracy and information of each probe; of the control task the accuracy and the selectivity."""
        for score in self.real:
            bits = INFORMATION[PROBES.index(score.family)]
            for f in score.findings(**self.setting.options):
                is_bits = f.name == "information"
                yield replace(f, name=self.site, family=bits if is_bits else score.family)
        if self.control is None:
            return
        for f in self.control.findings(**self.setting.options):
            if f.name != "information":
                yield replace(f, name=self.site, detail=True)
        yield from _selectivity(self.site, self.real[0], self.control, self.setting)


def measure_site(site: str, sides: Mapping[str, Floats], setting: Setting) -> list[Finding]:
    """Every finding of one site, named after it.

    Args:
        site: Its name.
        sides: Rows `(n, d)` under `"before"` and, if there is an erasure, `"after"`.
        setting: What is the same for every site.
    """
    scores = SiteScores(site, setting, tuple(sides))
    for train, test in setting.splits:
        scores.add(View(train, test, sides[BEFORE], sides.get(AFTER, sides[BEFORE])))
    found = list(scores.findings())
    if AFTER in sides and looks_fitted(
        sides[AFTER], setting.labels.columns(), free=setting.groups is None, seed=setting.seed
    ):
        probed = {score.family for score in scores.real}
        found = [g for f in found for g in (of_the_fit([f]) if f.family in probed else [f])]
    return [*found, *_gaps(site, sides, setting)]


def _selectivity(site: str, real: ProbeScores, control: ProbeScores, setting: Setting) -> Iterator[Finding]:
    """Accuracy on the real labels minus accuracy on the control labels, each row paired with itself."""
    for condition in real.conditions:
        hits = real.hits(condition), control.hits(condition)
        interval = share_change_interval(*hits, seed=setting.seed, **setting.options)
        yield Finding.of(
            site,
            interval,
            SELECTIVITY,
            condition,
            n=len(setting.labels),
            seed=setting.seed,
            unit="share",
            note=_SELECTIVITY_NOTE,
            detail=True,
        )


def class_mean_gap(x: Floats, classes: NDArray[np.int64], *, spread: Floats) -> float:
    """Largest distance of a class mean from the mean of all rows, along one feature, in its standard deviations.

    max over classes c and features j of |m_cj - m_j| / s_j. Features with a spread under 1e-6 of the widest are
    measured in that, so that rounding is not scaled up.

    Args:
        x: Rows `(n, d)`.
        classes: Class indices `(n,)`, every class from 0 to the largest with rows.
        spread: `s`, `(d,)`.

    >>> class_mean_gap(np.array([[0.0, 5.0], [4.0, 5.0]]), np.array([0, 1]), spread=np.array([2.0, 1.0]))
    1.0
    """
    members = np.eye(int(classes.max()) + 1)[:, classes]
    means = (members @ x) / members.sum(axis=1, keepdims=True)
    floor = max(float(spread.max(initial=0.0)) * _SMALLEST_SPREAD, np.finfo(np.float64).tiny)
    return float((np.abs(means - x.mean(axis=0)) / np.maximum(spread, floor)).max())


def _gaps(site: str, sides: Mapping[str, Floats], setting: Setting) -> Iterator[Finding]:
    spread, classes = sides[BEFORE].std(axis=0), setting.labels.values
    before = class_mean_gap(sides[BEFORE], classes, spread=spread)
    for condition, x in sides.items():
        rng = np.random.default_rng(setting.seed)
        shuffled = [class_mean_gap(x, rng.permutation(classes), spread=spread) for _ in range(_SHUFFLES)]
        yield Finding(
            site,
            class_mean_gap(x, classes, spread=spread),
            GAP,
            condition,
            n=len(classes),
            seed=setting.seed,
            chance=float(np.mean(shuffled)),
            baseline=before if condition == AFTER else None,
            unit="sd",
            note=_GAP_NOTE,
            detail=True,
        )


_SELECTIVITY_NOTE = "accuracy on the real labels minus that on random labels of the same words (arXiv:1909.03368)"
_GAP_NOTE = (
    "largest |class mean - mean| of a feature in its standard deviations before erasure, in sample; "
    f"chance is the mean of {_SHUFFLES} shuffles of the labels over rows, which ignore the groups"
)
