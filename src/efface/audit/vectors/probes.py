"""The probe ladder: fresh probes that learn to read labels from vectors, scored on rows they have not seen.

For classes two numbers: accuracy, and information in bits, E[log2 p(z|x) - log2 p(z)] with p(z) the class shares of
the training rows: a lower bound of the V-information of Xu et al. (arXiv:2002.10689), and the quantity (log-loss below
that of a constant) that linear guardedness speaks of. For numbers R2 = 1 - SSE / SSE of the training mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._lazy import require
from efface.audit.finding import Finding
from efface.audit.vectors.folds import CONDITIONS, Rows, View, check_classes
from efface.audit.vectors.labels import Labels
from efface.report.data import AFTER, BEFORE, CHANGE, NO_CHANGE
from efface.stats.intervals import Interval, bootstrap_interval, paired_interval, proportion_interval, wilson_interval

Floats = NDArray[np.float64]

_MLP_WIDTH, _MLP_STEPS, _MLP_BATCH = 64, 400, 200
_QUICK_STEPS = 60
_SMALL = 2**22
_SMALLEST_PROBABILITY = 1e-6
_SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Probe:
    """A kind of model that tries to read labels.

    Attributes:
        family: Its name on the page.
        classifier: `(seed, rows) -> estimator` with `fit` and `predict_proba`.
        regressor: `(seed, rows) -> estimator` with `fit` and `predict`.
        dtype: Precision it is trained in.
    """

    family: str
    classifier: Callable[[int, int], Any]
    regressor: Callable[[int, int], Any]
    dtype: type[np.floating[Any]] = np.float64


def _logistic(seed: int, rows: int) -> Any:
    return require("sklearn.linear_model", extra="sklearn").LogisticRegression(C=1.0, max_iter=2000)


def _quick_logistic(seed: int, rows: int) -> Any:
    return require("sklearn.linear_model", extra="sklearn").LogisticRegression(C=1.0, max_iter=_QUICK_STEPS)


def _ridge(seed: int, rows: int) -> Any:
    return require("sklearn.linear_model", extra="sklearn").Ridge(alpha=1.0)


def _mlp_settings(seed: int, rows: int) -> dict[str, Any]:
    batch = min(_MLP_BATCH, rows)
    epochs = max(10, _MLP_STEPS // max(1, rows // batch))
    return {
        "hidden_layer_sizes": (_MLP_WIDTH,),
        "alpha": 2.0,
        "learning_rate_init": 1e-3,
        "batch_size": batch,
        "max_iter": epochs,
        "random_state": seed,
    }


def _mlp_classifier(seed: int, rows: int) -> Any:
    return require("sklearn.neural_network", extra="sklearn").MLPClassifier(**_mlp_settings(seed, rows))


def _mlp_regressor(seed: int, rows: int) -> Any:
    return require("sklearn.neural_network", extra="sklearn").MLPRegressor(**_mlp_settings(seed, rows))


PROBES: dict[str, Probe] = {
    "linear": Probe("linear probe", _logistic, _ridge),
    "mlp": Probe("MLP probe", _mlp_classifier, _mlp_regressor, np.float32),
}
"""The ladder, simplest first: logistic (or ridge) regression, one hidden layer of 64 units."""

QUICK_LINEAR = Probe("linear probe", _quick_logistic, _ridge, np.float32)
"""The linear probe where many have to be fitted: 60 steps of L-BFGS in float32, a seventh of the time, within about one
point of the accuracy of the one that converged (measured on 8,000 tokens of 256 numbers in 12 classes)."""


def standardise(x: Floats, train: Rows) -> Floats:
    """Columns of `x` `(n, d)` with mean 0 and spread 1 on the training rows.

    A column whose spread is under 1e-6 of the widest is only centred in effect: scaling it up would show the probe
    the rounding errors of the eraser, in which float64 still holds the label.
    """
    spread = x[train].std(axis=0)
    floor = max(float(spread.max(initial=0.0)) * _SMALLEST_SPREAD, np.finfo(np.float64).tiny)
    return (x - x[train].mean(axis=0)) / np.maximum(spread, floor)


class ProbeScores:
    """Scores of one probe for one set of labels, gathered fold by fold: `add(view)`, then `findings()`.

    Args:
        probe: Which probe.
        labels: What it tries to read.
        seed: Seed of the probe and of the resampling.
        family: Name on the page, if not the probe's.
        conditions: Which sides of the views to score.
        may_lack: Whether training folds may lack a class; its rows are then read wrongly.
    """

    def __init__(
        self,
        probe: Probe,
        labels: Labels,
        *,
        seed: int = 0,
        family: str | None = None,
        conditions: Sequence[str] = CONDITIONS,
        may_lack: bool = False,
    ) -> None:
        self.probe, self.labels, self.seed = probe, labels, seed
        self.family, self.conditions, self.may_lack = family or probe.family, tuple(conditions), may_lack
        names = ("hit", "gain") if labels.is_categorical else ("explained", "spread")
        self._scores = {c: {name: np.zeros(len(labels)) for name in names} for c in self.conditions}

    def add(self, view: View) -> None:
        """Fit fresh probes on the fold's training rows, before and after erasure, and score its test rows."""
        check_classes(self.labels, view.train, may_lack=self.may_lack)
        score = self._score_classes if self.labels.is_categorical else self._score_numbers
        for condition in self.conditions:
            x = standardise(view.rows(condition), view.train).astype(self.probe.dtype)
            for name, values in score(x, view).items():
                self._scores[condition][name][view.test] = values

    def hits(self, condition: str) -> Floats:
        """1 for each row whose class was read rightly, `(n,)`."""
        return self._scores[condition]["hit"]

    def findings(self, *, groups: ArrayLike | None = None, level: float = 0.95) -> list[Finding]:
        """Findings before and after: accuracy and bits for classes, R2 for numbers."""
        return [f for c in self.conditions for f in self._findings(c, groups, level)]

    def change(self, *, groups: ArrayLike | None = None, level: float = 0.95) -> Finding:
        """The paired change of accuracy or R2, after minus before."""
        top, bottom = ("hit", None) if self.labels.is_categorical else ("explained", "spread")
        after, before = self._scores[AFTER], self._scores[BEFORE]
        interval = paired_interval(
            after[top],
            before[top],
            None if bottom is None else before[bottom],
            groups=groups,
            level=level,
            seed=self.seed,
        )
        if interval.low == interval.high and bottom is None:
            interval = _no_row_changed(interval, len(self.labels))
        unit, name = ("share", "change of accuracy") if bottom is None else ("", "change of R2")
        return self._finding(name, CHANGE, interval, 0.0, unit, reference=NO_CHANGE)

    def _findings(self, condition: str, groups: ArrayLike | None, level: float) -> list[Finding]:
        scores, options = self._scores[condition], {"groups": groups, "level": level, "seed": self.seed}
        if not self.labels.is_categorical:
            interval = bootstrap_interval(scores["explained"], scores["spread"], **options)
            return [self._finding("R2", condition, interval, 0.0, "", note=_R2_NOTE)]
        chance = majority_share(self.labels.values)
        return [
            self._finding(
                "accuracy", condition, proportion_interval(scores["hit"], **options), chance, "share", note=_CHANCE_NOTE
            ),
            self._finding(
                "information",
                condition,
                bootstrap_interval(scores["gain"], **options),
                0.0,
                "bits",
                note=_BITS_NOTE,
                detail=True,
            ),
        ]

    def _finding(self, name: str, condition: str, interval: Interval, chance: float, unit: str, **more: Any) -> Finding:
        return Finding.of(
            name,
            interval,
            family=self.family,
            condition=condition,
            n=len(self.labels),
            seed=self.seed,
            chance=chance,
            unit=unit,
            baseline=self._baseline(name) if condition == AFTER else None,
            access="rows",
            **more,
        )

    def _baseline(self, name: str) -> float:
        scores = self._scores[BEFORE]
        if name == "R2":
            return float(scores["explained"].sum() / scores["spread"].sum())
        return float(scores["hit" if name == "accuracy" else "gain"].mean())

    def _score_classes(self, x: NDArray[Any], view: View) -> dict[str, Floats]:
        z, k = self.labels.values, len(self.labels.classes)
        model = _fitted(self.probe.classifier(self.seed, len(view.train)), x[view.train], z[view.train])
        # A class that the training rows lack keeps a column of zeros.
        probabilities, truth = np.zeros((len(view.test), k)), z[view.test]
        probabilities[:, model.classes_] = model.predict_proba(x[view.test])
        said = np.maximum(probabilities[np.arange(len(truth)), truth], _SMALLEST_PROBABILITY)
        prior = np.maximum(np.bincount(z[view.train], minlength=k) / len(view.train), _SMALLEST_PROBABILITY)
        return {"hit": (probabilities.argmax(axis=1) == truth).astype(float), "gain": np.log2(said / prior[truth])}

    def _score_numbers(self, x: NDArray[Any], view: View) -> dict[str, Floats]:
        z = self.labels.values
        mean, scale = z[view.train].mean(axis=0), np.maximum(z[view.train].std(axis=0), np.finfo(np.float64).tiny)
        target = (z - mean) / scale
        learnt = target[view.train].astype(x.dtype)
        learnt = learnt if target.shape[1] > 1 else learnt[:, 0]
        model = _fitted(self.probe.regressor(self.seed, len(view.train)), x[view.train], learnt)
        error = target[view.test] - model.predict(x[view.test]).reshape(len(view.test), -1)
        spread = (target[view.test] ** 2).sum(axis=1)
        return {"explained": spread - (error**2).sum(axis=1), "spread": spread}


