"""What the columns of files are like: their means and ranges, gathered chunk by chunk, or part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface._errors import FormatError


@dataclass(frozen=True)
class Columns:
    """Of each column, in order.

    Attributes:
        mean: `(d,)` means.
        low: `(d,)` least values.
        high: `(d,)` greatest values.
    """

    mean: Tensor
    low: Tensor
    high: Tensor

    def to_plain(self) -> dict[str, list[float]]:
        """As lists."""
        return {name: value.tolist() for name, value in vars(self).items()}

    @classmethod
    def of(cls, plain: Mapping[str, Any] | None) -> Columns | None:
        """From `to_plain`; None of nothing.

        Raises:
            FormatError: If it is anything else.
        """
        if plain is None:
            return None
        if set(plain) != {*_FIELDS} or len({len(plain[name]) for name in _FIELDS}) > 1:
            raise FormatError(f"x has {', '.join(plain)}, expected {', '.join(_FIELDS)} of one length")
        return cls(*(torch.tensor(plain[name], dtype=torch.float64) for name in _FIELDS))


_FIELDS = ("mean", "low", "high")
_JOIN = {"n": torch.add, "sum": torch.add, "low": torch.minimum, "high": torch.maximum}


class Gatherer:
    """Means and ranges, chunk by chunk; values that are NaN do not count."""

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        self._sums: dict[str, Tensor] = {
            name: torch.tensor(value, dtype=torch.float64) for name, value in (kept or {}).items()
        }

    def update(self, x: Tensor) -> None:
        """Take in rows `(n, d)`; of complex ones nothing is kept."""
        if x.is_complex() or not len(x):
            return
        low, high = x.amin(0), x.amax(0)  # NaN where there is one
        if bool(low.isnan().any()):
            new = _without_gaps(x.double())
        else:
            n = torch.full_like(low, len(x), dtype=torch.float64)
            new = {"n": n, "sum": x.double().sum(0), "low": low.double(), "high": high.double()}
        self._sums = {name: _JOIN[name](self._sums[name], v) if self._sums else v for name, v in new.items()}

    def merge(self, kept: Mapping[str, Any]) -> None:
        """Take in what another one kept."""
        other = {name: torch.tensor(value, dtype=torch.float64) for name, value in kept.items()}
        self._sums = {
            name: _JOIN[name](self._sums[name], v) if self._sums else v for name, v in other.items()
        } or self._sums

    def kept(self) -> dict[str, list[float]]:
        """All that there is, as lists, to go on from."""
        return {name: value.tolist() for name, value in self._sums.items()}

    def columns(self) -> Columns | None:
        """What was found; None if nothing was."""
        if not self._sums:
            return None
        n = self._sums["n"]
        return Columns(self._sums["sum"] / n.clamp_min(1), self._sums["low"], self._sums["high"])


def _without_gaps(x: Tensor) -> dict[str, Tensor]:
    gaps, far = x.isnan(), torch.full_like(x, torch.inf)
    return {
        "n": (~gaps).sum(0).double(),
        "sum": x.nan_to_num(nan=0.0).sum(0),
        "low": torch.where(gaps, far, x).amin(0),
        "high": torch.where(gaps, -far, x).amax(0),
    }
