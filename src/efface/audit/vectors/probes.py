"""The probe ladder: fresh probes that learn to read labels from vectors, scored on rows they have not seen.

For classes two numbers: accuracy, and information in bits, E[log2 p(z|x) - log2 p(z)] with p(z) the class shares of
the training rows: a lower bound of the V-information of Xu et al. (arXiv:2002.10689), and the quantity (log-loss below
that of a constant) that linear guardedness speaks of. For numbers R2 = 1 - SSE / SSE of the training mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._interrupts import insisted
from efface._lazy import require
from efface.audit.finding import Finding
from efface.audit.vectors.folds import CONDITIONS, Rows, View, check_classes
from efface.audit.vectors.judging import judged
from efface.audit.vectors.labels import Labels
from efface.core.doors import check_call
from efface.report.data import AFTER, BEFORE, CHANGE, NO_CHANGE
from efface.stats.intervals import (
    Interval,
    bootstrap_interval,
    paired_interval,
    proportion_interval,
    share_change_interval,
)

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
        penalty: `(whether it is the classifier, penalty, rows) -> settings` of it, for a penalty a row on the squared
            weights.
        penalties: Those that are tried, the strongest first.
        dtype: Precision it is trained in.
    """

    family: str
    classifier: Callable[[int, int], Any]
    regressor: Callable[[int, int], Any]
    penalty: Callable[[bool, float, int], dict[str, float]]
    penalties: tuple[float, ...]
    dtype: type[np.floating[Any]] = np.float64


def _logistic(seed: int, rows: int) -> Any:
    return require("sklearn.linear_model", extra="sklearn").LogisticRegression(max_iter=2000, warm_start=True)


def _quick_logistic(seed: int, rows: int) -> Any:
    return require("sklearn.linear_model", extra="sklearn").LogisticRegression(max_iter=_QUICK_STEPS, warm_start=True)


def _ridge(seed: int, rows: int) -> Any:
    return require("sklearn.linear_model", extra="sklearn").Ridge()


def _linear_penalty(is_classifier: bool, penalty: float, rows: int) -> dict[str, float]:
    # C weighs the sum of the losses, alpha the squared weights against the sum of the squared errors.
    return {"C": 1 / (penalty * rows)} if is_classifier else {"alpha": penalty * rows}


def _mlp_batch(rows: int) -> int:
    return rows if rows <= 2 * _MLP_BATCH else _MLP_BATCH  # a short second batch would double the steps


