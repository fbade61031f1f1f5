"""Splits without leakage: the eraser sees training rows only, and every row is scored once, held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_positive_int
from efface.audit.vectors.labels import Labels
from efface.core.labels import settled
from efface.report.data import AFTER, BEFORE

Erase = Callable[[Tensor], Any]
Fit = Callable[[Tensor, Tensor], Erase]
Rows = NDArray[np.int64]

CONDITIONS = (BEFORE, AFTER)
_FEW_VALUES = 0.25


@dataclass(frozen=True)
class View:
    """One fold as the measures see it.

    Attributes:
        train: Rows that the eraser (if fitted inside) and the probes learn from.
        test: Rows that are scored.
        before: All rows as they came, `(n, d)` float64.
        after: All rows as this fold's eraser left them, `(n, d)` float64.
    """

    train: Rows
    test: Rows
    before: NDArray[np.float64]
    after: NDArray[np.float64]

    def rows(self, condition: str) -> NDArray[np.float64]:
        """All rows `(n, d)` under `"before"` or `"after"`."""
        return self.before if condition == BEFORE else self.after


def make_folds(
    n: int, folds: int, *, groups: ArrayLike | None = None, strata: ArrayLike | None = None, seed: int = 0
) -> list[tuple[Rows, Rows]]:
    """Pairs of (train, test) rows; each row is in one test set.

    With `groups`, whole groups go to one fold, in random order to whichever fold has the fewest rows so far;
    without, rows are dealt out in random order within each stratum.

    Raises:
        InputError: If there are fewer groups (or rows) than folds, or fewer than two folds.

    >>> [test.tolist() for _, test in make_folds(4, 2, groups=["a", "a", "b", "b"])]
    [[0, 1], [2, 3]]
    """
    if check_positive_int(folds, "folds") < 2:
        raise InputError("folds=1 leaves nothing held out: write at least 2")
    rng = np.random.default_rng(seed)
    fold = _deal_rows(n, folds, strata, rng) if groups is None else _deal_groups(n, folds, groups, rng)
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]


def _deal_rows(n: int, folds: int, strata: ArrayLike | None, rng: np.random.Generator) -> Rows:
    if n < folds:
        raise InputError(f"{n} rows cannot be split into {folds} folds: write a smaller folds")
    order = rng.permutation(n)
    if strata is not None:
        codes = np.unique(np.asarray(strata), return_inverse=True)[1]
        order = order[np.argsort(codes[order], kind="stable")]
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % folds
    return fold


def _deal_groups(n: int, folds: int, groups: ArrayLike, rng: np.random.Generator) -> Rows:
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    if codes.shape != (n,):
        raise InputError(f"groups have shape {codes.shape}, expected one for each of the {n} rows")
    sizes = np.bincount(codes)
    if len(sizes) < folds:
        raise InputError(f"{len(sizes)} groups cannot be split into {folds} folds: write a smaller folds")
    fold_of, load = np.empty(len(sizes), dtype=np.int64), np.zeros(folds)
    for group in rng.permutation(len(sizes)):
        fold_of[group] = load.argmin()
        load[fold_of[group]] += sizes[group]
    return fold_of[codes]


def views(
    x: Tensor,
    concept: Labels,
    splits: list[tuple[Rows, Rows]],
    *,
    fit: Fit | None,
    erase: Erase | None,
) -> Iterator[View]:
    """One `View` a fold; an eraser given as `fit` is fitted anew on each fold's training rows.

    Raises:
        InputError: If a training fold lacks a class of the concept, or the eraser changes the shape or makes NaN.
    """
    before = x.detach().to("cpu", torch.float64).numpy()
    fixed = None if erase is None else _erased(erase, x)
    for train, test in splits:
        check_classes(concept, train)
        after = fixed if fit is None else _erased(_fitted(fit, x, concept, train), x)
        if after is None:
            raise InputError("give an eraser: fit=function of (x, z) that returns one, or erase=fitted eraser")
        yield View(train, test, before, after)


def repeated(x: Tensor, splits: list[tuple[Rows, Rows]]) -> int:
    """How many rows `(n, d)` stand among the training rows of their own fold once more, value by value.

    Where values repeat because there are few of them, as in tables of classes, that is no copy: then there are fewer
    different rows than a quarter of all, and the answer is 0.

    >>> repeated(torch.tensor([[1.0], [1.0], [2.0], [3.0]]), [(np.array([0, 2]), np.array([1, 3]))])
    1
    """
    data = x.detach().cpu().contiguous()
    codes = np.array([hash(row.tobytes()) for row in data.view(torch.uint8).reshape(len(data), -1).numpy()])
    if len(np.unique(codes)) < _FEW_VALUES * len(codes):
        return 0
    return int(sum(np.isin(codes[test], codes[train]).sum() for train, test in splits))


def _fitted(fit: Fit, x: Tensor, concept: Labels, train: Rows) -> Any:
    with settled():  # The audit has judged the labels; a part of them is no news.
        return fit(x[torch.from_numpy(train)], concept.tensor(train))


def check_classes(labels: Labels, train: Rows, *, may_lack: bool = False) -> None:
    """Refuse a training fold that lacks a class, or, if it may lack some, that has one only.

    Raises:
        InputError: If it does; the text names the classes.
    """
    if not labels.is_categorical:
        return
    found = set(labels.values[train].tolist())
    missing = sorted(set(range(len(labels.classes))) - found)
    if missing and not (may_lack and len(found) > 1):
        names = ", ".join(labels.classes[i] for i in missing[:5])
        raise InputError(
            f"a training fold has no row of {labels.name} = {names}: give more rows of it, fewer folds, or other groups"
        )


def _erased(erase: Erase, x: Tensor) -> NDArray[np.float64]:
    # A clone, so that an eraser which writes to its input cannot spoil the other folds.
    out = erase(x.clone())
    tensor = out.detach().cpu() if isinstance(out, Tensor) else torch.as_tensor(np.asarray(out))
    if tensor.shape != x.shape:
        raise InputError(f"the eraser turned {tuple(x.shape)} into {tuple(tensor.shape)}: the shape must stay")
    tensor = tensor.to(torch.float64)
    if not bool(torch.isfinite(tensor).all()):
        raise InputError("the eraser made NaN or infinite values: check its fit and the scale of x")
    return tensor.numpy()
