"""The projection that erases a concept: oblique (LEACE) or orthogonal, in low-rank form, with diagnostics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from efface.linalg.psd import Factor


@dataclass(frozen=True)
class Projection:
    """`P = I - left @ right`, and what was kept and dropped on the way.

    Attributes:
        left: `(d, r)`.
        right: `(r, d)`.
        correlations: Canonical correlations kept, descending (for an orthogonal projection: singular values
            of the cross-covariance in units of the mean standard deviation of x).
        dropped: Those under the tolerance, taken for rounding.
    """

    left: Tensor
    right: Tensor
    correlations: Tensor
    dropped: Tensor


def rank_tolerance(eps: float, dim: int) -> float:
    """Canonical correlations up to this are rounding: `16 eps sqrt(dim)`."""
    return 16 * eps * dim**0.5


def concept_whitener(sigma_zz: Tensor) -> Tensor:
    """`W` `(k, r)` with `W^H sigma_zz W = I` on the range of `sigma_zz`, whatever the scales of its columns.

    Constant columns and exact linear dependencies (the last column of a complete one-hot) are left out.
    """
    variance = sigma_zz.diagonal().real
    scale = torch.where(variance > 0, variance, 1.0).sqrt()
    eigenvalues, vectors = torch.linalg.eigh(sigma_zz / scale / scale[:, None])
    keep = eigenvalues > eigenvalues[-1] * (100 * len(scale) * torch.finfo(torch.float64).eps)
    return vectors[:, keep] * eigenvalues[keep].rsqrt() / scale[:, None]


def oblique_projection(x_factor: Factor, sigma_xz: Tensor, sigma_zz: Tensor, *, tol: float) -> Projection:
    """The LEACE projection `P = I - F U U^H F^+` with U the left singular vectors of `F^+ sigma_xz W_z`.

    With F any factor of sigma_xx, `F^+` is a whitening; the result does not depend on which (two factors of
    one matrix differ by an orthogonal map, which cancels), so a Cholesky factor and triangular solves of k
    columns serve as well as the symmetric square root of the paper.

    Args:
        x_factor: Factor of sigma_xx `(d, d)`.
        sigma_xz: `(d, k)`.
        sigma_zz: `(k, k)`.
        tol: Canonical correlations up to this are dropped.

    Source: arXiv:2306.03819, Theorem 4.2.
    """
    U, kept, dropped = _left_vectors(x_factor.whiten(sigma_xz @ concept_whitener(sigma_zz)), tol)
    return Projection(x_factor.unwhiten(U), x_factor.whiten_adjoint(U), kept, dropped)


def orthogonal_projection(sigma_xz: Tensor, sigma_zz: Tensor, x_variance: Tensor, *, tol: float) -> Projection:
    """The orthogonal projection with kernel `colspace(sigma_xz)`.

    Args:
        sigma_xz: `(d, k)`.
        sigma_zz: `(k, k)`.
        x_variance: `(d,)`: gives the singular values a unit.
        tol: Singular values up to this, in that unit, are dropped.

    Source: centred SAL, arXiv:2203.07893; mean projection for categories.
    """
    unit = x_variance.mean().clamp_min(torch.finfo(x_variance.dtype).tiny).sqrt()
    U, kept, dropped = _left_vectors(sigma_xz @ concept_whitener(sigma_zz) / unit, tol)
    return Projection(U, U.mH, kept, dropped)


def joint_projection(left: Tensor, right: Tensor, *, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """The projection off the columns of several ones at once, `I - L (R L)^+ R`, as factors `(d, r)` and `(r, d)`.

    Unlike their product it takes all columns of L to zero, whatever their order. It is the only projection with the
    range of L as kernel and the kernel of R as range; where columns are dependent the pseudo-inverse leaves them out.

    Args:
        left: L `(d, k)`: the left factors side by side, with `R_i L_i = I` for each.
        right: R `(k, d)`: the right factors below each other.
        tol: Singular values of `R L` up to this, relative to the largest, are rounding.

    Returns:
        The left and the right factor, and what makes the right one of R, `(r, k)`.
    """
    U, s, Vh = torch.linalg.svd(right @ left, full_matrices=False)
    keep = s > tol * s.amax() if len(s) else s > 0
    of_right = U[:, keep].mH
    return left @ (Vh[keep].mH / s[keep]), of_right @ right, of_right


def _left_vectors(a: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    U, s, _ = torch.linalg.svd(a, full_matrices=False)
    keep = s > tol
    return U[:, keep], s[keep], s[~keep]
