"""Fairness of decisions about people, before and after erasure: mortgages of Boston, arrests in Toronto.

    python -m benchmarks.real_tables mortgages
    python -m benchmarks.real_tables arrests --repeats 20

Each repeat parts the rows anew (70 % to fit on, the same shares of group and decision on both sides); scaling, erasing
and the model are fitted on the one part and judged on the other by fairlearn's metrics. Intervals are Student's t over
the repeats with the variance corrected for rows that they share (Nadeau and Bengio, Machine Learning 52, 2003). As
differences between groups are never under 0 they are not 0 by chance either: the row *groups at random* says what
they are where the groups that are compared mean nothing. The yes goes to the highest scores, as many as in the
rows of the fit, ties by lot; *at 1/2* to scores from 1/2; fairlearn's reduction, which constrains decisions and not
scores, makes its own. Wants efface-worlds[tables], efface[sklearn] and fairlearn.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np
from fairlearn.metrics import MetricFrame, demographic_parity_difference, equalized_odds_difference
from fairlearn.preprocessing import CorrelationRemover
from fairlearn.reductions import DemographicParity, ExponentiatedGradient
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks._measure import table
from efface.estimators import LeaceTransformer, OracleTransformer, OrthogonalTransformer, QuadraticTransformer
from efface.stats.intervals import student_quantile
from efface_worlds.real import RealTable, load_arrests, load_mortgages

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]

TEST = 0.3
TABLES: dict[str, Callable[[], RealTable]] = {"mortgages": load_mortgages, "arrests": load_arrests}
COLUMNS = (
    *("yes", "accuracy", "AUROC", "Brier", "demographic parity difference", "equalized odds difference"),
    *("calibration gap", "group read: logistic", "group read: boosting"),
)


@dataclass(frozen=True)
class Split:
    """One repeat: scaled features, group and decision, of the fit and of the judging."""

    x: Floats
    z: Classes
    y: Classes
    x_test: Floats
    z_test: Classes
    y_test: Classes
    rng: np.random.Generator


@dataclass(frozen=True)
class Way:
    """A way to fairness.

    Attributes:
        edit: Features of the fit and of the judging, after it.
        weights: Weights of the rows of the fit.
        decide: Who is told yes: a `"share"` by rank, who has `"half"`, or whom fairlearn's reduction (`"own"`) does.
    """

    edit: Callable[[Split], tuple[Floats, Floats]]
    weights: Callable[[Split], Floats | None] = lambda split: None
    decide: str = "share"


def as_it_is(split: Split) -> tuple[Floats, Floats]:
    return split.x, split.x_test


def with_group(split: Split) -> tuple[Floats, Floats]:
    fit, test = (np.column_stack([x, z.astype(float)]) for x, z in ((split.x, split.z), (split.x_test, split.z_test)))
    return fit, test


def erased(make: Callable[[], Any], *, told: bool = False) -> Callable[[Split], tuple[Floats, Floats]]:
    """By an estimator of efface's; `told` ones are given the group of the rows that are judged, too."""

    def edit(split: Split) -> tuple[Floats, Floats]:
        eraser = make().fit(split.x, sensitive_features=split.z)
        if not told:
            return eraser.transform(split.x), eraser.transform(split.x_test)
        fit = eraser.transform(split.x, sensitive_features=split.z)
        return fit, eraser.transform(split.x_test, sensitive_features=split.z_test)

    return edit


def permuted(split: Split) -> tuple[Floats, Floats]:
    eraser = LeaceTransformer().fit(split.x, sensitive_features=split.rng.permutation(split.z))
    return eraser.transform(split.x), eraser.transform(split.x_test)


def random_direction(split: Split) -> tuple[Floats, Floats]:
    unit = split.rng.normal(size=split.x.shape[1])
    unit /= np.linalg.norm(unit)
    fit, test = (x - np.outer(x @ unit, unit) for x in (split.x, split.x_test))
    return fit, test


