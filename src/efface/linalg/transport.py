"""Optimal transport between centred Gaussians: roots, maps, distances, midpoints and barycenters.

Everything stands on one idea. A covariance `K` has factors `F` with `F F^H = K`, all of them `K^{1/2} Q` with
`Q` unitary. Two factors `F1, F2` are *aligned* if `F1^H F2` is p.s.d.; then the optimal plan between
`N(0, K1)` and `N(0, K2)` moves `F1 e` to `F2 e` (`e` white noise), so that the distance is `|F1 - F2|_F`,
a midpoint has the factor `w1 F1 + w2 F2`, and a barycenter has a factor that is the mean of its aligned
partners. One singular value decomposition aligns, nothing is inverted and no condition number is squared,
which is what keeps ill-conditioned covariances right.

Results are computed in float64 (complex128) whatever the dtype and cast back at the end.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from efface._errors import EffaceWarning, InputError
from efface._validate import check_positive_int

_STOP = 1e-11
"""The barycenter iteration stops when its factor moves by less than this, relative to its norm."""

_LOOSE = 1e-6
"""More than this at the last iteration is worth a warning."""

_TINY = torch.finfo(torch.float64).tiny


def is_positive_definite(A: Tensor) -> Tensor:
    """Whether each Hermitian matrix of a batch `(..., d, d)` is positive definite, by trying Cholesky.

    Only the lower triangle is read.

    Returns:
        Booleans `(...)`.

    >>> is_positive_definite(torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[1.0, 2.0], [2.0, 1.0]]]))
    tensor([ True, False])
    """
    return torch.linalg.cholesky_ex(_double(A, "A")).info.eq(0)


def psd_sqrt(A: Tensor) -> Tensor:
    """The p.s.d. square root of p.s.d. matrices `(..., d, d)`; negative eigenvalues count as zero.

    >>> psd_sqrt(torch.tensor([[4.0, 0.0], [0.0, 9.0]]))
    tensor([[2., 0.],
            [0., 3.]])
    """
    return _cast(_root(_double(A, "A")), A)


def psd_sqrt_rsqrt(A: Tensor, *, rtol: float | None = None) -> tuple[Tensor, Tensor]:
    """The p.s.d. square root of `A` and the square root of its pseudo-inverse, from one decomposition.

    Args:
        A: P.s.d. matrices `(..., d, d)`.
        rtol: Eigenvalues up to `rtol` times the largest count as zero in the inverse. Default: `d` times the
            float64 epsilon. Noise of a lower precision in `A` (about 1e-7 for float32) is *not* cut by that.

    >>> sqrt, rsqrt = psd_sqrt_rsqrt(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
    >>> rsqrt
    tensor([[0.5000, 0.0000],
            [0.0000, 0.0000]])
    """
    sqrt, rsqrt = _root_pair(_double(A, "A"), rtol)
    return _cast(sqrt, A), _cast(rsqrt, A)


def ot_map(K1: Tensor, K2: Tensor, *, rtol: float | None = None) -> Tensor:
    r"""The optimal transport map from `N(0, K1)` to `N(0, K2)`: the p.s.d. `T` with `T K1 T = K2`.

    `T = K1^{-1/2} (K1^{1/2} K2 K1^{1/2})^{1/2} K1^{-1/2}`, with the inner root taken from the singular values
    of `K2^{1/2} K1^{1/2}`, which keeps twice the digits of an eigendecomposition of the squared matrix.

    Args:
        K1: Covariances `(..., d, d)` to move from.
        K2: Covariances `(..., d, d)` to move to; the leading dimensions broadcast.
        rtol: Rank rule for `K1`, see `psd_sqrt_rsqrt`.

    Raises:
        InputError: If a matrix is not square, its numbers not finite or not floating point.

    Does not guarantee: `T K1 T = K2` outside the range of `K1`, which no linear map of `N(0, K1)` can reach.

    >>> K1, K2 = torch.diag(torch.tensor([1.0, 4.0])), torch.eye(2)
    >>> ot_map(K1, K2)
    tensor([[1.0000, 0.0000],
            [0.0000, 0.5000]])
    """
    A, B = _pair(K1, K2)
    sqrt, rsqrt = _root_pair(A, rtol)
    _, S, Vh = torch.linalg.svd(_root(B) @ sqrt)
    G = rsqrt @ Vh.mH
    return _cast((G * S[..., None, :]) @ G.mH, K1, K2)


def ot_distance(K1: Tensor, K2: Tensor) -> Tensor:
    """The 2-Wasserstein distance between `N(0, K1)` and `N(0, K2)`, as `|F1 - F2|_F` of aligned factors.

    Equal to `sqrt(tr K1 + tr K2 - 2 tr (K1^{1/2} K2 K1^{1/2})^{1/2})`, without its cancellation: covariances
    that are equal up to rounding are at a distance of rounding, not of its square root.

    Returns:
        Distances `(...)`.

    >>> ot_distance(torch.eye(2), 4 * torch.eye(2))
    tensor(1.4142)
    """
    A, B = _pair(K1, K2)
    F1 = _root(A)
    return _cast(torch.linalg.matrix_norm(F1 - _align(_root(B), F1)), K1, K2)


def ot_midpoint(K1: Tensor, K2: Tensor, w1: float = 0.5, w2: float = 0.5) -> Tensor:
    """The covariance of the 2-Wasserstein barycenter of `N(0, K1)` and `N(0, K2)`, in closed form.

    With `T` the map from `K1` to `K2` it is `w1^2 K1 + w2^2 K2 + w1 w2 (K1 T + T K1)`, McCann's
    interpolation; here as `F F^H` with `F = w1 F1 + w2 F2`, which needs no inverse and so takes singular
    covariances.

    Args:
        K1: First covariances `(..., d, d)`.
        K2: Second covariances `(..., d, d)`.
        w1: Weight of the first.
        w2: Weight of the second; only the ratio of the two counts.

    Raises:
        InputError: If a weight is negative or both are zero.

    >>> ot_midpoint(torch.eye(1), 9 * torch.eye(1))
    tensor([[4.]])
    """
    A, B = _pair(K1, K2)
    w = _weights(torch.tensor([w1, w2], dtype=torch.float64, device=A.device), 2)
    F1 = _root(A)
    F = w[0] * F1 + w[1] * _align(_root(B), F1)
    return _cast(F @ F.mH, K1, K2)


def ot_barycenter(Ks: Tensor, weights: Tensor | None = None, *, max_iter: int = 100) -> Tensor:
    r"""The covariance of the 2-Wasserstein barycenter of centred Gaussians `N(0, K_i)`.

    The minimiser of `sum_i w_i W2(K, K_i)^2`, by the fixed-point iteration of Álvarez-Esteban et al.
    (arXiv:1511.05355, eq. 7), `K <- T K T` with `T = sum_i w_i T_i` and `T_i` the map from `K` to `K_i`.
    With a factor `F` of `K`, `T_i F` is the factor of `K_i` that is aligned with `F`: the iteration is the
    mean of the aligned factors. It is sped up by Anderson mixing, which leaves the fixed point as it is, and
    stops when the factor moves by less than 1e-11 of its norm.

    Args:
        Ks: Covariances `(n, d, d)`.
        weights: Weights `(n,)`, not negative; only their ratios count. Default: all equal.
        max_iter: Most iterations.

    Returns:
        The covariance `(d, d)`.

    Raises:
        InputError: If there is no covariance, or the weights do not fit.

    Warns:
        EffaceWarning: If `max_iter` was reached while the factor still moved by more than 1e-6 of its norm.

    Does not guarantee: uniqueness where all covariances are singular.

    >>> ot_barycenter(torch.tensor([[[1.0]], [[4.0]], [[9.0]]]))
    tensor([[4.]])
    """
    if Ks.ndim != 3 or len(Ks) == 0:
        raise InputError(f"Ks has shape {tuple(Ks.shape)}, expected (n, d, d) with n of at least 1: torch.stack them")
    roots = _root(_double(Ks, "Ks"))
    w = _weights(torch.ones(len(Ks)) if weights is None else weights, len(Ks)).to(roots.device)[:, None, None]
    F = _root((w * roots @ roots).sum(dim=0))
    moved, mixing = torch.inf, _Mixing()
    for _ in range(check_positive_int(max_iter, "max_iter")):
        image = (w * _align(roots, F)).sum(dim=0)
        step = image - F
        moved = float(torch.linalg.matrix_norm(step) / torch.linalg.matrix_norm(F).clamp_min(_TINY))
        F = image if moved <= _STOP else mixing.next(image, step)
        if moved <= _STOP:
            break
    if moved > _LOOSE:
        warnings.warn(
            f"the barycenter still moved by {moved:.1e} of its norm after {max_iter} steps: raise max_iter",
            EffaceWarning,
            stacklevel=2,
        )
    return _cast(F @ F.mH, Ks)


class _Mixing:
    """Anderson acceleration of a fixed-point iteration: the next point is extrapolated from the last few.

    The combination of the last images is taken whose steps cancel best, in least squares (Walker and Ni 2011,
    "Anderson Acceleration for Fixed-Point Iterations", eq. 2.2). Two to four times fewer iterations here.
    """

    memory = 5

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.steps: list[Tensor] = []

    def next(self, image: Tensor, step: Tensor) -> Tensor:
        """The point to go on from, given where the last one was mapped to and by how far."""
        if self.steps and step.norm() > 2 * self.steps[-1].norm():
            self.images, self.steps = [], []  # An extrapolation that went astray: begin anew.
        self.images = [*self.images[-self.memory :], image]
        self.steps = [*self.steps[-self.memory :], step]
        if len(self.steps) == 1:
            return image
        images, D = torch.stack(self.images).diff(dim=0), torch.stack(self.steps).diff(dim=0).flatten(1)
        share = torch.linalg.pinv(D.conj() @ D.mT, hermitian=True) @ (D.conj() @ step.flatten())
        return image - (share[:, None, None] * images).sum(dim=0)


def _align(F: Tensor, to: Tensor) -> Tensor:
    """`F Q` with the unitary `Q` that makes `(F Q)^H to` p.s.d. (orthogonal Procrustes)."""
    U, _, Vh = torch.linalg.svd(F.mH @ to)
    return F @ (U @ Vh)


def _root(A: Tensor) -> Tensor:
    L, U = torch.linalg.eigh(A)
    return (U * L.clamp_min(0).sqrt()[..., None, :]) @ U.mH


def _root_pair(A: Tensor, rtol: float | None) -> tuple[Tensor, Tensor]:
    L, U = torch.linalg.eigh(A)
    s = L.clamp_min(0).sqrt()[..., None, :]
    rtol = A.shape[-1] * torch.finfo(A.dtype).eps if rtol is None else rtol
    # A zero matrix has no eigenvalue above its own bound, so nothing is divided by zero.
    kept = (rtol * L[..., -1:] < L) & (L > 0)
    r = torch.where(kept[..., None, :], 1 / s, 0.0)
    return (U * s) @ U.mH, (U * r) @ U.mH


def _double(A: Tensor, name: str) -> Tensor:
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or A.shape[-1] == 0:
        raise InputError(f"{name} has shape {tuple(A.shape)}, expected square matrices (..., d, d)")
    if not torch.isfinite(A).all():
        raise InputError(f"{name} has NaN or infinite values: a covariance must be finite")
    A = A.to(torch.complex128 if A.is_complex() else torch.float64)
    return (A + A.mH) / 2


def _pair(K1: Tensor, K2: Tensor) -> tuple[Tensor, Tensor]:
    if K1.shape[-2:] != K2.shape[-2:]:
        raise InputError(f"K1 has shape {tuple(K1.shape)}, K2 {tuple(K2.shape)}: both must be (..., d, d), same d")
    A, B = _double(K1, "K1"), _double(K2, "K2")
    dtype = torch.promote_types(A.dtype, B.dtype)
    return A.to(dtype), B.to(dtype)


def _cast(result: Tensor, *inputs: Tensor) -> Tensor:
    """`result` in the dtype the inputs promote to; integers give the default float."""
    dtype = inputs[0].dtype
    for other in inputs[1:]:
        dtype = torch.promote_types(dtype, other.dtype)
    if not (dtype.is_floating_point or dtype.is_complex):
        dtype = torch.get_default_dtype()
    return result.to(dtype.to_real() if dtype.is_complex and not result.is_complex() else dtype)


def _weights(weights: Tensor, n: int) -> Tensor:
    if weights.shape != (n,):
        raise InputError(f"weights has shape {tuple(weights.shape)}, expected ({n},): one for each covariance")
    w = weights.to(torch.float64)
    if not torch.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
        raise InputError(f"weights must be finite, not negative and not all zero, got {weights.tolist()}")
    return w / w.sum()
