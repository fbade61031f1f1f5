"""The control condition: a random subspace of the same rank, drawn anew for every batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from efface.erasers.lowrank import erase_low_rank


@dataclass(eq=False)
class RandomSubspace:
    """Takes a random subspace out of hidden states: what an edit of this rank does for no reason at all.

    Each call draws a new one, as the LEACE paper's control does for each batch (arXiv:2306.03819, section 6), so that
    no draw is lucky.

    Attributes:
        rank: Dimensions taken out.
        center: `(d,)` point that the projection keeps, the mean where it is known; None for the origin.
        seed: Of the draws; `reset` begins again.

    >>> erase = RandomSubspace(rank=2)
    >>> x = torch.randn(5, 4)
    >>> torch.linalg.matrix_rank(x - erase(x)).item()
    2
    """

    rank: int
    center: Tensor | None = field(default=None, repr=False)
    seed: int = 0
    _generator: torch.Generator = field(init=False, repr=False, default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Draw the same subspaces again from here on."""
        self._generator.manual_seed(self.seed)

    def to(self, device: torch.device) -> RandomSubspace:
        """The same control on another device; both draw from one sequence, so that no draw comes twice."""
        moved = RandomSubspace(self.rank, None if self.center is None else self.center.to(device), self.seed)
        moved._generator = self._generator
        return moved

    def __call__(self, x: Tensor) -> Tensor:
        """`x` `(..., d)` without its part in a subspace drawn for this call."""
        d = x.shape[-1]
        basis = torch.linalg.qr(torch.randn(d, min(self.rank, d), generator=self._generator))[0].to(x.device)
        return erase_low_rank(x, basis, basis.mH, self.center)
