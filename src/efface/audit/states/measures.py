"""What is measured at one site: a probe of the concept, a probe of the control task, and the class means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface.audit.finding import Finding
from efface.audit.vectors.folds import Rows, View
from efface.audit.vectors.labels import Labels
from efface.audit.vectors.probes import QUICK_LINEAR, ProbeScores
from efface.report.data import AFTER, BEFORE
from efface.stats.intervals import paired_interval

Floats = NDArray[np.float64]

PROBE, BITS = QUICK_LINEAR.family, "information"
CONTROL, SELECTIVITY, GAP = "control task", "selectivity", "class-mean gap"
FAMILIES = (PROBE, CONTROL, SELECTIVITY, GAP, BITS)
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
    """

    labels: Labels
    control: Labels | None
    groups: NDArray[Any] | None
    splits: Sequence[tuple[Rows, Rows]]
    seed: int
    level: float

    @property
    def options(self) -> dict[str, Any]:
        """What intervals take."""
        return {"groups": self.groups, "level": self.level}


def measure_site(site: str, sides: Mapping[str, Floats], setting: Setting) -> list[Finding]:
    """Every finding of one site, named after it.

    Args:
        site: Its name.
        sides: Rows `(n, d)` under `"before"` and, if there is an erasure, `"after"`.
        setting: What is the same for every site.
    """
    options = {"seed": setting.seed, "conditions": tuple(sides)}
    real = ProbeScores(QUICK_LINEAR, setting.labels, **options)
    control = None
    if setting.control is not None:
        control = ProbeScores(QUICK_LINEAR, setting.control, family=CONTROL, may_lack=True, **options)
    scores = [real] if control is None else [real, control]
    for train, test in setting.splits:
        view = View(train, test, sides[BEFORE], sides.get(AFTER, sides[BEFORE]))
        for score in scores:
            score.add(view)
    return [*_read(site, scores, setting), *_selectivity(site, real, control, setting), *_gaps(site, sides, setting)]


def _read(site: str, scores: Sequence[ProbeScores], setting: Setting) -> Iterator[Finding]:
    for score in scores:
        for finding in score.findings(**setting.options):
            is_control, is_bits = score.family == CONTROL, finding.name == "information"
            if not (is_control and is_bits):
                family = BITS if is_bits else score.family
                yield replace(finding, name=site, family=family, detail=is_bits or is_control)


def _selectivity(site: str, real: ProbeScores, control: ProbeScores | None, setting: Setting) -> Iterator[Finding]:
    """Accuracy on the real labels minus accuracy on the control labels, each row paired with itself."""
    if control is None:
        return
    for condition in real.conditions:
        hits = real.hits(condition), control.hits(condition)
        interval = paired_interval(*hits, seed=setting.seed, **setting.options)
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
