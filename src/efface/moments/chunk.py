"""The sums of one chunk of rows: centred on a suitable origin, multiplied in its own precision, checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from efface._memory import empty
from efface.moments.gram import UpperGram

_SAMPLE = 64


def compute_dtype(dtype: torch.dtype, least: torch.dtype = torch.float32) -> torch.dtype:
    """The dtype in which rows of that dtype are multiplied: at least float32, float64 for wide integers."""
    wide = torch.float64 if dtype in (torch.int32, torch.int64) else torch.float32
    return torch.promote_types(torch.promote_types(dtype, wide), least)


class Scratch:
    """Memory for one chunk, reused by the chunks of an update: fresh pages cost as much as the arithmetic."""

    def __init__(self, rows: int, d: int, dtype: torch.dtype, device: torch.device, *, gram: bool) -> None:
        self.dtype = dtype
        self._shape, self._device = (rows, d), device
        self._buffer: Tensor | None = None
        self.gram = UpperGram(d, dtype, device) if gram else None

    def centred(self, x: Tensor, origin: Tensor) -> Tensor:
        """Rows minus the origin, in this scratch's dtype: `x` itself if that is what it is."""
        if x.dtype == self.dtype and x.is_contiguous() and not bool(origin.any()):
            return x
        if self._buffer is None:
            self._buffer = empty(*self._shape, dtype=self.dtype, device=self._device)
        b, origin = self._buffer[: len(x)], origin.to(self.dtype)
        return torch.sub(x, origin, out=b) if x.dtype == self.dtype else b.copy_(x).sub_(origin)

    def squares(self, b: Tensor) -> Tensor:
        """Form the products of centred rows; returns `(d,)` sums of squares, to be checked before `add_to`."""
        return b.abs().square_().sum(0) if self.gram is None else self.gram.compute(b)

    def add_to(self, s_xx: Tensor, squares: Tensor) -> None:
        """Add the last products to the sums, in the dtype of the sums."""
        if self.gram is None:
            s_xx.add_(squares)
        else:
            self.gram.add_to(s_xx)


@dataclass(frozen=True)
class Chunk:
    """Sums of one chunk about an origin.

    Attributes:
        n: Rows.
        thin: `(n, 1 + k)` weights, and weights times centred z.
        c: `(n, k)` centred z.
        products: `(d, 1 + k)` sums of conj(x) times `thin`.
        origin_x: `(d,)`.
        origin_z: `(k,)`.
        scratch: Holds the products of x with x.
        squares: `(d,)` their diagonal.
        eps: Machine epsilon of the dtype in which they were formed.
    """

    n: int
    thin: Tensor
    c: Tensor
    products: Tensor
    origin_x: Tensor
    origin_z: Tensor
    scratch: Scratch
    squares: Tensor
    eps: float

    def is_finite(self) -> bool:
        """Whether no row held NaN or infinity and nothing overflowed: any such value shows in the sums."""
        return bool(self.products.isfinite().all() & self.squares.isfinite().all() & self.thin.sum().isfinite())


def sum_chunk(x: Tensor, z: Tensor, w: Tensor | None, origin_x: Tensor, origin_z: Tensor, scratch: Scratch) -> Chunk:
    """Sums of one chunk about the given origin.

    Args:
        x: `(n, d)` rows.
        z: `(n, k)` in float64 or complex128.
        w: `(n,)` weights in float64, or None.
        origin_x: `(d,)`, representable in the dtype of the scratch.
        origin_z: `(k,)`.
        scratch: Memory; overwritten by the next chunk.
    """
    dtype = scratch.dtype
    b = scratch.centred(x, origin_x)
    c = z - origin_z
    thin = torch.cat([c.new_ones(len(c), 1), c], dim=1)
    thin = thin if w is None else thin * w[:, None]
    # BLAS is ten times faster with the thin factor on the left.
    products = (thin.to(dtype).mH @ b).mH.to(c.dtype)
    if w is not None:
        b = b * w.sqrt().to(dtype)[:, None]
    squares = scratch.squares(b)
    return Chunk(len(x), thin, c, products, origin_x, origin_z, scratch, squares, torch.finfo(dtype).eps)


def suitable_origin(x: Tensor, origin: Tensor, variance: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The present origin, moved in those features where this chunk is far from it.

    Far is more than one standard deviation (of a sample of the chunk, or of the stream so far) beyond what
    the sample's own error explains.

    Args:
        x: `(n, d)` rows of the chunk.
        origin: `(d,)` present origin, zeros at the start; returned itself if nothing is far.
        variance: `(d,)` of the stream so far, None at its start.
        dtype: A new origin is representable in this dtype, unless it is too large for it.
    """
    sample = x[:: max(1, len(x) // _SAMPLE)].to(origin.dtype)
    mean = sample.mean(0)
    mean = torch.where(mean.isfinite(), mean, origin)
    spread = (sample - mean).abs().square().mean(0).nan_to_num()
    spread = (spread if variance is None else torch.maximum(variance, spread)).sqrt()
    far = (mean - origin).abs() > (1 + 3 / len(sample) ** 0.5) * spread
    if not bool(far.any()):
        return origin
    near = _coarse(mean, spread).to(dtype).to(origin.dtype)
    near = torch.where(near.isfinite(), near, mean)
    return torch.where(far, near, origin)


def _coarse(mean: Tensor, spread: Tensor) -> Tensor:
    """The mean rounded to a grid of powers of two of a quarter of the spread or less.

    An origin of few digits keeps quantised data (half precision, integers) on its grid: sums of it are then
    exact in float32, where those about the mean itself would be rounded in the same direction row after row.
    """
    if mean.is_complex():
        return torch.complex(_coarse(mean.real, spread), _coarse(mean.imag, spread))
    grid = torch.exp2(spread.log2().floor() - 2)
    return torch.where((spread > 0) & (grid > 0), (mean / grid).round() * grid, mean)
