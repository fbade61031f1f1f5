"""The association test of embeddings (WEAT): do two kinds of things go with two kinds of attributes?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._text import brief
from efface._validate import check_int, check_positive_int
from efface.audit.vectors.unit_rows import unit_rows
from efface.core.doors import check_call
from efface.stats.intervals import Interval, percentile_interval

Floats = NDArray[np.float64]

_FEWEST = 2
_RESAMPLES = 2000


@dataclass(frozen=True)
class Association:
    """What an association test found.

    Attributes:
        effect: The effect size, with an interval over the words of all four lists.
        p: Share of partitions of the targets that go with the attributes at least as much.
        partitions: How many of them were tried.
        exact: Whether those are all that there are.
    """

    effect: Interval
    p: float
    partitions: int
    exact: bool

    __repr__ = brief


def association(
    x: Any, y: Any, a: Any, b: Any, *, partitions: int = 20_000, level: float = 0.95, seed: int = 0
) -> Association:
    """Do embeddings x go with a, and y with b, more than the other way round (WEAT)?

    With s(w) = mean_a cos(w, a) - mean_b cos(w, b), the effect size is

        d = (mean_x s(x) - mean_y s(y)) / std_{w in x and y} s(w),

    between -2 and 2 for lists of equal length, 0 where nothing tells x from y. p is one-sided: the share of all ways
    to part the targets into lists of these lengths whose difference is at least as large, the given one among them.
    The interval of d resamples each of the four lists.

    Source: Caliskan, Bryson, Narayanan, arXiv:1608.07187; the standard deviation is that of a sample.

    Args:
        x: Embeddings of the first targets `(n, d)`.
        y: Of the second targets `(m, d)`.
        a: Of the first attributes `(k, d)`.
        b: Of the second attributes `(l, d)`.
        partitions: Above so many ways to part the targets, so many are drawn instead.
        level: Confidence level of the interval.
        seed: Seed of what is drawn.

    Raises:
        InputError: If a list has under two embeddings, one is zero or not finite, or they have different widths.

    Does not guarantee: that no association is left where d is near 0. It asks about these words alone, and about the
    mean of cosines; d does not say how large the differences are, as it is measured in their own spread.

    >>> x, y = [[1.0, 0.1], [1.0, 0.2]], [[0.1, 1.0], [0.2, 1.0]]
    >>> found = association(x, y, a=x, b=y)
    >>> found.p.__round__(3), found.effect.value.__round__(1)
    (0.167, 1.7)
    """
    check_call(association, locals())
    check_positive_int(partitions, "partitions")
    lists = {name: unit_rows(rows, name, least=_FEWEST) for name, rows in {"x": x, "y": y, "a": a, "b": b}.items()}
    widths = {name: rows.shape[1] for name, rows in lists.items()}
    if len(set(widths.values())) > 1:
        given = ", ".join(f"{width} columns of {name}" for name, width in widths.items())
        raise InputError(f"there are {given}: give embeddings of one width")
    n, m, k = (len(lists[name]) for name in ("x", "y", "a"))
    cosines = np.concatenate([lists["x"], lists["y"]]) @ np.concatenate([lists["a"], lists["b"]]).T
    scores = cosines[:, :k].mean(axis=1) - cosines[:, k:].mean(axis=1)
    rng = np.random.default_rng(check_int(seed, "seed", least=0))
    draws = _resampled(cosines, n, k, rng)
    said = f"bootstrap over {n} and {m} targets, {k} and {len(lists['b'])} attributes"
    p, count, exact = _permuted(scores, n, partitions, rng)
    return Association(
        percentile_interval(float(_effects(scores[None], n)[0]), draws, said, level=level), p, count, exact
    )


def _effects(scores: Floats, n: int) -> Floats:
    """Effect sizes of rows of scores, of which the first `n` are of x; 0 where all scores are the same."""
    spread = scores.std(axis=1, ddof=1)
    difference = scores[:, :n].mean(axis=1) - scores[:, n:].mean(axis=1)
    return np.where(spread > 0, difference / np.where(spread > 0, spread, 1.0), 0.0)


def _resampled(cosines: Floats, n: int, k: int, rng: np.random.Generator) -> Floats:
    """Effect sizes with the words of each of the four lists drawn anew."""
    m, l = cosines.shape[0] - n, cosines.shape[1] - k  # noqa: E741
    first, second = _counts(k, rng), _counts(l, rng)
    scores = (cosines[:, :k] @ first.T / k - cosines[:, k:] @ second.T / l).T
    rows = np.concatenate([rng.integers(0, n, (_RESAMPLES, n)), n + rng.integers(0, m, (_RESAMPLES, m))], axis=1)
    return _effects(np.take_along_axis(scores, rows, axis=1), n)


def _counts(size: int, rng: np.random.Generator) -> Floats:
    return rng.multinomial(size, np.full(size, 1 / size), size=_RESAMPLES).astype(np.float64)


def _permuted(scores: Floats, n: int, most: int, rng: np.random.Generator) -> tuple[float, int, bool]:
    """The p-value, of how many partitions, and whether these are all."""
    total, ways = len(scores), comb(len(scores), n)
    # As n and m are the same in all, the sum of the first list says all; equal sums differ by rounding alone.
    least = scores[:n].sum() - 1e-12 * np.abs(scores).sum()
    if ways <= most:
        sums = scores[np.array(list(combinations(range(total), n)))].sum(axis=1)
        return float((sums >= least).mean()), ways, True
    drawn = rng.permuted(np.broadcast_to(scores, (most, total)), axis=1)[:, :n].sum(axis=1)
    # The given partition is one of them: a p of 0 cannot be known from draws (Phipson and Smyth, arXiv:1603.05766).
    return float((1 + (drawn >= least).sum()) / (1 + most)), most, False
