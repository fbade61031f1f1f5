"""The control condition: a random subspace of the same rank, drawn anew for every batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from efface.core.edits import Edit, OnRows
from efface.core.erasure import Erasure
from efface.erasers.lowrank import erase_low_rank


@dataclass(frozen=True, eq=False, repr=False)
class RandomSubspace(Erasure):
    """Takes a random subspace out of hidden states: what an edit of this rank does for no reason at all.

    While it is on, each call draws a new one, as the LEACE paper's control does for each batch (arXiv:2306.03819,
    section 6), so that no draw is lucky. Each time that it is put on it begins again; `begin()` gives a function that
    draws anew at each call, and calling the value itself takes out the first subspace of its sequence.

    Attributes:
        rank: Dimensions taken out.
        center: `(d,)` point that the projection keeps, the mean where it is known; None for the origin.
        seed: Of the draws.

    >>> erase = RandomSubspace(rank=2)
    >>> x = torch.randn(5, 4)
    >>> torch.linalg.matrix_rank(x - erase(x)).item()
    2
    """

    rank: int
    center: Tensor | None = None
    seed: int = 0
    method: str = field(default="random", kw_only=True)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The rows that a module gives."""
        return (OnRows(self),)

    def begin(self) -> Draws:
        """The control from its first draw on."""
        return Draws(self.rank, self.center, torch.Generator().manual_seed(self.seed))

    def __call__(self, x: Tensor) -> Tensor:
        """`x` `(..., d)` without its part in the first subspace that is drawn."""
        return self.begin()(x)


@dataclass(frozen=True, eq=False)
class Draws:
    """A random control under way: each call draws a subspace of its own.

    Attributes:
        rank: Dimensions taken out.
        center: `(d,)` point that the projection keeps; None for the origin.
        generator: Of the draws.
    """

    rank: int
    center: Tensor | None
    generator: torch.Generator

    def to(self, device: torch.device) -> Draws:
        """The same control on another device; both draw from one sequence, so that no draw comes twice."""
        return Draws(self.rank, None if self.center is None else self.center.to(device), self.generator)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` `(..., d)` without its part in a subspace drawn for this call."""
        d = x.shape[-1]
        basis = torch.linalg.qr(torch.randn(d, min(self.rank, d), generator=self.generator))[0].to(x.device)
        return erase_low_rank(x, basis, basis.mH, self.center)