_CHANCE_NOTE = "chance is the share of the most common class: what a constant guess scores"
_BITS_NOTE = "log2-loss saved over a constant guess; negative if the probe is worse than the guess"
_R2_NOTE = "chance is 0: guessing the mean of the training rows"


def _no_row_changed(interval: Interval, n: int) -> Interval:
    most = wilson_interval(0, n, level=interval.level).high
    return Interval(interval.value, -most, most, interval.level, f"Wilson's limit for 0 changed of {n} rows")


def _fitted(model: Any, x: NDArray[Any], z: NDArray[Any]) -> Any:
    with warnings.catch_warnings():
        # The budget of steps is fixed on purpose; that it ends the training is no news to the reader.
        warnings.simplefilter("ignore", require("sklearn.exceptions", extra="sklearn").ConvergenceWarning)
        with threads_for(x.size):
            return model.fit(x, z)


def threads_for(numbers: int) -> Any:
    """A context with one thread for a matrix of few numbers.

    There threads cost more than they bring, fifty times as much on a busy machine.
    """
    return _threads().limit(limits=1) if numbers < _SMALL else nullcontext()


@cache
def _threads() -> Any:
    """Of all libraries that scikit-learn has loaded; to look for them anew takes longer than many a fit."""
    require("sklearn.neural_network", extra="sklearn")
    return require("threadpoolctl", extra="sklearn").ThreadpoolController()


def majority_share(classes: NDArray[np.int64]) -> float:
    """Share of the most common class.

    >>> majority_share(np.array([0, 1, 1, 1]))
    0.75
    """
    return float(np.bincount(classes).max() / len(classes))
