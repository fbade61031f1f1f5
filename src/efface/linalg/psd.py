"""Whitening factors of positive semidefinite matrices, with rank rules that are named and relative.

Everything is decided on the *correlation* matrix, so that no rule depends on the units of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from efface._memory import empty

Route = Literal["cholesky", "eigh"]

_PIVOT_MARGIN = 100.0
"""A Cholesky pivot must exceed the rounding of the statistics by this factor to count as real."""

_GRAIN_MARGIN = 4.0
"""A direction's share of variance must exceed the rounding of the data in it by this factor to count as real."""


@dataclass(frozen=True)
class Factor:
    """A factor F `(d, r)` of full column rank with `sigma = F F^H`, and its left inverse.

    Attributes:
        scale: `(d,)` standard deviations; 1 for constant features.
        basis: Orthonormal `(d, r)` basis of the range if `sigma` is singular, else None.
        triangle: `(r, r)` upper triangle R with `F = diag(scale) R^H` or `F = basis R^H`.
        rank: r.
        route: How it was found.
    """

    scale: Tensor
    basis: Tensor | None
    triangle: Tensor
    rank: int
    route: Route

    def unwhiten(self, a: Tensor) -> Tensor:
        """`F a` for `a` of shape `(r, k)`."""
        # BLAS is ten times faster with the thin factor on the left.
        a = (a.mH @ self.triangle).mH
        return a * self.scale[:, None] if self.basis is None else self.basis @ a

    def whiten(self, b: Tensor) -> Tensor:
        """`F^+ b` for `b` of shape `(d, k)`: zero on the orthogonal complement of the range of sigma."""
        b = b / self.scale[:, None] if self.basis is None else self.basis.mH @ b
        return torch.linalg.solve_triangular(self.triangle.mH, b, upper=False)

    def whiten_adjoint(self, a: Tensor) -> Tensor:
        """`a^H F^+` for `a` of shape `(r, k)`: `(k, d)`."""
        rows = torch.linalg.solve_triangular(self.triangle, a, upper=True).mH
        return rows / self.scale if self.basis is None else rows @ self.basis.mH


def factor_(
    sigma: Tensor,
    *,
    eps: float,
    least: float = 0.0,
    max_rank: int | None = None,
    noise: Tensor | None = None,
) -> Factor:
    """Factor a covariance matrix: by Cholesky if it is safely positive definite, else by eigenvalues.

    Rank rules, both on the correlation matrix C: *pivot* (Cholesky is used if no squared pivot, the share of
    a feature's variance that the others before it leave unexplained, is under `100 eps`, `least`, or `d` times
    the epsilon of float64, and the smallest eigenvalue, estimated, is under neither of `eps` and the last two)
    and *eigenvalue* (those above `lambda_max` times `8 sqrt(d) eps` and `least` are kept, at most `max_rank`).
    With `noise`, a pivot must exceed `100 max(noise)`, and the eigenvalue of a direction v `4 v^2 . noise`: what
    lies below is the rounding of the data themselves.

    Args:
        sigma: `(d, d)` Hermitian, float64 or complex128, of which only the upper triangle is read. It is
            overwritten: at large d fresh memory costs as much as the arithmetic.
        eps: Relative rounding error of its entries: that of the dtype in which products were summed.
        least: Shares of variance under this are taken for rounding whatever `eps` is.
        max_rank: Largest possible rank, if known (n - 1 for n samples).
        noise: `(d,)` share of each feature's variance that is rounding of the data, if known.

    Returns:
        A `Factor`; constant features (zero variance) count as full rank with unit scale: nothing
        correlates with them.
    """
    d = sigma.shape[-1]
    variance = sigma.diagonal().real.clone()
    scale = torch.where(variance > 0, variance, 1.0).sqrt()
    varying = int((variance > 0).sum())
    correlation = sigma.div_(scale).div_(scale[:, None])
    correlation.diagonal().fill_(1.0)
    if max_rank is None or max_rank >= varying:
        triangle, info = _cholesky(correlation)
        grain = 0.0 if noise is None or not varying else float(noise.max())
        rounding = max(least, d * torch.finfo(torch.float64).eps)
        pivots = max(rounding, _PIVOT_MARGIN * eps, _PIVOT_MARGIN * grain)
        # All pivots may be moderate and C singular: where its null vector hardly touches the last of the features.
        bottom = max(rounding, eps, _GRAIN_MARGIN * grain)
        positive = int(info) == 0 and float(triangle.diagonal().real.square().min()) > pivots
        if positive and _smallest_eigenvalue(triangle) > bottom:
            return Factor(scale, None, triangle, d, "cholesky")
    correlation.diagonal().copy_(torch.where(variance > 0, 1.0, 0.0))
    return _factor_singular(correlation, scale, max(8 * d**0.5 * eps, least), max_rank, noise)


def _smallest_eigenvalue(triangle: Tensor) -> float:
    """Estimate of the smallest eigenvalue of `R^H R`, from above: one step of inverse iteration from 4 starts.

    It is sharp where one eigenvalue is far below the others, which is what it is for.
    """
    source = torch.Generator().manual_seed(0)
    start = torch.randn(len(triangle), 4, generator=source, dtype=torch.float64, device="cpu")
    start = start.to(triangle)
    half = torch.linalg.solve_triangular(triangle.mH, start, upper=False)
    vector = torch.linalg.solve_triangular(triangle, half, upper=True)
    again = torch.linalg.solve_triangular(triangle.mH, vector / torch.linalg.vector_norm(vector, dim=0), upper=False)
    return 1 / float(torch.linalg.vector_norm(again, dim=0).max()) ** 2


def _cholesky(a: Tensor) -> tuple[Tensor, Tensor]:
    """Upper triangle R with `a = R^H R`, from the upper triangle of `a`, and LAPACK's info."""
    if a.is_complex() or a.device.type != "cpu":
        return torch.linalg.cholesky_ex(a, upper=True)
    # Transposed, both sides have LAPACK's own layout, and nothing is copied.
    R, info = empty(*a.shape, dtype=a.dtype), torch.empty((), dtype=torch.int32, device=a.device)
    torch.linalg.cholesky_ex(a.mT, out=(R.mT, info))
    return R, info


def _factor_singular(
    correlation: Tensor, scale: Tensor, tol: float, max_rank: int | None, noise: Tensor | None
) -> Factor:
    d = len(scale)
    eigenvalues, vectors = torch.linalg.eigh(correlation, UPLO="U")
    real = eigenvalues > eigenvalues[-1] * tol
    if noise is not None:
        real &= eigenvalues > _GRAIN_MARGIN * (vectors.abs().square() * noise[:, None]).sum(dim=0)
    # All above the least that is taken for rounding: directions are kept by their size.
    rank = d - int((~real).nonzero().amax()) - 1 if bool((~real).any()) else d
    rank = max(min(rank, d if max_rank is None else max_rank), 1)
    root = vectors[:, -rank:] * eigenvalues[-rank:].clamp_min(0).sqrt() * scale[:, None]
    # An orthonormal basis gives F^+ the meaning of a pseudo-inverse in the original units: it vanishes on the
    # orthogonal complement of the range of sigma. Reversing the columns turns QR into "QL".
    Q, R = torch.linalg.qr(root.flip(1))
    return Factor(scale, Q.flip(1), R.flip(0, 1).mH, rank, "eigh")
