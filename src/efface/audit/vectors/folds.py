"""Splits without leakage: every row is scored held out, by probes that learn from rows which no eraser has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_positive_int
from efface.audit.vectors.labels import Labels
from efface.core.labels import read_groups, settled
from efface.report.data import AFTER, BEFORE

Erase = Callable[[Tensor], Any]
Fit = Callable[[Tensor, Tensor], Erase]
Rows = NDArray[np.int64]

CONDITIONS = (BEFORE, AFTER)
_FEW_VALUES = 0.25
_TRIES = 20


@dataclass(frozen=True)
class View:
    """One fold as the measures see it.

    Attributes:
        train: Rows that are learnt from: by the probes, and of the whole fold by an eraser that is fitted inside.
        test: Rows that are scored.
        before: All rows as they came, `(n, d)` float64.
        after: All rows as the eraser left them, `(n, d)` float64.
        crossed: The fold as probes of what is left have to see it, with an eraser that knows neither the rows that they
            learn from nor those that are scored: a view for each half of the training rows, or this one alone.
    """

    train: Rows
    test: Rows
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    crossed: tuple[View, ...] = ()

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
        raise InputError(
            f"{n} rows cannot be split into {folds} folds: give at least {folds}, or write a smaller folds"
        )
    order = rng.permutation(n)
    if strata is not None:
        codes = np.unique(read_groups(strata, "strata"), return_inverse=True)[1]
        order = order[np.argsort(codes[order], kind="stable")]
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % folds
    return fold


def _deal_groups(n: int, folds: int, groups: ArrayLike, rng: np.random.Generator) -> Rows:
    codes = np.unique(read_groups(groups), return_inverse=True)[1]
    if codes.shape != (n,):
        raise InputError(f"groups have shape {codes.shape}, expected one for each of the {n} rows")
    sizes = np.bincount(codes)
    if len(sizes) < folds:
        raise InputError(
            f"{len(sizes)} groups cannot be split into {folds} folds: give at least {folds}, or write a smaller folds"
        )
    fold_of, load = np.empty(len(sizes), dtype=np.int64), np.zeros(folds)
    for group in rng.permutation(len(sizes)):
        fold_of[group] = load.argmin()
        load[fold_of[group]] += sizes[group]
    return fold_of[codes]


def halves(
    train: Rows, *, groups: ArrayLike | None = None, strata: ArrayLike | None = None, seed: int = 0
) -> list[tuple[Rows, Rows]]:
    """Both ways to give one half of the training rows to an eraser and the other one to probes.

    On rows of its fit an eraser makes class means equal: it takes away their difference `d + e` there, d the true one
    and e its error in these rows. On others it leaves `-e`. Probes that learn from rows of the fit cannot know that;
    nor can those that learn from all rows, each erased by an eraser that does not know it, as the errors of the parts
    sum to nothing. Probes of rows that one eraser has not seen can.

    With half the rows, `-e` is larger by the square root of two, and the probe's own error is as large as it: to first
    order such a probe has the accuracy of one that learns from any number of fresh rows after an eraser of all rows.
    That holds where columns are fewer than rows: simulated accuracies of LEACE with half as many columns as half the
    rows are .67 both, with as many .69 instead of .71, and with twice as many .68 instead of .76.

    Args:
        train: Rows of the training part of a fold.
        groups: Group of every row of the data; whole groups stay in one half.
        strata: Class of every row of the data; each half has all that are there, if one of some draws does.
        seed: Seed of the draw.

    Raises:
        InputError: If there is one row, or one group, only.

    >>> [(a.tolist(), b.tolist()) for a, b in halves(np.array([2, 3, 6, 7]), groups=[0, 0, 1, 1, 2, 2, 3, 3])]
    [([6, 7], [2, 3]), ([2, 3], [6, 7])]
    """
    own, classes = (None if v is None else np.asarray(v)[train] for v in (groups, strata))
    if len(np.unique(train if own is None else own)) < 2:
        raise InputError(
            "a training fold has one group (or row) only, and half of them are for the eraser, the others for the "
            "probes: give more groups"
        )
    pairs = []
    for attempt in range(_TRIES):
        split = make_folds(len(train), 2, groups=own, strata=classes, seed=seed + attempt)
        pairs = [(train[one], train[other]) for one, other in split]
        if classes is None or all(len(np.unique(classes[part])) == len(np.unique(classes)) for part in split[0]):
            break
    return pairs


def views(
    x: Tensor,
    concept: Labels,
    splits: list[tuple[Rows, Rows]],
    *,
    fit: Fit | None,
    erase: Erase | None,
    groups: ArrayLike | None = None,
    crossed: bool = True,
    seed: int = 0,
) -> Iterator[View]:
    """One `View` a fold; an eraser given as `fit` is fitted anew on each fold's training rows, and on halves of them.

    Args:
        x: Rows `(n, d)`.
        concept: Their labels.
        splits: (train, test) rows of each fold.
        fit: Fits an eraser.
        erase: One that is fitted already.
        groups: What must not be split.
        crossed: Whether probes of what is left are to see them.
        seed: Seed of the halves.

    Raises:
        InputError: If a training fold, or a half of it, lacks a class of the concept, or the eraser changes the shape
            or makes NaN.
    """
    before = x.detach().to("cpu", torch.float64).numpy()
    fixed = None if erase is None else _erased(erase, x)
    for train, test in splits:
        check_classes(concept, train)
        after = fixed if fit is None else _erased(_fitted(fit, x, concept, train), x)
        if after is None:
            raise InputError("give an eraser: fit=function of (x, z) that returns one, or erase=fitted eraser")
        view = View(train, test, before, after)
        if fit is None or not crossed:
            yield replace(view, crossed=(view,))
            continue
        strata = concept.values if concept.is_categorical else None
        parts = []
        for learnt, probed in halves(train, groups=groups, strata=strata, seed=seed):
            check_classes(concept, learnt, "half of a training fold")
            parts.append(View(probed, test, before, _erased(_fitted(fit, x, concept, learnt), x)))
        yield replace(view, crossed=tuple(parts))


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


def check_classes(labels: Labels, train: Rows, what: str = "a training fold", *, may_lack: bool = False) -> None:
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
            f"{what} has no row of {labels.name} = {names}: give more rows of it, fewer folds, or other groups"
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