def _mlp_settings(seed: int, rows: int) -> dict[str, Any]:
    batch = _mlp_batch(rows)
    epochs = max(10, _MLP_STEPS // max(1, rows // batch))
    return {
        "shuffle": rows > batch,  # one batch is the same in any order, and to shuffle takes as long as to train
        "hidden_layer_sizes": (_MLP_WIDTH,),
        "learning_rate_init": 1e-3,
        "batch_size": batch,
        "max_iter": epochs,
        "random_state": seed,
    }


def _mlp_classifier(seed: int, rows: int) -> Any:
    return require("sklearn.neural_network", extra="sklearn").MLPClassifier(**_mlp_settings(seed, rows))


def _mlp_regressor(seed: int, rows: int) -> Any:
    return require("sklearn.neural_network", extra="sklearn").MLPRegressor(**_mlp_settings(seed, rows))


def _mlp_penalty(is_classifier: bool, penalty: float, rows: int) -> dict[str, float]:
    # scikit-learn divides alpha by the rows of a batch.
    return {"alpha": penalty * _mlp_batch(rows)}


_LINEAR_PENALTIES = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
_MLP_PENALTIES = (0.3, 1e-2)

PROBES: dict[str, Probe] = {
    "linear": Probe("linear probe", _logistic, _ridge, _linear_penalty, _LINEAR_PENALTIES),
    "mlp": Probe("MLP probe", _mlp_classifier, _mlp_regressor, _mlp_penalty, _MLP_PENALTIES, np.float32),
}
"""The ladder, simplest first: logistic (or ridge) regression, one hidden layer of 64 units."""

QUICK_LINEAR = Probe("linear probe", _quick_logistic, _ridge, _linear_penalty, _LINEAR_PENALTIES, np.float32)
"""The linear probe where many have to be fitted: 60 steps of L-BFGS a penalty in float32."""


def standardise(x: Floats, train: Rows) -> Floats:
    """Columns of `x` `(n, d)` with mean 0 and spread 1 on the training rows.

    A column whose spread is under 1e-6 of the widest is only centred in effect: scaling it up would show the probe
    the rounding errors of the eraser, in which float64 still holds the label.
    """
    spread = x[train].std(axis=0)
    floor = max(float(spread.max(initial=0.0)) * _SMALLEST_SPREAD, np.finfo(np.float64).tiny)
    return (x - x[train].mean(axis=0)) / np.maximum(spread, floor)


class ProbeScores:
    """Scores of one probe for one set of labels, gathered fold by fold: `add(*views)`, then `findings()`.

    Args:
        probe: Which probe.
        labels: What it tries to read.
        seed: Seed of the probe and of the resampling.
        family: Name on the page, if not the probe's.
        conditions: Which sides of the views to score.
        may_lack: Whether training folds may lack a class; its rows are then read wrongly.
        is_task: Whether it measures what should stay, so that reading nothing after erasure is no success.
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
        is_task: bool = False,
    ) -> None:
        check_call(ProbeScores.__init__, locals())
        self.probe, self.labels, self.seed, self.is_task = probe, labels, seed, is_task
        self.family, self.conditions, self.may_lack = family or probe.family, tuple(conditions), may_lack
        names = ("hit", "gain", "dull", "decision") if labels.is_categorical else ("explained", "spread")
        shape = (len(probe.penalties), len(labels))
        self._scores = {c: {name: np.zeros(shape) for name in names} for c in self.conditions}
        self._fold, self._folds = np.zeros(len(labels), dtype=np.int64), 0
        self._known: frozenset[str] = frozenset()

    def beside(self, other: ProbeScores) -> Self:
        """The same with the scores before erasure of another, which is given the same rows before and folds."""
        self._scores[BEFORE], self._known = other._scores[BEFORE], frozenset([BEFORE])
        return self

    def add(self, *views: View) -> None:
        """Fit fresh probes on the training rows of one fold, before and after erasure, and score its test rows.

        Args:
            views: The fold; or several of the same test rows, whose scores are averaged.
        """
        self._fold[views[0].test] = self._folds
        self._folds += 1
        for view in views:
            self._add(view, 1 / len(views))

    def _add(self, view: View, share: float) -> None:
        check_classes(self.labels, view.train, may_lack=self.may_lack)
        score = self._score_classes if self.labels.is_categorical else self._score_numbers
        for condition in (c for c in self.conditions if c not in self._known):
            x = standardise(view.rows(condition), view.train).astype(self.probe.dtype)
            for i, scores in enumerate(score(x, view)):
                for name, values in scores.items():
                    self._scores[condition][name][i, view.test] += share * values

    def score(self, condition: str, name: str, by: str | None = None) -> Floats:
        """A score of each row, `(n,)`, by the probe at the penalty that is best by that score in all other folds.

        A fixed penalty makes a probe of many columns learn its rows by heart, guess worse than a constant on others,
        and so report that nothing is there. Each score has its own: where the loss is best at a constant guess, right
        answers may be best elsewhere.
        """
        gains = self._scores[condition][by or name]
        by_fold = np.stack([np.bincount(self._fold, row, self._folds) for row in gains])
        best = (by_fold.sum(axis=1, keepdims=True) - by_fold).argmax(axis=0)
        if self._folds == 1:  # no other fold says which
            best[:] = len(gains) // 2
        return self._scores[condition][name][best[self._fold], np.arange(len(self.labels))]

    def hits(self, condition: str) -> Floats:
        """1 for each row whose class was read rightly, or the share of the views in which it was, `(n,)`."""
        return self.score(condition, "hit")

    def decisions(self, condition: str) -> Floats:
        """Of two classes: the log-odds that the probe gave to the second one, each row held out, `(n,)`."""
        loss_reads = self.score(condition, "gain").sum() > 0
        return self.score(condition, "decision", by="gain" if loss_reads else "hit")

    def findings(self, *, groups: ArrayLike | None = None, level: float = 0.95) -> list[Finding]:
        """Findings before and after: accuracy and bits for classes, R2 for numbers."""
        check_call(ProbeScores.findings, locals())
        found = [f for c in self.conditions for f in self._findings(c, groups, level)]
        if self.is_task or AFTER not in self.conditions:
            return found
        dull = self.score(AFTER, "dull").mean() if self.labels.is_categorical else 0.0
        return judged(found, constant=float(dull))

    def change(self, *, groups: ArrayLike | None = None, level: float = 0.95) -> Finding:
        """The paired change of accuracy or R2, after minus before."""
        check_call(ProbeScores.change, locals())
        options = {"groups": groups, "level": level, "seed": self.seed}
        if self.labels.is_categorical:
            interval = share_change_interval(self.hits(AFTER), self.hits(BEFORE), **options)
            name, unit = "accuracy", "share"
        else:
            after, before = (self.score(side, "explained") for side in (AFTER, BEFORE))
            interval = paired_interval(after, before, self.score(BEFORE, "spread", by="explained"), **options)
            name, unit = "R2", ""
        return self._finding(f"change of {name}", CHANGE, interval, 0.0, unit, reference=NO_CHANGE)

    def _findings(self, condition: str, groups: ArrayLike | None, level: float) -> list[Finding]:
        options = {"groups": groups, "level": level, "seed": self.seed}
        if not self.labels.is_categorical:
            interval = bootstrap_interval(
                self.score(condition, "explained"), self.score(condition, "spread", by="explained"), **options
            )
            return [self._finding("R2", condition, interval, 0.0, "", note=_R2_NOTE)]
        chance, right = majority_share(self.labels.values), proportion_interval(self.hits(condition), **options)
        return [
            self._finding("accuracy", condition, right, chance, "share", note=_CHANCE_NOTE),
            self._finding(
                "information",
                condition,
                bootstrap_interval(self.score(condition, "gain"), **options),
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
        if name == "R2":
            return float(self.score(BEFORE, "explained").sum() / self.score(BEFORE, "spread", by="explained").sum())
        return float(self.score(BEFORE, "hit" if name == "accuracy" else "gain").mean())

    def _score_classes(self, x: NDArray[Any], view: View) -> Iterator[dict[str, Floats]]:
        z, k = self.labels.values, len(self.labels.classes)
        truth, prior = z[view.test], np.bincount(z[view.train], minlength=k) / len(view.train)
        for model in self._trained(x[view.train], z[view.train]):
            # A class that the training rows lack keeps a column of zeros.
            probabilities = np.zeros((len(truth), k))
            probabilities[:, model.classes_] = model.predict_proba(x[view.test])
            yield {
                "hit": (probabilities.argmax(axis=1) == truth).astype(float),
                "gain": _log(probabilities[np.arange(len(truth)), truth]) - _log(prior[truth]),
                "dull": (truth == prior.argmax()).astype(float),
                "decision": (_log(probabilities[:, 1]) - _log(probabilities[:, 0])) * np.log(2),
            }

    def _score_numbers(self, x: NDArray[Any], view: View) -> Iterator[dict[str, Floats]]:
        z = self.labels.values
        mean, scale = z[view.train].mean(axis=0), np.maximum(z[view.train].std(axis=0), np.finfo(np.float64).tiny)
        target = (z - mean) / scale
        spread = (target[view.test] ** 2).sum(axis=1)
        learnt = target[view.train].astype(x.dtype)
        for model in self._trained(x[view.train], learnt if target.shape[1] > 1 else learnt[:, 0]):
            error = target[view.test] - model.predict(x[view.test]).reshape(len(view.test), -1)
            yield {"explained": spread - (error**2).sum(axis=1), "spread": spread}

    def _trained(self, x: NDArray[Any], z: NDArray[Any]) -> Iterator[Any]:
        """The model at each penalty; a linear one goes on from where the one before ended."""
        make = self.probe.classifier if self.labels.is_categorical else self.probe.regressor
        model = make(self.seed, len(x))
        for penalty in self.probe.penalties:
            model.set_params(**self.probe.penalty(self.labels.is_categorical, penalty, len(x)))
            yield _fitted(model, x, z)


def _log(share: Floats) -> Floats:
    """Bits; nothing is taken to be impossible."""
    return np.log2(np.maximum(share, _SMALLEST_PROBABILITY))


_CHANCE_NOTE = "chance is the share of the most common class: what a constant guess scores"
_BITS_NOTE = "log2-loss saved over a constant guess; negative if the probe is worse than the guess"
_R2_NOTE = "chance is 0: guessing the mean of the training rows"


def _fitted(model: Any, x: NDArray[Any], z: NDArray[Any]) -> Any:
    with warnings.catch_warnings():
        # The budget of steps is fixed on purpose; that it ends the training is no news to the reader.
        warnings.simplefilter("ignore", require("sklearn.exceptions", extra="sklearn").ConvergenceWarning)
        with threads_for(x.size), insisted():
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
