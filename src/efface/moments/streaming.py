"""First and second moments of a stream of pairs (x, z): weighted, mergeable, right by float64 standards.

Rows are centred on a running origin close to the mean before they are multiplied in their own precision, and
chunk results are summed in float64. So float32 data keeps float32 speed, and a mean that is 1e4 standard
deviations away costs no accuracy.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor

from efface._errors import InputError, NotFittedError
from efface._io import load_folder, reading, save_folder
from efface._memory import check_room, empty
from efface._text import shown
from efface._validate import check_device, check_dtype, check_finite, check_int, check_type, to_tensor
from efface.core.codec import dtype_of, fields_of
from efface.moments.chunk import Chunk, Scratch, compute_dtype, is_near, suitable_origin, sum_chunk
from efface.moments.gram import mirror, rows_per_chunk, rows_per_product
from efface.moments.rows import select_rows
from efface.moments.state import NUMBERS, TENSORS, check_state, state_shapes

_SMALL = 2**24
"""Products of fewer multiplications than this are formed in float64: it costs nothing to be exact there."""

SUMS = (torch.float64, torch.complex128)
LEAST = (torch.float32, torch.float64)


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
        self.x_dim, self.z_dim = check_int(x_dim, "x_dim", least=0), check_int(z_dim, "z_dim", least=0)
        self.least = check_dtype(least, LEAST, "least")
        if not isinstance(second, str) or second not in ("full", "diag"):
            raise InputError(f"second={shown(second)}: write 'full' or 'diag'")
        self.second: Literal["full", "diag"] = second
        place, held = check_device(device), check_dtype(dtype, SUMS)
        check_room(self._size() * held.itemsize, f"sums of x_dim={x_dim}, z_dim={z_dim}")

        @torch.inference_mode(False)  # Sums that are made there could not be added to outside.
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=held, device=place)

        self.n, self.weight, self.eps = 0, 0.0, 0.0
        # Sums are about an origin o: sum_x = sum w (x - o), s_xx = sum w conj(x - o) (x - o)^T (upper triangle).
        shapes = state_shapes(self.x_dim, self.z_dim, second)
        self.origin_x, self.origin_z, self.sum_x, self.sum_z = (zeros(*shapes[name]) for name in TENSORS[:4])
        # The scatter of x takes memory once there is something in it.
        self.s_xx = zeros(self.x_dim) if second == "diag" else zeros().expand(shapes["s_xx"])
        self.s_xz, self.s_zz = zeros(*shapes["s_xz"]), zeros(*shapes["s_zz"])

    def _size(self) -> int:
        """How many numbers the sums are."""
        return sum(math.prod(shape) for shape in state_shapes(self.x_dim, self.z_dim, self.second).values())

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
        z = to_tensor(z, "z") if z is not None and self.z_dim else None
        mask, weight = (None if v is None else to_tensor(v, k) for k, v in (("mask", mask), ("weight", weight)))
        return self.update_tensors(to_tensor(x, "x"), z, mask, weight)

    @torch.inference_mode(False)
    def update_tensors(
        self, x: Tensor, z: Tensor | None = None, mask: Tensor | None = None, weight: Tensor | None = None
    ) -> Self:
        """`update` with what is in tensors already."""
        rows, columns, weights, index = select_rows(x, z, mask, weight, x_dim=self.x_dim, z_dim=self.z_dim)
        size = rows_per_chunk(self.x_dim)
        before = self._state() if len(rows) > size else {}
        scratch: dict[torch.dtype, Scratch] = {}
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

    def _state(self) -> dict[str, Any]:
        tensors = {k: getattr(self, k) for k in TENSORS}
        copies = {k: empty(*v.shape, dtype=v.dtype, device=v.device).copy_(v) for k, v in tensors.items()}
        return copies | {k: getattr(self, k) for k in NUMBERS}

    def _take(self, x: Tensor, z: Tensor, w: Tensor | None, scratch: dict[torch.dtype, Scratch]) -> bool:
        """Add one chunk; nothing changes, and the answer is False, unless all its sums are finite."""
        dtype = compute_dtype(x.dtype, self.least)
        if min(len(x), rows_per_product(self.x_dim)) * self.x_dim**2 <= _SMALL:
            dtype = torch.promote_types(dtype, torch.float64)
        for name, values in (("x", x), ("z", z)):
            if values.is_complex() and not self.s_xx.is_complex():
                raise InputError(f"{name} is complex: make the fitter with dtype=torch.complex64 or torch.complex128")
        x, z = x.to(self.s_xz.device), z.to(self.s_xz.device, self.s_zz.dtype)
        w = None if w is None else w.to(self.s_xz.device, torch.float64)
        chunk = self._sum(x, z, w, dtype, scratch)
        finite = chunk.is_finite()
        if not finite:  # Perhaps an overflow of float32 alone.
            chunk = self._sum(x, z, w, torch.promote_types(dtype, torch.float64), scratch)
            finite = chunk.is_finite()
        if finite:
            self._commit(chunk)
        return finite

    def _sum(
        self, x: Tensor, z: Tensor, w: Tensor | None, dtype: torch.dtype, scratch: dict[torch.dtype, Scratch]
    ) -> Chunk:
        origin_x, origin_z = self._origins(x, z, dtype)
        if dtype != origin_x.dtype and not torch.equal(origin_x.to(dtype).to(origin_x.dtype), origin_x):
            dtype = torch.promote_types(dtype, torch.float64)
        if dtype not in scratch:
            full = self.second == "full"
            scratch[dtype] = Scratch(len(x), self.x_dim, dtype, self.s_zz.dtype, x.device, gram=full)
        return sum_chunk(x, z, w, origin_x, origin_z, scratch[dtype])

    def _origins(self, x: Tensor, z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What rows of x and z are centred on: the present origins, themselves, where these are near."""
        if is_near(x, z, self.origin_x, self.origin_z):
            return self.origin_x, self.origin_z
        square = self.s_xx.diagonal() if self.second == "full" else self.s_xx
        variance_x, variance_z = self._variance(square, self.sum_x), self._variance(self.s_zz.diagonal(), self.sum_z)
        origin_x = suitable_origin(x, self.origin_x, variance_x, dtype)
        return origin_x, suitable_origin(z, self.origin_z, variance_z, self.s_zz.dtype)

    def _variance(self, square: Tensor, total: Tensor) -> Tensor | None:
        if self.n == 0:
            return None
        weight = max(self.weight, 1e-300)
        return (square.real / weight - (total / weight).abs().square()).clamp_min(0)

    @torch.inference_mode(False)
    def _open(self) -> None:
        """Have memory of its own for the scatter of x, in which nothing was so far."""
        if self.s_xx.ndim == 2 and self.s_xx.numel() and self.s_xx.stride() == (0, 0):
            self.s_xx = torch.zeros(self.s_xx.shape, dtype=self.s_xx.dtype, device=self.s_xx.device)

    def _commit(self, chunk: Chunk) -> None:
        self._open()
        self._move_origin(chunk.origin_x, chunk.origin_z)
        chunk.scratch.add_to(self.s_xx, chunk.squares)
        self.sum_x += chunk.products[:, 0].conj()
        self.s_xz += chunk.products[:, 1:]
        self.sum_z += chunk.sums[1:]
        self.s_zz += chunk.s_zz
        self.n += chunk.n
        self.weight += float(chunk.sums[0].real)
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
        check_type(other, Moments, "what is merged")
        mine, theirs = ((m.x_dim, m.z_dim, m.second, m.s_xx.dtype) for m in (self, other))
        if mine != theirs:
            raise InputError(f"cannot merge moments of (x_dim, z_dim, second, dtype) {mine} with {theirs}")
        self._open()
        moved = other.copy(device=self.s_xx.device)
        if self.n == 0:
            self._move_origin(moved.origin_x, moved.origin_z)
        moved._move_origin(self.origin_x, self.origin_z)
        for name in TENSORS[2:]:
            getattr(self, name).add_(getattr(moved, name))
        self.n, self.weight, self.eps = self.n + other.n, self.weight + other.weight, max(self.eps, other.eps)
        return self

    @property
    def device(self) -> torch.device:
        """Where the sums live."""
        return self.s_xx.device

    def copy(self, device: str | torch.device | None = None) -> Moments:
        """An independent copy, on another device if one is given."""
        device = self.s_xx.device if device is None else check_device(device)
        new = Moments(
            self.x_dim, self.z_dim, second=self.second, device=device, dtype=self.s_xx.dtype, least=self.least
        )
        for name in TENSORS:
            setattr(new, name, getattr(self, name).to(device, copy=True))
        new.n, new.weight, new.eps = self.n, self.weight, self.eps
        return new

    def __add__(self, other: Moments) -> Moments:
        return self.copy().merge(other)

    def _with_columns(self, part: slice) -> Moments:
        """The moments of x with some columns of z, to read from: their memory is that of these, until the next update.

        Args:
            part: Which columns of z.
        """
        new = copy.copy(self)
        new.origin_z, new.sum_z, new.s_xz = self.origin_z[part], self.sum_z[part], self.s_xz[:, part]
        new.s_zz, new.z_dim = self.s_zz[part, part], len(new.origin_z)
        return new

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
        numbers = {k: torch.tensor(getattr(self, k), dtype=torch.int64 if k == "n" else torch.float64) for k in NUMBERS}
        return {k: getattr(self, k).clone() for k in TENSORS} | numbers

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Replace all that is kept by what `state_dict` returned.

        Raises:
            FormatError: If a tensor is missing or has another shape.
        """
        state = check_state(state, state_shapes(self.x_dim, self.z_dim, self.second), self.s_xx.dtype)
        for name in TENSORS:
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
        device = check_device(device)
        with reading(path):
            x_dim, z_dim = fields_of(config, x_dim=int, z_dim=int)
            second, dtype, least = fields_of(config, second=Literal["full", "diag"], dtype=str, least=str)
            # Before anything of a size that a file claims is made.
            check_state(tensors, state_shapes(x_dim, z_dim, second), dtype_of(dtype))
            new = cls(x_dim, z_dim, second=second, device=device, dtype=dtype_of(dtype), least=dtype_of(least))
            return new.load_state_dict(tensors)
