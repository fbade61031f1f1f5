"""The sums of one chunk of rows: centred on a suitable origin, multiplied in its own precision, checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from efface._memory import empty
from efface.moments.gram import UpperGram, rows_per_block, rows_per_product

_SAMPLE = 64


def compute_dtype(dtype: torch.dtype, least: torch.dtype = torch.float32) -> torch.dtype:
    """The dtype in which rows of that dtype are multiplied: at least float32, float64 for wide integers."""
    wide = torch.float64 if dtype in (torch.int32, torch.int64) else torch.float32
    return torch.promote_types(torch.promote_types(dtype, wide), least)


class Scratch:
    """The products of a chunk, in memory that the chunks of an update reuse: fresh pages cost as much as arithmetic.

    Args:
        rows: In the largest chunk.
        d: Width.
        dtype: In which rows are multiplied.
        sums: In which the products of a chunk are added up, where they are several.
        device: Of all.
        gram: Whether all products are wanted, or squares alone.
    """

    def __init__(
        self, rows: int, d: int, dtype: torch.dtype, sums: torch.dtype, device: torch.device, *, gram: bool
    ) -> None:
        self.dtype = dtype
        self._d, self._sums, self._device = d, sums, device
        self._block = min(rows, rows_per_block(d, dtype))
        self._buffer: Tensor | None = None
        self._gram = UpperGram(d, dtype, device) if gram else None
        self._total: Tensor | None = None
        self._several = self._more = False
        self._squares: list[Tensor] = []

    def blocks(self, rows: int) -> Iterator[slice]:
        """The rows of a chunk, as many as a cache holds at a time, each for `multiply` before the next is asked for."""
        most, self._squares = rows_per_product(self._d), []
        self._several = rows > most
        for first in range(0, rows, most):
            end = min(rows, first + most)
            for start in range(first, end, self._block):
                self._more = start > first
                yield slice(start, min(end, start + self._block))
            self._end_product(fresh=first == 0)

    def _end_product(self, *, fresh: bool) -> None:
        if self._gram is None:
            return
        self._squares.append(self._gram.diagonal())
        if self._several:
            if self._total is None:
                self._total = empty(self._d, self._d, dtype=self._sums, device=self._device)
            self._gram.add_to(self._total.zero_() if fresh else self._total)

    def centred(self, x: Tensor, origin: Tensor | None) -> Tensor:
        """Rows minus the origin (None is zero), in this scratch's dtype: `x` itself if that is what it is."""
        if x.dtype == self.dtype and x.is_contiguous() and origin is None:
            return x
        if self._buffer is None:
            self._buffer = empty(self._block, self._d, dtype=self.dtype, device=self._device)
        b = self._buffer[: len(x)]
        if origin is None:
            return b.copy_(x)
        return torch.sub(x, origin, out=b) if x.dtype == self.dtype else b.copy_(x).sub_(origin)

    def multiply(self, b: Tensor) -> None:
        """Form the products of a block of centred rows."""
        if self._gram is None:
            self._squares.append(b.abs().square_().sum(0))
        else:
            self._gram.compute(b, more=self._more)

    def squares(self) -> Tensor:
        """`(d,)` sums of squares of the chunk, to be checked before `add_to`."""
        return added(self._squares, self._sums)

    def add_to(self, s_xx: Tensor, squares: Tensor) -> None:
        """Add the products of the chunk to the sums, in the dtype of the sums."""
        if self._gram is None:
            s_xx.add_(squares)
        elif self._several and self._total is not None:
            s_xx.add_(self._total)
        else:
            self._gram.add_to(s_xx)


