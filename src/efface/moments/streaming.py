"""First and second moments of a stream of pairs (x, z): weighted, mergeable, right by float64 standards.

Rows are centred on a running origin close to the mean before they are multiplied in their own precision, and
chunk results are summed in float64. So float32 data keeps float32 speed, and a mean that is 1e4 standard
deviations away costs no accuracy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from efface._errors import FormatError, InputError, NotFittedError
from efface._io import load_folder, save_folder
from efface._memory import empty
from efface._validate import check_finite, to_rows, to_tensor
from efface.moments.gram import UpperGram, mirror, rows_per_chunk

_SAMPLE = 64
_SMALL = 2**24
"""Products of fewer multiplications than this are formed in float64: it costs nothing to be exact there."""

_TENSORS = ("origin_x", "origin_z", "sum_x", "sum_z", "s_xx", "s_xz", "s_zz")
_NUMBERS = ("n", "weight", "eps")


def compute_dtype(dtype: torch.dtype, least: torch.dtype = torch.float32) -> torch.dtype:
    """The dtype in which rows of that dtype are multiplied: at least float32, float64 for wide integers."""
    wide = torch.float64 if dtype in (torch.int32, torch.int64) else torch.float32
    return torch.promote_types(torch.promote_types(dtype, wide), least)


class Moments:
    """Counts, means and scatters of pairs (x, z), gathered batch by batch.

    After any sequence of updates and merges, up to rounding,

        mean_x = sum_i w_i x_i / W,    scatter_xx = sum_i w_i conj(x_i - mean_x) (x_i - mean_x)^T,

    and likewise `scatter_xz` and `scatter_zz`, in any chunking, order or merge tree.

    Args:
        x_dim: Width d of x.
        z_dim: Width k of z; 0 if there is no z.
        second: `"full"` keeps the `(d, d)` scatter of x, `"diag"` its diagonal alone.
        device: Where the sums live; batches on other devices are moved chunk by chunk.
        dtype: `torch.float64`, or `torch.complex128` for complex data.
        least: Products are formed in this dtype at least (float32 by default, for float16, bfloat16 and
            float32 input; float64 input is multiplied in float64 anyway, and so are small batches).

    Attributes:
        n: Number of rows taken.
        weight: Their total weight W; n if no weights were given.
        eps: Relative rounding error of the products gathered: machine epsilon of the coarsest dtype used.

    Does not guarantee: bitwise equality between chunkings; float32 products are summed in another order.

    >>> m = Moments(2).update([[0.0, 1.0], [2.0, 1.0]])
    >>> m.n, m.mean_x.tolist(), m.scatter_xx.tolist()
    (2, [1.0, 1.0], [[2.0, 0.0], [0.0, 0.0]])
    """

    def __init__(
        self,
        x_dim: int,
        z_dim: int = 0,
        *,
        second: Literal["full", "diag"] = "full",
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float64,
        least: torch.dtype = torch.float32,
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.x_dim, self.z_dim, self.least = x_dim, z_dim, least
        self.second: Literal["full", "diag"] = second
        self.n, self.weight, self.eps = 0, 0.0, 0.0
        # Sums are about an origin o: sum_x = sum w (x - o), s_xx = sum w conj(x - o) (x - o)^T (upper triangle).
        self.origin_x, self.origin_z = zeros(x_dim), zeros(z_dim)
        self.sum_x, self.sum_z = zeros(x_dim), zeros(z_dim)
        self.s_xx = zeros(x_dim, x_dim) if second == "full" else zeros(x_dim)
        self.s_xz, self.s_zz = zeros(x_dim, z_dim), zeros(z_dim, z_dim)

    # ---------------------------------------------------------------------------------------- gathering

    def update(self, x: Any, z: Any = None, *, mask: Any = None, weight: Any = None) -> Self:
        """Take in a batch; on any error the statistics are as they were before the call.

        Args:
            x: `(..., d)` numbers: a tensor on any device, or an array. Empty batches change nothing.
            z: `(..., k)` numbers, if `z_dim > 0`.
            mask: `(...)` booleans: rows to take.
            weight: `(...)` frequencies, not negative: a row of weight 2 counts as two rows.

        Raises:
            InputError: If shapes disagree or a value is not finite (the rows are named).
        """
        rows, columns, weights, index = self._rows(x, z, mask, weight)
        size = rows_per_chunk(self.x_dim)
        before = self._state() if len(rows) > size else {}
        scratch: dict[torch.dtype, _Scratch] = {}
        try:
            for start in range(0, len(rows), size):
                part = slice(start, start + size)
                w = None if weights is None else weights[part]
                if not self._take(rows[part], columns[part], w, scratch):
                    check_finite(rows, "x", index=index)
                    check_finite(columns, "z", index=index)
                    raise InputError("x is too large: squares overflow float64; divide it by a constant first")
        except BaseException:
            self.__dict__.update(before)
            raise
        return self

    def _rows(self, x: Any, z: Any, mask: Any, weight: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Rows, columns, weights, and the numbers of the rows if some were left out."""
        x = to_tensor(x, "x")
        lead = tuple(x.shape[:-1])
        rows = to_rows(x, self.x_dim, "x")
        if z is None and self.z_dim:
            raise InputError(f"these moments keep a z of width {self.z_dim}: pass z")
        columns = _aligned(z, "z", lead, (self.z_dim,)) if self.z_dim else rows.new_zeros(len(rows), 0)
        weights = None if weight is None else _frequencies(_aligned(weight, "weight", lead, ()))
        if mask is None:
            return rows, columns, weights, None
        chosen = _aligned(mask, "mask", lead, ())
        if chosen.dtype != torch.bool:
            raise InputError(f"mask holds {chosen.dtype}, expected booleans: write mask.bool()")
        if weights is not None:
            weights = weights[chosen.to(weights.device)]
        rows, columns = rows[chosen.to(rows.device)], columns[chosen.to(columns.device)]
        return rows, columns, weights, chosen.nonzero().flatten()

    def _state(self) -> dict[str, Any]:
        tensors = {k: getattr(self, k) for k in _TENSORS}
        copies = {k: empty(*v.shape, dtype=v.dtype, device=v.device).copy_(v) for k, v in tensors.items()}
        return copies | {k: getattr(self, k) for k in _NUMBERS}

    def _take(self, x: Tensor, z: Tensor, w: Tensor | None, scratch: dict[torch.dtype, _Scratch]) -> bool:
        """Add one chunk; nothing changes, and the answer is False, unless all its sums are finite."""
        dtype = compute_dtype(x.dtype, self.least)
        if len(x) * self.x_dim**2 <= _SMALL:
            dtype = torch.promote_types(dtype, torch.float64)
        if dtype.is_complex and not self.s_xx.is_complex():
            raise InputError("x is complex: make the fitter with dtype=torch.complex64 or torch.complex128")
        x, z = x.to(self.s_xz.device), z.to(self.s_xz.device, self.s_zz.dtype)
        w = None if w is None else w.to(self.s_xz.device, torch.float64)
        chunk = self._chunk(x, z, w, dtype, scratch)
        if chunk is None:  # Not finite, or an overflow of float32.
            chunk = self._chunk(x, z, w, torch.promote_types(dtype, torch.float64), scratch)
        if chunk is not None:
            self._commit(chunk)
        return chunk is not None

    def _chunk(
        self, x: Tensor, z: Tensor, w: Tensor | None, dtype: torch.dtype, scratch: dict[torch.dtype, _Scratch]
    ) -> _Chunk | None:
        """Sums of one chunk about a suitable origin, or None if they are not finite."""
        origin_x = self._origin(x, self.origin_x, self.sum_x, self._square_x(), dtype)
        origin_z = self._origin(z, self.origin_z, self.sum_z, self.s_zz.diagonal(), self.s_zz.dtype)
        if dtype != origin_x.dtype and not torch.equal(origin_x.to(dtype).to(origin_x.dtype), origin_x):
            dtype = torch.promote_types(dtype, torch.float64)
        if dtype not in scratch:
            scratch[dtype] = _Scratch(len(x), self.x_dim, dtype, x.device, gram=self.second == "full")
        b = scratch[dtype].centred(x, origin_x)
        c = z - origin_z
        thin = torch.cat([c.new_ones(len(c), 1), c], dim=1)
        thin = thin if w is None else thin * w[:, None]
        # One thin product gives the sums of x and its products with z; any NaN or inf in x shows in them.
        # (BLAS is ten times faster with the thin factor on the left.)
        products = (thin.to(dtype).mH @ b).mH.to(self.s_xz.dtype)
        if w is not None:
            b.mul_(w.sqrt().to(dtype)[:, None])
        squares = scratch[dtype].squares(b)
        finite = products.isfinite().all() & squares.isfinite().all() & thin.sum().isfinite()
        if not bool(finite):
            return None
        eps = torch.finfo(dtype).eps
        return _Chunk(len(x), thin, c, products, origin_x, origin_z, scratch[dtype], squares, eps)

    def _square_x(self) -> Tensor:
        return self.s_xx.diagonal() if self.second == "full" else self.s_xx

    def _origin(self, x: Tensor, origin: Tensor, total: Tensor, square: Tensor, dtype: torch.dtype) -> Tensor:
        """The present origin, moved in those features where this chunk is far from it.

        Far is more than one standard deviation (of a sample of the chunk, or of the stream so far) beyond
        what the sample's own error explains.
        """
        sample = x[:: max(1, len(x) // _SAMPLE)].to(origin.dtype)
        mean = sample.mean(0)
        mean = torch.where(mean.isfinite(), mean, origin)
        spread = (sample - mean).abs().square().mean(0).nan_to_num()
        if self.n and self.weight:
            variance = square.real / self.weight - (total / self.weight).abs().square()
            spread = torch.maximum(variance.clamp_min(0), spread)
        far = (mean - origin).abs() > (1 + 3 / len(sample) ** 0.5) * spread.sqrt()
        if self.n and not bool(far.any()):
            return origin
        near = _coarse(mean, spread.sqrt()).to(dtype).to(origin.dtype)
        near = torch.where(near.isfinite(), near, mean)
        return torch.where(far, near, origin) if self.n else near

    def _commit(self, chunk: _Chunk) -> None:
        self._move_origin(chunk.origin_x, chunk.origin_z)
        chunk.scratch.add_to(self.s_xx, chunk.squares)
        self.sum_x += chunk.products[:, 0].conj()
        self.s_xz += chunk.products[:, 1:]
        self.sum_z += chunk.thin[:, 1:].sum(0)
        self.s_zz += chunk.thin[:, 1:].mH @ chunk.c
        self.n += chunk.n
        self.weight += float(chunk.thin[:, 0].real.sum())
        self.eps = max(self.eps, chunk.eps)

    def _move_origin(self, origin_x: Tensor, origin_z: Tensor) -> None:
        """Re-express the sums about another origin, exactly up to float64 rounding."""
        if origin_x is self.origin_x and origin_z is self.origin_z:
            return
        dx, dz = origin_x - self.origin_x, origin_z - self.origin_z
        if bool(dx.any()):
            half = self.sum_x - dx * (self.weight / 2)
            if self.second == "full":
                self.s_xx.addr_(half.conj(), dx, alpha=-1).addr_(dx.conj(), half, alpha=-1)
            else:
                self.s_xx -= 2 * (half.conj() * dx).real
        self.s_xz.addr_(self.sum_x.conj(), dz, alpha=-1).addr_(dx.conj(), self.sum_z, alpha=-1)
        self.s_xz.addr_(dx.conj(), dz, alpha=self.weight)
        half = self.sum_z - dz * (self.weight / 2)
        self.s_zz.addr_(half.conj(), dz, alpha=-1).addr_(dz.conj(), half, alpha=-1)
        self.sum_x, self.sum_z = self.sum_x - dx * self.weight, self.sum_z - dz * self.weight
        self.origin_x, self.origin_z = origin_x.clone(), origin_z.clone()

    # ------------------------------------------------------------------------------------------ merging

    def merge(self, other: Moments) -> Self:
        """Take in all that `other` has seen; `other` is unchanged.

        Raises:
            InputError: If the two keep different things.
        """
        mine, theirs = ((m.x_dim, m.z_dim, m.second, m.s_xx.dtype) for m in (self, other))
        if mine != theirs:
            raise InputError(f"cannot merge moments of (x_dim, z_dim, second, dtype) {mine} with {theirs}")
        moved = other.copy(device=self.s_xx.device)
        if self.n == 0:
            self._move_origin(moved.origin_x, moved.origin_z)
        moved._move_origin(self.origin_x, self.origin_z)
        for name in _TENSORS[2:]:
            getattr(self, name).add_(getattr(moved, name))
        self.n, self.weight, self.eps = self.n + other.n, self.weight + other.weight, max(self.eps, other.eps)
        return self

    def copy(self, device: str | torch.device | None = None) -> Moments:
        """An independent copy, on another device if one is given."""
        device = self.s_xx.device if device is None else torch.device(device)
        new = Moments(
            self.x_dim, self.z_dim, second=self.second, device=device, dtype=self.s_xx.dtype, least=self.least
        )
        for name in _TENSORS:
            setattr(new, name, getattr(self, name).to(device, copy=True))
        new.n, new.weight, new.eps = self.n, self.weight, self.eps
        return new

    def __add__(self, other: Moments) -> Moments:
        return self.copy().merge(other)

    # ---------------------------------------------------------------------------------------- reading

    @property
    def mean_x(self) -> Tensor:
        """`(d,)` weighted mean of x; zeros before the first update."""
        return self.origin_x + self.sum_x / self.weight if self.weight else self.origin_x.clone()

    @property
    def mean_z(self) -> Tensor:
        """`(k,)` weighted mean of z; zeros before the first update."""
        return self.origin_z + self.sum_z / self.weight if self.weight else self.origin_z.clone()

    @property
    def scatter_xx(self) -> Tensor:
        """`(d, d)` Hermitian scatter of x about its mean, or its `(d,)` diagonal if `second="diag"`."""
        if self.second == "diag":
            return (self.s_xx - self.sum_x.abs().square() / max(self.weight, 1e-300)).real.clamp_min(0)
        return mirror(self.upper_scatter_xx())

    def upper_scatter_xx(self) -> Tensor:
        """A new `(d, d)` tensor with the upper triangle of `scatter_xx`, and zeros below."""
        scatter = empty(*self.s_xx.shape, dtype=self.s_xx.dtype, device=self.s_xx.device).copy_(self.s_xx)
        scatter.addr_(self.sum_x.conj(), self.sum_x, alpha=-1 / max(self.weight, 1e-300)).triu_()
        scatter.diagonal().copy_(scatter.diagonal().real.clamp_min(0))
        return scatter

    @property
    def scatter_xz(self) -> Tensor:
        """`(d, k)` cross-scatter `sum w conj(x - mean_x) (z - mean_z)^T`."""
        return torch.addr(self.s_xz, self.sum_x.conj(), self.sum_z, alpha=-1 / max(self.weight, 1e-300))

    @property
    def scatter_zz(self) -> Tensor:
        """`(k, k)` Hermitian scatter of z about its mean."""
        scatter = torch.addr(self.s_zz, self.sum_z.conj(), self.sum_z, alpha=-1 / max(self.weight, 1e-300))
        scatter.diagonal().copy_(scatter.diagonal().real.clamp_min(0))
        return (scatter + scatter.mH) / 2

    def degrees_of_freedom(self) -> float:
        """`W - 1`, the divisor of an unbiased covariance.

        Raises:
            NotFittedError: If fewer than two rows were seen.
        """
        if self.n < 2 or self.weight <= 1:
            raise NotFittedError(
                f"only {self.n} rows (weight {self.weight:g}) were seen, at least two are needed: call update first"
            )
        return self.weight - 1

    # ------------------------------------------------------------------------------------------- files

    def state_dict(self) -> dict[str, Tensor]:
        """All that is kept, as tensors; `load_state_dict` goes on from it bit for bit."""
        numbers = {
            k: torch.tensor(getattr(self, k), dtype=torch.int64 if k == "n" else torch.float64) for k in _NUMBERS
        }
        return {k: getattr(self, k).clone() for k in _TENSORS} | numbers

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Replace all that is kept by what `state_dict` returned.

        Raises:
            FormatError: If a tensor is missing or has another shape.
        """
        for name in _TENSORS:
            mine = getattr(self, name)
            if name not in state or state[name].shape != mine.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise FormatError(f"state has {found} for {name}, expected shape {tuple(mine.shape)}")
        if missing := [k for k in _NUMBERS if k not in state]:
            raise FormatError(f"state lacks {', '.join(missing)}: expected what state_dict() returned")
        for name in _TENSORS:
            setattr(self, name, state[name].to(getattr(self, name), copy=True))
        self.n, self.weight, self.eps = int(state["n"]), float(state["weight"]), float(state["eps"])
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, atomically: `config.json` and `model.safetensors`."""
        config = {"type": "Moments", "x_dim": self.x_dim, "z_dim": self.z_dim, "second": self.second}
        dtypes = {"dtype": str(self.s_xx.dtype)[6:], "least": str(self.least)[6:]}
        save_folder(path, config | dtypes, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Moments:
        """Read what `save` wrote."""
        config, tensors = load_folder(path, expect="Moments")
        dtypes = {k: getattr(torch, config[k]) for k in ("dtype", "least")}
        new = cls(config["x_dim"], config["z_dim"], second=config["second"], device=device, **dtypes)
        return new.load_state_dict(tensors)


class _Scratch:
    """Memory for one chunk, reused by the chunks of an update: fresh pages cost as much as the arithmetic."""

    def __init__(self, rows: int, d: int, dtype: torch.dtype, device: torch.device, *, gram: bool) -> None:
        self.buffer = empty(rows, d, dtype=dtype, device=device)
        self.gram = UpperGram(d, dtype, device) if gram else None

    def centred(self, x: Tensor, origin: Tensor) -> Tensor:
        b, origin = self.buffer[: len(x)], origin.to(self.buffer.dtype)
        return torch.sub(x, origin, out=b) if x.dtype == b.dtype else b.copy_(x).sub_(origin)

    def squares(self, b: Tensor) -> Tensor:
        return b.abs().square_().sum(0) if self.gram is None else self.gram.compute(b)

    def add_to(self, s_xx: Tensor, squares: Tensor) -> None:
        if self.gram is None:
            s_xx.add_(squares)
        else:
            self.gram.add_to(s_xx)


@dataclass(frozen=True)
class _Chunk:
    n: int
    thin: Tensor
    c: Tensor
    products: Tensor
    origin_x: Tensor
    origin_z: Tensor
    scratch: _Scratch
    squares: Tensor
    eps: float


def _coarse(mean: Tensor, spread: Tensor) -> Tensor:
    """The mean rounded to a grid of powers of two of a quarter of the spread or less.

    An origin of few digits keeps quantised data (half precision, integers) on its grid: sums of it are then
    exact in float32, where those about the mean itself would be rounded in the same direction row after row.
    """
    if mean.is_complex():
        return torch.complex(_coarse(mean.real, spread), _coarse(mean.imag, spread))
    grid = torch.exp2(spread.log2().floor() - 2)
    return torch.where((spread > 0) & (grid > 0), (mean / grid).round() * grid, mean)


def _aligned(value: Any, name: str, lead: tuple[int, ...], tail: tuple[int, ...]) -> Tensor:
    tensor = to_tensor(value, name)
    if tuple(tensor.shape) != lead + tail:
        wanted = lead + tail
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}, expected {wanted} to go with x of shape {lead + ('d',)}"
        )
    return tensor.reshape(-1, *tail)


def _frequencies(weight: Tensor) -> Tensor:
    check_finite(weight, "weight")
    if bool((weight < 0).any()):
        raise InputError("weight has negative values: weights are frequencies, 0 drops a row")
    return weight
