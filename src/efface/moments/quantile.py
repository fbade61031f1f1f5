"""Empirical distribution functions, their inverses, and per-class quantile tables of each coordinate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._memory import check_room
from efface._validate import check_finite, check_int, to_tensor
from efface.moments.grouping import groupby


def cdf(x: float | Tensor, q: Tensor) -> Tensor:
    """The share of `q` that is at most `x`: the empirical distribution function (ECDF) of `q` at `x`.

    Equivalent to `scipy.stats.ecdf(q).cdf.evaluate(x)`.

    Args:
        x: A number, or points `(..., m)`; any shape if `q` has one dimension.
        q: Sorted sample `(n,)`, or a batch `(..., n)` whose leading dimensions broadcast with those of `x`.

    Returns:
        Values in [0, 1] of the shape of `x`, broadcast with the batch of `q`; float64 if `x` or `q` is, else
        float32. NaN where `x` is NaN.

    Raises:
        InputError: If `q` is empty or not sorted.

    >>> cdf(torch.tensor([0.0, 1.0, 2.5]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([0.0000, 0.2500, 0.5000])
    >>> cdf(1.5, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([0.5000, 0.0000])
    """
    q = _sample(q)
    points = _points(x, q)
    dtype = torch.promote_types(points.dtype, q.dtype)
    at, sample, shape = _broadcast(points.to(dtype), q.to(dtype))
    # side="right" counts ties with x itself, as an ECDF must.
    ranks = torch.searchsorted(sample.contiguous(), at.contiguous(), side="right")
    p = ranks.to(_float(dtype)) / q.shape[-1]
    return p.masked_fill(at.isnan(), torch.nan).reshape(shape)


def icdf(p: float | Tensor, q: Tensor) -> Tensor:
    """The pseudo-inverse of `cdf`: the smallest value of `q` at which the ECDF of `q` is at least `p`.

    So `icdf(cdf(x, q), q) <= x` for every x that is at least `q.min()`, and `cdf(icdf(p, q), q) >= p`. At
    `p <= 0` it is `q.min()` (not minus infinity), at `p >= 1` it is `q.max()`.

    Args:
        p: A number, or probabilities `(..., m)`; any shape if `q` has one dimension.
        q: Sorted sample `(n,)`, or a batch `(..., n)` whose leading dimensions broadcast with those of `p`.

    Returns:
        Values of `q`, in its dtype, of the shape of `p`, broadcast with the batch of `q`.

    Raises:
        InputError: If `q` is empty or not sorted, or `p` has NaN values.

    >>> icdf(torch.tensor([0.0, 0.25, 0.3, 1.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([1., 1., 2., 4.])
    """
    q = _sample(q)
    probability = _points(p, torch.empty((), dtype=torch.float64))
    if probability.isnan().any():
        raise InputError("p has NaN values: there is no quantile of NaN")
    at, sample, shape = _broadcast(probability.to(q.device), q)
    n = q.shape[-1]
    # The values that `cdf` can take, rounded as it rounds them: the inverse is then exact at each of them.
    levels = torch.arange(1, n + 1, device=q.device).to(_float(at.dtype)) / n
    ranks = torch.searchsorted(levels, at.to(levels.dtype).contiguous()).clamp_max(n - 1)
    return sample.expand(*ranks.shape[:-1], n).gather(-1, ranks).reshape(shape)


class QuantileNormalizer:
    """Matches the distribution of each coordinate between classes by tables of its quantiles.

    For each class and coordinate the quantiles at `linspace(0, 1, num_bins)` are kept. Called on data, it
    returns the probability integral transform of each class: every coordinate of every class is then uniform
    on [0, 1] (up to the bins), so that no single coordinate tells the class.

    Args:
        x: Data; entries along `dim` are samples, all other dimensions are coordinates.
        z: `(n,)` integer labels, where n is the length of `x` along `dim`.
        num_bins: Number of quantiles to keep, at least 2.
        dim: Dimension of the samples.

    Attributes:
        lut: `(k, ..., num_bins)` sorted quantiles for each class and coordinate; float32 for half precision.
        labels: The k labels seen, ascending: `lut[i]` belongs to `labels[i]`.
        dim: Dimension of the samples.

    Raises:
        InputError: If x is empty or not finite, or the labels do not fit.

    Does not guarantee: anything about coordinates taken together; classes may still differ in correlations.
    Held-out data is uniform only as far as the sample quantiles are right.

    >>> x, z = torch.tensor([[1.0], [2.0], [3.0], [10.0], [20.0], [30.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> q = QuantileNormalizer(x, z, num_bins=3)
    >>> q(x, z).flatten()
    tensor([0.3333, 0.6667, 1.0000, 0.3333, 0.6667, 1.0000])
    >>> q.transport(x[:3], z[:3], 1).flatten()
    tensor([10., 20., 30.])
    """

    lut: Tensor
    labels: tuple[int, ...]
    dim: int

    def __init__(self, x: Tensor, z: Tensor, num_bins: int = 256, dim: int = 0) -> None:
        x = to_tensor(x, "x")
        if check_int(num_bins, "num_bins") < 2:
            raise InputError(f"num_bins must be at least 2, got {num_bins}: the least and the greatest value")
        if x.is_complex() or x.numel() == 0:
            raise InputError(f"x is {x.dtype} of shape {tuple(x.shape)}, expected real numbers, at least one")
        grouped = groupby(x, z, dim=dim)
        check_finite(x.movedim(dim, 0), "x")
        cells = x.numel() // x.shape[dim] * len(grouped)
        check_room(8 * cells * num_bins, f"{num_bins} quantiles of {cells} classes and coordinates")
        self.dim = dim
        self.labels = tuple(grouped.labels)
        self.lut = torch.stack([_quantiles(group.movedim(dim, -1), num_bins) for group in grouped.groups])

    @property
    def num_bins(self) -> int:
        """Number of quantiles for each class and coordinate."""
        return self.lut.shape[-1]

    def cdf(self, z: int, x: Tensor) -> Tensor:
        """The distribution function of class `z`, coordinate by coordinate.

        Args:
            z: Label.
            x: Data laid out as in the fit, or one sample without the dimension `dim`.

        Returns:
            Values in [0, 1] of the shape of `x`.
        """
        return self._at(cdf, x, z)

    def sample(self, z: int, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` samples along `dim` with the quantiles of class `z`; coordinates are independent."""
        check_int(n, "n", least=0)
        table = self._table(z)
        p = torch.rand(*table.shape[:-1], n, dtype=table.dtype, device=table.device, generator=generator)
        return icdf(p, table).movedim(-1, self.dim)

    def transport(self, x: Tensor, source_z: int | Tensor, target_z: int) -> Tensor:
        """Move `x` from the classes `source_z` to `target_z`, quantile to quantile.

        Args:
            x: Data laid out as in the fit.
            source_z: A label, or one for each sample.
            target_z: A label.

        Returns:
            Tensor of the shape and dtype of `x` (float32 for integers).
        """

        def move(label: int, group: Tensor) -> Tensor:
            return self._at(icdf, self._at(cdf, group, label), target_z)

        self._table(target_z)
        return self._by_class(move, to_tensor(x, "x"), source_z)

    def __call__(self, x: Tensor, z: int | Tensor) -> Tensor:
        """The probability integral transform of each sample under its class.

        Args:
            x: Data laid out as in the fit.
            z: A label, or one for each sample.

        Returns:
            Values in [0, 1] of the shape and dtype of `x` (float32 for integers).
        """
        return self._by_class(lambda label, group: self._at(cdf, group, label), to_tensor(x, "x"), z)

    def _by_class(self, fn: Any, x: Tensor, z: int | Tensor) -> Tensor:
        dtype = x.dtype if x.is_floating_point() else torch.float32
        if isinstance(z, int) or to_tensor(z, "z").ndim == 0:
            return fn(_label(z), x).to(dtype)
        if x.numel() == 0:
            return x.to(dtype, copy=True)
        return groupby(x, z, dim=self.dim).map(fn).coalesce().to(dtype)

    def _at(self, fn: Any, x: Tensor, z: int) -> Tensor:
        """`fn(x, table of z)` with samples last, as `cdf` and `icdf` want them."""
        table, x = self._table(z), to_tensor(x, "x")
        single = x.ndim == table.ndim - 1
        rows = x[..., None] if single or x.ndim == 0 else x.movedim(self.dim, -1)
        if rows.shape[:-1] != table.shape[:-1]:
            raise InputError(
                f"x has shape {tuple(x.shape)}, expected coordinates {tuple(table.shape[:-1])} and samples "
                f"along dim {self.dim}, as in the fit"
            )
        out = fn(rows, table)
        return out[..., 0] if single else out.movedim(-1, self.dim)

    def _table(self, z: int) -> Tensor:
        z = _label(z)
        if z not in self.labels:
            raise InputError(f"label {z} was not seen in the fit: the labels are {', '.join(map(str, self.labels))}")
        return self.lut[self.labels.index(z)]


def _label(z: Any) -> int:
    """One label as a Python integer."""
    label = to_tensor(z, "z")
    if label.numel() != 1 or label.is_floating_point() or label.is_complex():
        raise InputError(f"z is {type(z).__name__} of shape {tuple(label.shape)}, expected one integer label")
    return int(label)


def _quantiles(x: Tensor, num_bins: int) -> Tensor:
    """Linearly interpolated quantiles of `(..., n)` at `linspace(0, 1, num_bins)`, never decreasing.

    Equivalent to `torch.quantile`, by a sort: without its limit on size, and in every dtype.
    """
    ordered = x.to(torch.promote_types(x.dtype, torch.float32)).sort(dim=-1).values
    position = torch.linspace(0, x.shape[-1] - 1, num_bins, dtype=torch.float64, device=x.device)
    below = position.floor().long()
    above = position.ceil().long()
    low, high = ordered[..., below], ordered[..., above]
    t = (position - below).to(ordered.dtype)
    # Rounding may leave [low, high] or step back by one unit in the last place; a table must be sorted.
    between = torch.maximum(torch.minimum(low * (1 - t) + high * t, high), low)
    return between.cummax(dim=-1).values


def _sample(q: Any) -> Tensor:
    q = to_tensor(q, "q")
    if q.is_complex():
        raise InputError("q is complex, and complex numbers have no order: pass its real part, or its absolute value")
    if q.ndim == 0 or q.shape[-1] == 0:
        raise InputError(f"q has shape {tuple(q.shape)}, expected a sample (..., n) with n of at least 1")
    if not (q[..., 1:] >= q[..., :-1]).all():
        raise InputError("q is not sorted along its last dimension, or has NaN values: pass q.sort().values")
    return q


def _points(x: Any, like: Tensor) -> Tensor:
    """`x` as a tensor; a bare number takes the dtype of the sample, as in torch arithmetic."""
    if isinstance(x, int | float):
        return torch.tensor(x, dtype=_float(like.dtype), device=like.device)
    points = to_tensor(x, "x").to(like.device)
    if points.is_complex():
        raise InputError("x is complex, and complex numbers have no order: pass its real part, or its absolute value")
    return points


def _float(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.float32


def _broadcast(x: Tensor, q: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Queries `(..., m)` and samples `(..., n)` with the same leading dimensions; the shape of the answer."""
    if q.ndim == 1:
        return x.reshape(-1), q, x.shape
    if x.ndim == 0:
        return x.expand(*q.shape[:-1], 1), q, q.shape[:-1]
    try:
        lead = torch.broadcast_shapes(x.shape[:-1], q.shape[:-1])
    except RuntimeError as error:
        raise InputError(
            f"points {tuple(x.shape)} and samples {tuple(q.shape)} do not broadcast before the last dimension"
        ) from error
    at = x.expand(*lead, x.shape[-1])
    return at, q.expand(*lead, q.shape[-1]), at.shape