def added(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The sum of the sums of several parts, in that dtype; of a single part it is what it was."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0, dtype=dtype)


@dataclass(frozen=True)
class Chunk:
    """Sums of one chunk about an origin.

    Attributes:
        n: Rows.
        products: `(d, 1 + k)` sums of conj(x) times weights, and times weighted z, both centred.
        sums: `(1 + k,)` sums of weights, and of weighted z, centred.
        s_zz: `(k, k)` sums of conj(z) times weighted z, centred.
        origin_x: `(d,)`.
        origin_z: `(k,)`.
        scratch: Holds the products of x with x.
        squares: `(d,)` their diagonal.
        eps: Machine epsilon of the dtype in which they were formed.
    """

    n: int
    products: Tensor
    sums: Tensor
    s_zz: Tensor
    origin_x: Tensor
    origin_z: Tensor
    scratch: Scratch
    squares: Tensor
    eps: float

    def is_finite(self) -> bool:
        """Whether no row held NaN or infinity and nothing overflowed: any such value shows in the sums."""
        found = (self.products, self.squares, self.sums, self.s_zz)
        # What is not finite makes a total that is not; one number is looked at sooner than many.
        total = complex(torch.stack([each.sum(dtype=self.sums.dtype) for each in found]).sum())
        if math.isfinite(total.real) and math.isfinite(total.imag):
            return True
        return all(bool(each.isfinite().all()) for each in found)


def sum_chunk(x: Tensor, z: Tensor, w: Tensor | None, origin_x: Tensor, origin_z: Tensor, scratch: Scratch) -> Chunk:
    """Sums of one chunk about the given origin.

    Args:
        x: `(n, d)` rows, at least one.
        z: `(n, k)` in float64 or complex128.
        w: `(n,)` weights in float64, or None.
        origin_x: `(d,)`, representable in the dtype of the scratch.
        origin_z: `(k,)`.
        scratch: Memory; overwritten by the next chunk.
    """
    dtype = scratch.dtype
    columns = z.new_ones(len(z), 1 + z.shape[1])
    c = torch.sub(z, origin_z, out=columns[:, 1:])
    thin = columns if w is None else columns * w[:, None]
    root = None if w is None else w.sqrt().to(dtype)[:, None]
    left = thin.to(dtype).mH
    about = origin_x.to(dtype) if bool(origin_x.any()) else None
    products = []
    for part in scratch.blocks(len(x)):
        b = scratch.centred(x[part], about)
        # BLAS is ten times faster with the thin factor on the left.
        products.append(left[:, part] @ b)
        scratch.multiply(b if root is None else b * root[part])
    thick, squares = added(products, z.dtype).to(z.dtype).mH, scratch.squares()
    s_zz, eps = thin[:, 1:].mH @ c, torch.finfo(dtype).eps
    return Chunk(len(x), thick, thin.sum(0), s_zz, origin_x, origin_z, scratch, squares, eps)


def is_near(x: Tensor, z: Tensor, origin_x: Tensor, origin_z: Tensor) -> bool:
    """Whether the present origins of x and z are surely suitable, as they are for most chunks; False asks for more.

    Args:
        x: `(n, d)` rows of the chunk.
        z: `(n, k)`.
        origin_x: `(d,)`.
        origin_z: `(k,)`.
    """
    step = max(1, len(x) // _SAMPLE)
    sample = torch.cat([x[::step].to(z.dtype), z[::step]], dim=1)
    each = sample.new_full((1, len(sample)), 1 / len(sample))  # A product is ten times faster than a mean.
    off = each @ sample
    spread = (each.real @ sample.sub_(off).abs().square_()).sqrt_()
    off = off[0] - torch.cat([origin_x, origin_z])
    # What is not finite is not far, here or there.
    return not bool((off.abs() > spread[0].mul_(_reach(len(sample)))).any())


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
    far = (mean - origin).abs() > _reach(len(sample)) * spread
    if not bool(far.any()):
        return origin
    near = _coarse(mean, spread).to(dtype).to(origin.dtype)
    near = torch.where(near.isfinite(), near, mean)
    return torch.where(far, near, origin)


def _reach(rows: int) -> float:
    """How many standard deviations a mean of so many rows is off before it is far."""
    return 1 + 3 / rows**0.5


def _coarse(mean: Tensor, spread: Tensor) -> Tensor:
    """The mean rounded to a grid of powers of two of a quarter of the spread or less.

    An origin of few digits keeps quantised data (half precision, integers) on its grid: sums of it are then
    exact in float32, where those about the mean itself would be rounded in the same direction row after row.
    """
    if mean.is_complex():
        return torch.complex(_coarse(mean.real, spread), _coarse(mean.imag, spread))
    grid = torch.exp2(spread.log2().floor() - 2)
    return torch.where((spread > 0) & (grid > 0), (mean / grid).round() * grid, mean)
