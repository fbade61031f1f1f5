"""The diabetes table of scikit-learn: 442 patients; the concept is their sex, the task is how the disease goes on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface._lazy import require
from efface._text import brief

_SEX = "sex"


@dataclass(frozen=True)
class TableWorld:
    """A table, a concept that is *not* among its columns, and a task.

    Attributes:
        x: Features `(n, d)` float64, each with mean 0 and standard deviation 1.
        z: Concept, class index `(n,)`.
        y: Task, number `(n,)`.
        features: Names of the `d` columns.
        concept: Name of the concept.
        classes: Names of its classes.
        task: Name of the task.
    """

    x: NDArray[np.float64]
    z: NDArray[np.int64]
    y: NDArray[np.float64]
    features: tuple[str, ...]
    concept: str
    classes: tuple[str, ...]
    task: str

    __repr__ = brief


def load_diabetes() -> TableWorld:
    """Nine features of 442 diabetes patients, without the column `sex`, which is the concept.

    The source codes sex as 1 and 2 and does not say which is which, so the classes keep those names. The task is a
    quantitative measure of disease progression one year after the other values were taken. Columns are standardised
    over all rows, without labels. Ships with scikit-learn; nothing is downloaded.

    Source: Efron, Hastie, Johnstone, Tibshirani, "Least Angle Regression", Annals of Statistics 32 (2004).

    Raises:
        MissingExtraError: If scikit-learn is not installed.

    >>> world = load_diabetes()
    >>> world.x.shape, world.features[:3], np.bincount(world.z).tolist()
    ((442, 9), ('age', 'bmi', 'bp'), [235, 207])
    """
    data = require("sklearn.datasets", extra="sklearn").load_diabetes(scaled=False)
    names = list(data.feature_names)
    column = names.index(_SEX)
    codes, z = np.unique(data.data[:, column], return_inverse=True)
    x = np.delete(data.data, column, axis=1)
    return TableWorld(
        x=(x - x.mean(axis=0)) / x.std(axis=0),
        z=z.astype(np.int64),
        y=data.target.astype(np.float64),
        features=tuple(n for n in names if n != _SEX),
        concept=_SEX,
        classes=tuple(f"sex {code:g}" for code in codes),
        task="disease progression",
    )
