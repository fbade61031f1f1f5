"""Shrinkage of sample covariance matrices: towards a multiple of the identity, or of the variances of the columns.

The first treats all directions alike, so that of columns in different units the one with the largest numbers decides
for all: there correlations are shrunk, which know no units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.doors import check_call

_ROWS = 256
_ONE_UNIT = 10.0


def trace(matrices: Tensor) -> Tensor:
    """Traces of a batch of matrices `(..., p, p)`, shaped `(..., 1, 1)` to broadcast with it."""
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def shrinkage_weight(S_n: Tensor, n: int | float | Tensor) -> Tensor:
    """Weight alpha in [0, 1] that `optimal_linear_shrinkage` gives the sample covariance.

    `1 - alpha = (tr S)^2 / n / (||S||_F^2 - (tr S)^2 / p)`, clamped; where the sample covariance is a
    multiple of the identity (or zero) both ends agree and alpha is 1.

    Args:
        S_n: Sample covariances `(..., p, p)`, normalised by n.
        n: Number of samples, or a tensor that broadcasts with `(..., 1, 1)`.

    Returns:
        `(..., 1, 1)` weights.

    Source: Bodnar, Gupta and Parolya, arXiv:1308.2608, eq. 2.11 with target I / p.
    """
    total = trace(S_n).real
    unit = binary_unit(total)
    return weight_of_sample(total / unit, (S_n / unit).abs().square().sum((-2, -1), keepdim=True), S_n.shape[-1], n)


def binary_unit(size: Tensor) -> Tensor:
    """Powers of two of the order of `size`; where it is 0, of any. What is divided by them keeps its digits.

    In such units squares of covariances neither overflow nor vanish.

    >>> binary_unit(torch.tensor([5.0, 0.0, 1e-30]))
    tensor([4.0000e+00, 5.0000e-01, 7.8886e-31])
    """
    return torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - 1)


def weight_of_sample(total: Tensor, squares: Tensor, p: int, n: int | float | Tensor) -> Tensor:
    """`shrinkage_weight` from the trace and the squared Frobenius norm of the sample covariance, in any unit."""
    n = torch.as_tensor(n, device=total.device)
    # Everything is divided by the mean variance first: tr^4 overflows float32 at standard deviations of 1e4.
    unit = (total / p).clamp_min(torch.finfo(total.dtype).tiny)
    spread = squares / unit / unit - p
    beta = p * p / (n * spread.clamp_min(torch.finfo(total.dtype).tiny))
    return (1 - beta).clamp(0, 1).where(spread > p * torch.finfo(total.dtype).eps, torch.ones_like(beta))


def optimal_linear_shrinkage(S_n: Tensor, n: int | float | Tensor, *, inplace: bool = False) -> Tensor:
    """Linear shrinkage `alpha S + (1 - alpha) (tr S / p) I` of least Frobenius error as p and n grow together.

    Args:
        S_n: Sample covariance matrices `(..., p, p)`, normalised by n (not n - 1).
        n: Sample size, or a tensor that broadcasts with `(..., 1, 1)`.
        inplace: Overwrite `S_n` to save memory.

    Returns:
        `(..., p, p)` covariance estimates of the same dtype, positive definite wherever alpha < 1 and S is
        not zero. The trace is kept.

    Does not guarantee: optimality at small p; the formula is asymptotic and needs moments of order 4.

    Differs from concept_erasure: alpha is clamped to [0, 1] (there, whitened data gets negative variances)
    and nothing overflows in float32.

    Source: arXiv:1308.2608.

    >>> optimal_linear_shrinkage(torch.eye(3), 10)
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    check_call(optimal_linear_shrinkage, locals())
    if S_n.ndim < 2 or S_n.shape[-1] != S_n.shape[-2]:
        raise InputError(f"S_n has shape {tuple(S_n.shape)}, expected square matrices (..., p, p)")
    if isinstance(n, Tensor) and n.is_complex():
        raise InputError(f"n is {n.dtype}: write how many samples there are, a real number")
    return _towards_identity(S_n, shrinkage_weight(S_n, n), inplace=inplace)


def _towards_identity(S_n: Tensor, alpha: Tensor, *, inplace: bool) -> Tensor:
    alpha = alpha.to(S_n.dtype)
    ridge = (1 - alpha) * trace(S_n) / S_n.shape[-1]
    out = S_n.mul_(alpha) if inplace else S_n * alpha
    out.diagonal(dim1=-2, dim2=-1).add_(ridge.squeeze(-1))
    return out


def units(std: Tensor) -> Tensor | None:
    """The unit of each column, if each has its own.

    Args:
        std: `(d,)` standard deviations of the columns.

    Returns:
        The standard deviations, where the largest is more than ten times the least that is not zero, as in a table
        of ages and incomes. None where all columns are in one unit, as the features of most hidden states are: the
        covariance is then shrunk as it is, as concept_erasure does.
    """
    live = std[std > 0]
    return std if len(live) and float(live.max()) > _ONE_UNIT * float(live.min()) else None


def correlation_weight(upper: Tensor, std: Tensor, n: int | float) -> float:
    """`shrinkage_weight` of the correlation matrix, from the upper triangle `(d, d)` of the covariance.

    Args:
        upper: Upper triangle of the covariance, zeros below.
        std: `(d,)` standard deviations; columns with none have no correlations and do not count.
        n: Sample size.
    """
    live = int((std > 0).sum())
    unit = torch.where(std > 0, std, torch.ones_like(std))
    squares = 0.0
    for rows, own in zip(upper.split(_ROWS), unit.split(_ROWS), strict=True):
        squares += 2 * float((rows / unit / own[:, None]).abs().square().sum())
    total = torch.tensor(float(live), dtype=torch.float64, device="cpu")
    return float(weight_of_sample(total, total.new_tensor(squares - live), max(live, 1), n))


def shrunk_in_units(S_n: Tensor, n: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances `(..., d, d)`, shrunk where their columns are measured in their `units`; changed in place.

    Args:
        S_n: Sample covariances, normalised by n.
        n: Sample sizes, of a shape that broadcasts with `(..., 1, 1)`.
        std: `(d,)` standard deviations, such as those within classes; where each column is its own unit, those
            without stay as they are.

    Returns:
        `alpha S + (1 - alpha) t diag(units^2)`, with t the mean variance in these units, and alpha.
    """
    if units(std) is None:
        alpha = shrinkage_weight(S_n, n)
        return _towards_identity(S_n, alpha, inplace=True), alpha
    unit = torch.where(std > 0, std, torch.ones_like(std))
    live = max(int((std > 0).sum()), 1)
    scaled = S_n / unit / unit[:, None]
    total = trace(scaled).real
    alpha = weight_of_sample(total, scaled.abs().square().sum((-2, -1), keepdim=True), live, n)
    ridge = ((1 - alpha) * total / live)[..., 0] * std.square()
    out = S_n.mul_(alpha.to(S_n.dtype))
    out.diagonal(dim1=-2, dim2=-1).add_(ridge)
    return out, alpha