def correlation_remover(split: Split) -> tuple[Floats, Floats]:
    """fairlearn's, which is told the group of who is judged."""
    remover = CorrelationRemover(sensitive_feature_ids=[split.x.shape[1]])
    return remover.fit_transform(with_group(split)[0]), remover.transform(with_group(split)[1])


def reweighed(split: Split) -> Floats:
    """P(z) P(y) / P(z, y): group and decision are independent in the weighted rows (Kamiran and Calders, KAIS 2012)."""
    weights = np.empty(len(split.y))
    for z in (0, 1):
        for y in (0, 1):
            cell = (split.z == z) & (split.y == y)
            weights[cell] = (split.z == z).mean() * (split.y == y).mean() / cell.mean()
    return weights


WAYS: dict[str, Way] = {
    "group among the features": Way(with_group),
    "group left out": Way(as_it_is),
    "random direction taken out": Way(random_direction),
    "LEACE of groups at random": Way(permuted),
    "LEACE": Way(erased(LeaceTransformer)),
    "orth = mean-difference": Way(erased(OrthogonalTransformer)),
    "LEACE, and reweighed": Way(erased(LeaceTransformer), reweighed),
    "reweighed": Way(as_it_is, reweighed),
    "exponentiated gradient (fairlearn)": Way(as_it_is, decide="own"),
    "group left out, at 1/2": Way(as_it_is, decide="half"),
    "LEACE, at 1/2": Way(erased(LeaceTransformer), decide="half"),
    "oracle*": Way(erased(OracleTransformer, told=True)),
    "CorrelationRemover* (fairlearn)": Way(correlation_remover),
    "quadratic*": Way(erased(QuadraticTransformer, told=True)),
}
MODELS: dict[str, Callable[[], Any]] = {
    "logistic regression": lambda: LogisticRegression(max_iter=1000),
    "gradient boosting": lambda: HistGradientBoostingClassifier(max_iter=60, learning_rate=0.1, random_state=0),
}


def splits(data: RealTable, repeats: int, seed: int) -> list[Split]:
    found = []
    for repeat in range(repeats):
        cells: Any = 2 * data.z + data.y
        fit, test = train_test_split(np.arange(len(data)), test_size=TEST, stratify=cells, random_state=seed + repeat)
        scaler = StandardScaler().fit(data.x[fit])
        x, x_test = (np.asarray(scaler.transform(data.x[part])) for part in (fit, test))
        rng = np.random.default_rng([seed, repeat])
        found.append(Split(x, data.z[fit], data.y[fit], x_test, data.z[test], data.y[test], rng))
    return found


def answers(way: Way, model: Any, split: Split, x: Floats, x_test: Floats) -> tuple[Floats, Classes]:
    """Probability of the decision in favour, and the decision, of the rows that are judged."""
    if way.decide == "own":
        reduction: Any = ExponentiatedGradient(model, DemographicParity(), max_iter=20)
        reduction.fit(x, split.y, sensitive_features=split.z)
        decided = reduction.predict(x_test, random_state=int(split.rng.integers(2**31)))
        return reduction._pmf_predict(x_test)[:, 1], decided.astype(np.int64)
    model.fit(x, split.y, sample_weight=way.weights(split))
    scores = model.predict_proba(x_test)[:, 1]
    return scores, (scores >= 0.5).astype(np.int64) if way.decide == "half" else highest(scores, split)


def highest(scores: Floats, split: Split) -> Classes:
    """1 for the highest scores, as many as the rows of the fit have in favour; ties by lot."""
    order = np.lexsort([split.rng.random(len(scores)), scores])
    decided = np.zeros(len(scores), dtype=np.int64)
    decided[order[len(scores) - round(len(scores) * split.y.mean()) :]] = 1
    return decided


