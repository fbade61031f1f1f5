"""What an edit does to the columns of a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from efface.streams import shortened
from efface.streams.ranges import Columns

_SHARE, _FEW, _ROOM = 0.01, 5, 1e-3
_NAMED = 5


class Change:
    """How much an edit changes each column, relative to its variance, and which values it takes out of their range.

    Args:
        columns: Of the rows of the fit, if they are known.
    """

    def __init__(self, columns: Columns | None = None) -> None:
        self.rows = 0
        self._columns = columns
        self._origin: Tensor | None = None
        self._sum: Any = 0.0
        self._squares: Any = 0.0
        self._changed: Any = 0.0
        self._outside: Any = 0
        self._low: Any = torch.inf
        self._high: Any = -torch.inf

    def update(self, x: Tensor, erased: Tensor) -> None:
        """Take in a chunk before and after."""
        wide, new = _wide(x), _wide(erased)
        self._changed = self._changed + (new - wide).abs().square().sum(0)
        # About a point near the mean, so that a large mean does not swallow the variance.
        self._origin = wide.mean(0) if self._origin is None else self._origin
        centred = wide - self._origin
        self._sum = self._sum + centred.sum(0)
        self._squares = self._squares + centred.abs().square().sum(0)
        self.rows += len(x)
        if self._columns is not None and not x.is_complex() and x.shape[1] == len(self._columns.low):
            self._look(self._columns, wide, new)

    def merge(self, other: Change) -> None:
        """Take in what another one has seen of other rows.

        >>> x, (whole, first, second) = torch.arange(12.0).reshape(4, 3) ** 2, (Change() for _ in range(3))
        >>> whole.update(x, -x), first.update(x[:1], -x[:1]), second.update(x[1:], -x[1:]), first.merge(second)
        (None, None, None, None)
        >>> abs(first.size - whole.size) < 1e-12 * whole.size
        True
        """
        if not other.rows:
            return
        self._origin = other._origin if self._origin is None else self._origin
        assert self._origin is not None and other._origin is not None
        moved = other._origin - self._origin
        self._squares = self._squares + other._squares + 2 * (moved.conj() * other._sum).real
        self._squares = self._squares + other.rows * moved.abs().square()
        self._sum = self._sum + other._sum + other.rows * moved
        self._changed, self._outside = self._changed + other._changed, self._outside + other._outside
        self._low = torch.minimum(torch.as_tensor(self._low), torch.as_tensor(other._low))
        self._high = torch.maximum(torch.as_tensor(self._high), torch.as_tensor(other._high))
        self.rows += other.rows

    def _look(self, columns: Columns, x: Tensor, erased: Tensor) -> None:
        room = _ROOM * (columns.high - columns.low)
        low, high = columns.low - room, columns.high + room
        out = ((erased < low) | (erased > high)) & (x >= low) & (x <= high)
        self._outside = self._outside + out.sum(0)
        self._low = torch.minimum(torch.as_tensor(self._low), erased.amin(0))
        self._high = torch.maximum(torch.as_tensor(self._high), erased.amax(0))

    def _variance(self) -> Tensor:
        return (self._squares - (self._sum / self.rows**0.5).abs().square()).clamp_min(0)

    @property
    def size(self) -> float:
        """Mean squared change over total variance."""
        variance = float(self._variance().sum())
        return float(self._changed.sum()) / variance if variance > 0 else 0.0

    def most(self, names: Sequence[str]) -> str:
        """The columns of which most is changed, with the share of their variance."""
        shares = torch.where(self._variance() > 0, self._changed / self._variance(), 0.0)
        if len(shares) != len(names):
            return ""
        order = [i for i in shares.argsort(descending=True).tolist() if shares[i] > 0]
        return shortened([f"{names[i]} {float(shares[i]):.3g}" for i in order], count=_NAMED)

    def outside(self, names: Sequence[str]) -> list[str]:
        """A line for each column of which many values leave the range that they had in the fit.

        Many are one in a hundred, and more than five.
        """
        columns = self._columns
        if columns is None or not torch.is_tensor(self._outside) or len(self._outside) != len(names):
            return []
        shares = self._outside.double() / self.rows
        ends = torch.stack([columns.low, columns.high, self._low, self._high], 1).tolist()
        return [
            f"{names[i]} leaves its range of {ends[i][0]:.4g} to {ends[i][1]:.4g} in {float(shares[i]):.1%} of rows, "
            f"and now reaches from {ends[i][2]:.4g} to {ends[i][3]:.4g}"
            for i in shares.argsort(descending=True).tolist()
            if shares[i] > max(_SHARE, _FEW / self.rows)
        ]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)
