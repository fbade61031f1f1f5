"""How much of a reader's attention a place in an answer gets: models of users, by name and parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface.core.doors import check_fields

Floats = NDArray[np.float64]
_RANK_BIASED = "rank-biased, p="


@runtime_checkable
class UserModel(Protocol):
    """Attention by rank, which starts at 0."""

    @property
    def name(self) -> str:
        """What a report calls it."""
        ...

    def weight(self, rank: ArrayLike) -> Floats:
        """Attention that each rank gets."""
        ...


@dataclass(frozen=True)
class RBP:
    """Rank-biased: a reader goes on to the next with probability p, u(r) = p^r (Moffat and Zobel 2008).

    >>> RBP(0.5).weight([0, 1, 2]).tolist()
    [1.0, 0.5, 0.25]
    """

    p: float = 0.8

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.p < 1:
            raise InputError(f"p is {self.p}: write the probability of reading on, between 0 and 1")

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"{_RANK_BIASED}{self.p!r}"

    def weight(self, rank: ArrayLike) -> Floats:
        """Attention that each rank gets."""
        return self.p ** np.asarray(rank, dtype=np.float64)


@dataclass(frozen=True)
class DCG:
    """Discounted gain: u(r) = 1 / log2(r + 2)."""

    @property
    def name(self) -> str:
        """What a report calls it."""
        return "discounted, 1 / log2(rank + 2)"

    def weight(self, rank: ArrayLike) -> Floats:
        """Attention that each rank gets."""
        return 1 / np.log2(np.asarray(rank, dtype=np.float64) + 2)


@dataclass(frozen=True)
class Flat:
    """Every mention counts the same; ranks are not read."""

    @property
    def name(self) -> str:
        """What a report calls it."""
        return "each mention alike"

    def weight(self, rank: ArrayLike) -> Floats:
        """Attention that each rank gets."""
        return np.ones(np.shape(rank))


def model_named(name: str) -> UserModel | None:
    """The model of that name, or None if it is none of these.

    >>> model_named(RBP(0.5).name), model_named("as given")
    (RBP(p=0.5), None)
    """
    known: dict[str, UserModel] = {model.name: model for model in (DCG(), Flat())}
    if name.startswith(_RANK_BIASED):
        return RBP(float(name.removeprefix(_RANK_BIASED)))
    return known.get(name)


def ideal_exposure(merit: ArrayLike, model: UserModel) -> Floats:
    """Exposure of each relevant entity of one query where all of one merit share their places equally.

    With b entities of more merit and m of the same, `(1/m) sum_{r=b}^{b+m-1} u(r)`; for rank-biased attention that is
    `(p^b - p^{b+m}) / (m (1 - p))`. Source: Diaz et al., "Evaluating Stochastic Rankings with Expected Exposure",
    arXiv:2004.13157, section 4. What has no merit is due nothing here.

    >>> ideal_exposure([1.0, 1.0, 0.0], RBP(0.5)).tolist()
    [0.75, 0.75, 0.0]
    """
    merit = np.asarray(merit, dtype=np.float64)
    attention = np.concatenate([[0.0], np.cumsum(model.weight(np.arange(len(merit))))])
    above = (merit[:, None] < merit[None, :]).sum(axis=1)
    same = (merit[:, None] == merit[None, :]).sum(axis=1)
    return np.where(merit > 0, (attention[above + same] - attention[above]) / same, 0.0)