def judged(answer: tuple[Floats, Classes], split: Split, groups: Classes) -> list[float]:
    """Utility, and differences between groups."""
    (scores, decided), y = answer, split.y_test
    gaps: Any = MetricFrame(
        metrics=lambda true, score: float(np.mean(score) - np.mean(true)),
        y_true=y,
        y_pred=scores,
        sensitive_features=groups,
    )
    return [
        float(decided.mean()),
        float(accuracy_score(y, decided)),
        float(roc_auc_score(y, scores)),
        float(brier_score_loss(y, np.clip(scores, 0, 1))),
        float(demographic_parity_difference(y, decided, sensitive_features=groups)),
        float(equalized_odds_difference(y, decided, sensitive_features=groups)),
        float(gaps.difference()),
    ]


def read(split: Split, x: Floats, x_test: Floats) -> list[float]:
    """AUROC of the group, by fresh probes that are fitted on the rows of the fit."""
    return [roc_auc_score(split.z_test, make().fit(x, split.z).predict_proba(x_test)[:, 1]) for make in MODELS.values()]


def shown(values: NDArray[np.float64]) -> str:
    """Mean over repeats with its corrected interval, in per cent."""
    n = len(values)
    spread = np.sqrt((1 / n + TEST / (1 - TEST)) * values.var(ddof=1))
    half = student_quantile(0.975, n - 1) * spread
    mean = values.mean()
    return f"{100 * mean:.1f} [{100 * (mean - half):.1f}, {100 * (mean + half):.1f}]"


def compare(name: str, repeats: int, seed: int) -> None:
    data = TABLES[name]()
    print(described(name, data), flush=True)
    parts = splits(data, repeats, seed)
    edited = {way: [how.edit(split) for split in parts] for way, how in WAYS.items()}
    readings = {way: np.array([read(s, *xs) for s, xs in paired(parts, found)]) for way, found in edited.items()}
    for model, make in MODELS.items():
        rows, changes, unfair = [], [], np.empty(0)
        for way, how in WAYS.items():
            found = [answers(how, make(), s, *xs) for s, xs in paired(parts, edited[way])]
            values = np.array([judged(answer, s, s.z_test) for s, answer in paired(parts, found)])
            rows.append([way, *map(shown, values.T), *map(shown, readings[way].T)])
            if way == "group left out":
                unfair = values
                drawn = [judged(answer, s, s.rng.permutation(s.z_test)) for s, answer in paired(parts, found)]
                rows.append(["*groups at random*", *[""] * 4, *map(shown, np.array(drawn).T[4:]), "", ""])
            elif how.decide == "share" and len(unfair):
                changes.append([way, *map(shown, (values - unfair).T[1:])])
        rows.append(["by lot", *map(shown, by_lot(parts).T), "50", "50"])
        table(f"{name}, {model}: {repeats} splits, %", ["way", *COLUMNS], rows)
        table(f"{name}, {model}: less *group left out*, in the same splits, points", ["way", *COLUMNS[1:7]], changes)


def described(name: str, data: RealTable) -> str:
    left_out = ", ".join(f"{count} without {column}" for column, count in data.left_out.items()) or "none"
    rates = [
        f"{100 * data.y[data.z == group].mean():.1f} % of {said} (n = {int((data.z == group).sum()):,})"
        for group, said in enumerate(data.classes)
    ]
    return (
        f"{name}: {len(data):,} rows (left out: {left_out}), {len(data.features)} features; {data.task}: "
        f"{', '.join(rates)}"
    )


def paired(parts: list[Split], found: list[Any]) -> list[tuple[Split, Any]]:
    return list(zip(parts, found, strict=True))


def by_lot(parts: list[Split]) -> Floats:
    """A constant, whose ties are drawn."""
    found = []
    for split in parts:
        scores = np.full(len(split.y_test), split.y.mean())
        found.append(judged((scores, highest(scores, split)), split, split.z_test))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=list(TABLES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.tables:
        compare(name, args.repeats, args.seed)


if __name__ == "__main__":
    main()
