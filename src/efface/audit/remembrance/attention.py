"""S2 and S8: who gets the attention, how evenly, and who has what others lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface.audit.remembrance.exposure import UserModel, ideal_exposure
from efface.audit.remembrance.panel import Matrix, Panel

Floats = NDArray[np.float64]
_NUMBERS = 2**21
_SIDES = np.array([-1, 1], dtype=np.int8)


def shares(exposure: ArrayLike) -> Floats:
    """Exposure as shares of all of it, along the first axis; zeros where there is none."""
    exposure = np.asarray(exposure, dtype=np.float64)
    total = exposure.sum(axis=0)
    return exposure / np.where(total > 0, total, 1)


def shift(one: ArrayLike, other: ArrayLike) -> Floats:
    """Total variation, the share of attention that went from some to others: `1/2 sum_e |x_e - y_e|`.

    >>> float(shift([0.5, 0.5], [1.0, 0.0]))
    0.5
    """
    return np.abs(np.asarray(one) - np.asarray(other)).sum(axis=0) / 2


def parity(share: ArrayLike, due: ArrayLike) -> Floats:
    """`1 - 1/2 sum_g |x_g - t_g|`: 1 where each group gets what it is due."""
    return 1 - shift(share, due)


def effective_number(share: ArrayLike) -> float:
    """How many equal shares would be as diverse: `exp(- sum_e x_e ln x_e)`.

    >>> round(effective_number([0.5, 0.5, 0.0]), 6)
    2.0
    """
    x = np.asarray(share, dtype=np.float64)
    x = x[x > 0]
    return float(np.exp(-(x * np.log(x)).sum()))


def gini(share: ArrayLike) -> float:
    """Gini's coefficient, `sum_i (2 i - n - 1) x_(i) / (n sum x)` of the sorted shares: 0 if all have the same.

    >>> gini([1.0, 1.0]), gini([0.0, 1.0])
    (0.0, 0.5)
    """
    x = np.sort(np.asarray(share, dtype=np.float64))
    n = len(x)
    return float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * x.sum())) if x.sum() > 0 else 0.0


def lift(exposure: ArrayLike, merit: ArrayLike, popularity: ArrayLike) -> float | None:
    """By how much attention leans to the popular: `E_exposure[ln pi] - E_merit[ln pi]`, over entities with pi > 0.

    >>> lift([1.0, 0.0], [1.0, 1.0], [np.e**2, 1.0])
    1.0
    """
    popularity = np.asarray(popularity, dtype=np.float64)
    known = np.isfinite(popularity) & (popularity > 0)
    x, w, log = np.asarray(exposure)[known], np.asarray(merit)[known], np.log(popularity[known])
    return float(x @ log / x.sum() - w @ log / w.sum()) if x.sum() > 0 and w.sum() > 0 else None


@dataclass(frozen=True)
class Expected:
    """Expected exposure, a mean over queries (Diaz et al., arXiv:2004.13157): `EE-L = EE-D - 2 EE-R + sum due^2`.

    Attributes:
        disparity: EE-D, `sum eps^2`.
        relevance: EE-R, `sum eps eps*`.
        loss: EE-L, `sum (eps - eps*)^2`.
    """

    disparity: float
    relevance: float
    loss: float


def expected_exposure(panel: Panel, arm: str, model: UserModel) -> Expected:
    """Exposure of each entity in each query, a mean over its answers, next to what its merit is due.

    See `ideal_exposure` for eps*.
    """
    count = panel.by_cell(np.ones(len(panel.entity)))
    eps = panel.by_cell(panel.exposure[arm]) / count
    merit, (_, query) = panel.by_cell(panel.merit) / count, panel.cells
    due = np.zeros_like(eps)
    order = np.argsort(query, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(query[order])) + 1):
        due[part] = _due(merit[part], model)
    asked = panel.queries
    disparity, relevance = float((eps**2).sum() / asked), float((eps * due).sum() / asked)
    return Expected(disparity, relevance, float(((eps - due) ** 2).sum() / asked))


def _due(merit: Floats, model: UserModel) -> Floats:
    """`ideal_exposure` of many entities with few grades, which would take a square of memory."""
    grades, place = np.unique(merit, return_inverse=True)
    if len(grades) == len(merit):
        return ideal_exposure(merit, model)
    many = np.bincount(place)
    above = np.cumsum(many[::-1])[::-1] - many
    attention = np.concatenate([[0.0], np.cumsum(model.weight(np.arange(len(merit))))])
    each = (attention[above + many] - attention[above]) / many
    return np.where(merit > 0, each[place], 0.0)


def coins(entities: int, queries: int, flips: int, seed: int) -> Iterator[NDArray[np.int8]]:
    """In which queries before and after are exchanged, 1 or -1, `(queries, b)`, a block of flips at a time."""
    rng, step = np.random.default_rng(seed), max(1, _NUMBERS // max(entities, queries))
    for start in range(0, flips, step):
        yield rng.choice(_SIDES, size=(queries, min(step, flips - start)))


def exchanged(before: Matrix, after: Matrix, *, flips: int, seed: int) -> dict[str, Floats]:
    """Statistics of attention where before and after are exchanged in queries by fair coins: what chance does.

    With M and D the sum and the difference of both, exchanged arms are `(M + D s) / 2` and `(M - D s) / 2`. Shifts and
    changes of diversity are never 0 in small samples; these are what they are to be held against.

    Returns:
        `"shift"`, `"effective number"` and `"gini"`: changes from one to the other, `(flips,)`.
    """
    gap = after - before
    whole = np.asarray(before.sum(axis=1) + after.sum(axis=1)).reshape(-1)
    return exchanged_sums(
        whole, (np.asarray(gap @ side) for side in coins(before.shape[0], before.shape[1], flips, seed))
    )


def exchanged_sums(whole: Floats, moves: Iterable[Floats]) -> dict[str, Floats]:
    """The same from M `(entities,)` and blocks of D s, `(entities, b)`."""
    found, whole = {"shift": [], "effective number": [], "gini": []}, whole.reshape(-1, 1)
    for moved in moves:
        one, other = shares(np.maximum(whole - moved, 0)), shares(np.maximum(whole + moved, 0))
        found["shift"].append(shift(one, other))
        for name, statistic in (("effective number", effective_number), ("gini", gini)):
            pairs = zip(other.T, one.T, strict=True)
            found[name].append(np.array([statistic(late) - statistic(early) for late, early in pairs]))
    return {name: np.concatenate([np.empty(0), *parts]) for name, parts in found.items()}


def moved(panel: Panel, before: str, after: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows of who dropped out of an answer, and of who came into one."""
    fine = panel.fine(before, after)
    then, now = panel.hit[before] > 0, panel.hit[after] > 0
    return fine & then & ~now, fine & ~then & now


