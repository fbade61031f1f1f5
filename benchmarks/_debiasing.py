"""Erasers of word vectors as functions of rows: efface's, and those of others, written from their papers or code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import efface

Floats = NDArray[np.float32]
Classes = NDArray[np.int64]
Edit = Callable[[Floats], Floats]

_MOST = 35  # iterations of INLP's notebook


def by_efface(method: str, x: Floats, z: Classes) -> Edit:
    """An eraser of efface's registry."""
    fitter = efface.get_method(method, "rows").fitter
    assert fitter is not None
    eraser = fitter.fit(torch.tensor(x), torch.tensor(z)).eraser
    return lambda rows: eraser(torch.tensor(rows)).numpy()


def joined(method: str, *kinds: tuple[Floats, Classes]) -> Edit:
    """One projection for erasers of several kinds of words, each of which it leaves as little as its own."""
    fitter = efface.get_method(method, "rows").fitter
    assert fitter is not None
    first, *others = (fitter.fit(torch.tensor(x), torch.tensor(z)).eraser for x, z in kinds)
    for other in others:
        first = first & other
    return lambda rows: first(torch.tensor(rows)).numpy()


def away_from(directions: Floats) -> Edit:
    """The orthogonal projection away from the span of columns `(d, k)`."""
    basis = np.linalg.qr(directions.astype(np.float64))[0]
    return lambda rows: (rows - (rows @ basis) @ basis.T).astype(np.float32)


def random_projection(d: int, rank: int, seed: int) -> Edit:
    return away_from(np.random.default_rng(seed).normal(size=(d, rank)).astype(np.float32))


def hard(first: Floats, second: Floats) -> Edit:
    """Away from the first principal component of pairs, each centred (Bolukbasi and others, arXiv:1607.06520, 5.1).

    All words are neutralised, and none equalised: nobody is asked which words are to keep their gender.
    """
    centres = (first + second) / 2
    rows = np.concatenate([first - centres, second - centres]).astype(np.float64)
    return away_from(np.linalg.svd(rows, full_matrices=False)[2][:1].T.astype(np.float32))


def sal_as_released(x: Floats, z: Classes, rank: int = 2) -> Edit:
    """SAL (arXiv:2203.07893) as its notebook has it: singular vectors of X'Z, neither centred; there rank is 2."""
    labels = np.eye(2)[z]
    return away_from(np.linalg.svd(x.T.astype(np.float64) @ labels / len(x))[0][:, :rank].astype(np.float32))


def inlp(x: Floats, z: Classes, seed: int = 0) -> tuple[Edit, int]:
    """INLP (arXiv:2004.07667): away from a linear SVM's direction, again and again, until none reads the rest.

    As the notebook: LinearSVC without an intercept, at most 35 times, 30 % of the rows to stop by; it stops where these
    are read right no more than half of the time, and two standard errors.

    Returns:
        The edit, and how many directions it takes.
    """
    from sklearn.svm import LinearSVC

    order = np.random.default_rng(seed).permutation(len(x))
    cut = round(0.7 * len(x))
    train, dev = order[:cut], order[cut:]
    found: list[Floats] = []
    options: dict[str, Any] = {"fit_intercept": False, "dual": False, "random_state": seed}
    enough = 0.5 + np.sqrt(1 / len(dev))
    while len(found) < min(_MOST, x.shape[1] - 1):
        edit = away_from(np.stack(found, axis=1)) if found else (lambda rows: rows)
        model = LinearSVC(**options).fit(edit(x[train]), z[train])
        if model.score(edit(x[dev]), z[dev]) <= enough:
            break
        found.append(model.coef_[0].astype(np.float32))
    return away_from(np.stack(found, axis=1)), len(found)


def contestants(x: Floats, z: Classes, defining: tuple[Floats, Floats], seed: int = 0) -> Mapping[str, Edit]:
    """Name -> edit, all fitted on the same rows but the hard projection, which has its ten pairs."""
    iterated, rank = inlp(x, z, seed)
    d = x.shape[1]
    return {
        "none": lambda rows: rows,
        "random, rank 1": random_projection(d, 1, seed),
        f"random, rank {rank}": random_projection(d, rank, seed + 1),
        "he - she (1 direction)": away_from((defining[0][2] - defining[1][2])[:, None]),
        "hard: PC of ten pairs": hard(*defining),
        "orth = mean-difference": by_efface("orth", x, z),
        "SAL as released, rank 2": sal_as_released(x, z),
        f"INLP, rank {rank}": iterated,
        "LEACE": by_efface("leace", x, z),
    }