def heirs(
    panel: Panel,
    lost_by: NDArray[np.bool_],
    before: str,
    after: str,
    *,
    came: Floats | None = None,
    dropped: NDArray[np.bool_] | None = None,
) -> tuple[Floats, Floats, int]:
    """Who comes into answers that some entities dropped out of.

    `T(tau -> f) = mean over those answers of 1[f in A - B] / |A - B|`, with B and A who is in the answer before and
    after; and the same where they did not drop out, which is what f gains anyway.

    Args:
        panel: The arms.
        lost_by: Whose place it is, `(entities,)`.
        before: Arm.
        after: Arm.
        came: How many entities came into each answer, where the panel does not have all of them.
        dropped: Whether one of those dropped out of it, likewise.

    Returns:
        Transfer to each entity, what it gains anyway, and how many answers they dropped out of.
    """
    gone, new = moved(panel, before, after)
    answers = len(panel.asked)
    came = np.bincount(panel.answer, new, answers).astype(np.float64) if came is None else came
    if dropped is None:
        dropped = np.bincount(panel.answer, gone & lost_by[panel.entity], answers) > 0
    given = (panel.status[before] == 0) & (panel.status[after] == 0)
    weight = new / np.maximum(came, 1)[panel.answer]
    cases = ((dropped, dropped & given), (~dropped, ~dropped & given))
    sums = [panel.by_entity(weight * which[panel.answer]) / max(1, int(counted.sum())) for which, counted in cases]
    return sums[0], sums[1], int((dropped & given).sum())


def gain_concentration(before: ArrayLike, after: ArrayLike) -> float:
    """`sum (gain share)^2` over those who gained attention: 1 where one has all of it, 0 where nobody gained.

    >>> gain_concentration([0.5, 0.3, 0.2], [0.3, 0.4, 0.3])
    0.5
    """
    gain = np.maximum(0.0, np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64))
    return round(float((shares(gain) ** 2).sum()), 12)
