"""LEACE: the least edit after which no linear predictor can beat a constant (arXiv:2306.03819)."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import Tensor

from efface._errors import EffaceWarning, InputError, NothingErasedWarning
from efface.core.column_names import common_columns
from efface.core.config import Config, option
from efface.core.erasure import Erasure
from efface.core.labels import Kind
from efface.core.method import Method, register
from efface.erasers.base import Eraser, Report, check_shapes
from efface.erasers.fitter import ADVICE, Fitter, fit_of
from efface.erasers.lowrank import erase_low_rank
from efface.linalg.projection import (
    Projection,
    joint_projection,
    oblique_projection,
    orthogonal_projection,
    rank_tolerance,
)
from efface.linalg.psd import Factor, factor_
from efface.linalg.shrinkage import binary_unit, correlation_weight, units, weight_of_sample
from efface.moments.gram import mirror

ErasureMethod = Literal["leace", "orth"]
_TINY = 1e-6
_SQUARED = 1e-140
"""Variances from here to its inverse have squares that float64 holds."""
_STRETCH = 2.0
"""How many times as far as either alone two erasers together may move rows without a word."""


@dataclass(frozen=True, kw_only=True)
class LeaceConfig(Config):
    """Options of LEACE; see `LeaceFitter`."""

    affine: bool = option(True, "keep the mean of the rows; otherwise the map is linear")
    shrinkage: bool = option(True, "shrink the covariance, in each column's unit: smaller edits on few rows")
    svd_tol: float | None = option(None, "leave canonical correlations up to this alone; None: rounding alone", above=0)
    kind: Kind = option("auto", "what labels are: integers classes and floats quantities, unless you say so")


@dataclass(frozen=True, eq=False, repr=False)
class LeaceEraser(Eraser):
    """`r(x) = x - L R (x - mu)`: an affine projection kept in low-rank form, O(d k) memory.

    Attributes:
        proj_left: L `(d, r)`.
        proj_right: R `(r, d)`.
        bias: mu `(d,)`, the mean that the edit keeps; None for a linear map.

    Guarantees, on the data it was fitted on: equal class means (zero cross-covariance with z), hence no
    linear predictor beats a constant under any convex loss (Theorem 3.1), and the least mean squared edit
    under every inner product at once (Theorem 4.3; without shrinkage).

    Does not guarantee: anything of non-linear predictors; that thresholded accuracy is at chance; exact
    erasure on rows it was not fitted on (the gap left there shrinks like the square root of d / n).

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 0.0], [4.0, 4.0]])
    >>> eraser = LeaceEraser.fit(x, torch.tensor([0, 0, 1, 1]), shrinkage=False)
    >>> x_ = eraser(x)
    >>> torch.allclose(x_[:2].mean(0), x_[2:].mean(0), atol=1e-6)
    True
    """

    proj_left: Tensor
    proj_right: Tensor
    bias: Tensor | None
    method: str = field(default="leace", kw_only=True)

    @classmethod
    def fit(cls, x: Any, z: Any, **kwargs: Any) -> LeaceEraser:
        """Fit on x `(..., d)` and z in one call; arguments as `LeaceFitter.fit`."""
        return LeaceFitter.fit(x, z, **kwargs).eraser

    def check(self) -> None:
        """Refuse tensors that do not go together."""
        check_shapes(self, proj_left=("d", "r"), proj_right=("r", "d"), bias=("d",))

    @property
    def P(self) -> Tensor:
        """The projection `(d, d)`, `I - L R`."""
        eye = torch.eye(len(self.proj_left), device=self.proj_left.device, dtype=self.proj_left.dtype)
        return eye - self.proj_left @ self.proj_right

    @overload
    def __and__(self, other: LeaceEraser) -> LeaceEraser: ...
    @overload
    def __and__(self, other: Erasure) -> Erasure: ...
    def __and__(self, other: Erasure) -> Erasure:
        """Both: of two such erasers one projection that takes both concepts at once; of others one after the other.

        `I - L (R L)^+ R` of both L and R stacked. One after the other would leave part of the second concept, wherever
        the two are correlated, since it was not fitted on what the first gives. Here the order does not matter.

        Guarantees, on the data that each was fitted on: zero cross-covariance with its own concept. Fitted on the same
        data with the same options, it is the eraser of `join_concepts`: the least edit that erases both, which keeps
        the mean.

        Does not guarantee, fitted on different data: the least edit, or the mean of either; the edit can be large
        where directions of one are near to what the other reads. A warning says so where rows may be moved more than
        twice as far as by either alone, unless both have the same centre, as of the same data.

        Raises:
            InputError: If the two were fitted on data so different that no projection with what they read erases both.

        >>> x = torch.randn(100, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> a, b = x[:, 0] > 0, x[:, 0] + x[:, 1] > 0
        >>> both = LeaceEraser.fit(x, a) & LeaceEraser.fit(x, b)
        >>> bool((both(x)[a].mean(0) - both(x)[~a].mean(0)).abs().max() < 1e-12)
        True
        """
        joined = super().__and__(other)
        if not isinstance(other, LeaceEraser) or len(other.proj_left) != len(self.proj_left):
            return joined
        method = self.method if self.method == other.method else LeaceEraser.method
        left, right, bias = _jointly(self, other)
        _warn_of_stretch(self, other, joined=_most_moved(left, right))
        columns = common_columns(self, other)
        return LeaceEraser(left, right, bias, method=method, concepts=joined.concepts, columns=columns)

    def __call__(self, x: Any) -> Any:
        """Erase the concept from `x` `(..., d)`: same shape, dtype and device; `x` is not changed."""
        return self.erased(lambda t: erase_low_rank(t, self.proj_left, self.proj_right, self.bias), x)


def _most_moved(left: Tensor, right: Tensor) -> float:
    """How far a row is moved at most, by its own length from the centre: the norm of `left @ right`."""
    wide = torch.complex128 if left.is_complex() else torch.float64
    small = torch.linalg.qr(left.to(wide))[1] @ torch.linalg.qr(right.to(wide).mH)[1].mH
    return float(torch.linalg.matrix_norm(small, 2)) if small.numel() else 0.0


def _warn_of_stretch(*erasers: LeaceEraser, joined: float) -> None:
    """Say that two erasers of different data move rows far when they are joined.

    Args:
        erasers: The two.
        joined: What `_most_moved` gives of both at once.
    """
    alone = max(_most_moved(each.proj_left, each.proj_right) for each in erasers)
    first, second = (each.bias for each in erasers)
    same = first is not None and second is not None and torch.allclose(first.to(second), second, rtol=1e-4, atol=1e-6)
    if joined > _STRETCH * alone and not same:
        warnings.warn(
            f"joined, these erasers move rows by up to {joined:.1f} times their distance from the centre, "
            f"{joined / alone:.1f} times as far as either alone: they were fitted on different rows; the least edit is "
            "that of one eraser fitted on join_concepts(a, b), next that of the second fitted on what the first gives",
            EffaceWarning,
            stacklevel=3,
        )


def _jointly(*erasers: LeaceEraser) -> tuple[Tensor, Tensor, Tensor | None]:
    """Left factor, right factor and centre of the projection off all that these take out."""
    first = erasers[0].proj_left
    dtype = functools.reduce(torch.promote_types, (e.proj_left.dtype for e in erasers))
    wide = {"device": first.device, "dtype": torch.complex128 if dtype.is_complex else torch.float64}
    lefts, rights = ([getattr(e, name).to(**wide) for e in erasers] for name in ("proj_left", "proj_right"))
    none = torch.zeros(len(first), **wide)
    centres = [none if e.bias is None else e.bias.to(**wide) for e in erasers]
    all_left, tol = torch.cat(lefts, dim=1), rank_tolerance(torch.finfo(dtype).eps, sum(r.shape[0] for r in rights))
    left, right, of_right = joint_projection(all_left, torch.cat(rights), tol=tol)
    rest = (all_left - left @ (right @ all_left)).norm(dim=0) / all_left.norm(dim=0)
    # What is left out as dependent to rounding leaves its root: singular values of R L are squares of small angles.
    if bool((rest > 4 * tol**0.5).any()):
        raise InputError(
            "these erasers cannot be joined: what one takes out is not what the other reads; fit one eraser on "
            "join_concepts(a, b), or the second on what the first gives, and compose() them"
        )
    bias = None
    if any(e.bias is not None for e in erasers):
        start = torch.stack(centres).mean(0)
        wanted = of_right @ torch.cat([r @ c for r, c in zip(rights, centres, strict=True)])
        bias = start + torch.linalg.pinv(right) @ (wanted - right @ start)
    return left.to(dtype), right.to(dtype), None if bias is None else bias.to(dtype)


@dataclass(frozen=True)
class Whitening:
    """What LEACE needs of sigma_xx.

    Attributes:
        factor: Of the covariance, shrunk if that was asked for.
        variance: `(d,)` its diagonal.
        total: Its trace.
        shrunk: Weight of the target in it.
        target: The diagonal of what it was shrunk towards, or its mean.
    """

    factor: Factor
    variance: Tensor
    total: float
    shrunk: float
    target: Tensor


class LeaceFitter(Fitter):
    """Gathers the moments that LEACE needs, batch by batch, and solves for the eraser.

    `P = I - F U U^H F^+` with `sigma_xx = F F^H` and U an orthonormal basis of `F^+ sigma_xz` (Theorem 4.2).
    Solved by Cholesky and triangular solves where sigma_xx is positive definite, through eigenvalues, with
    the meaning of the pseudo-inverse, where it is not; `report.route` says which.

    Args:
        x_dim: Width of x.
        z_dim: Width of z: number of classes (1 will do for two classes 0/1), or of columns.
        method: `"leace"`, or `"orth"` for the orthogonal projection with the same kernel.
        affine: Keep the mean of x; otherwise the map is linear.
        constrain_cov_trace: Accepted for compatibility and without effect: the edit never increases the
            trace, as `P sigma P^H = F (I - U U^H) F^H`, which is at most sigma.
        device: Where statistics live.
        dtype: Dtype of the eraser; float64 also forms all products in float64.
        shrinkage: Shrink sigma_xx towards a multiple of the identity (arXiv:1308.2608). Erasure stays exact. Unlike
            in concept_erasure, columns whose spreads differ by more than a factor of 10 are in units of their own:
            their correlations are shrunk, so that the largest numbers do not decide for all.
        svd_tol: Drop canonical correlations of x and z up to this; None drops rounding alone. Unlike in
            concept_erasure it does not depend on the scale or prevalence of z, so rare concepts are erased.
        kind: What z is: `"auto"`, `"categorical"` or `"continuous"`.

    Does not guarantee: see `LeaceEraser`.
    """

    method = "leace"
    config_type = LeaceConfig

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        method: ErasureMethod = "leace",
        *,
        affine: bool = True,
        constrain_cov_trace: bool = True,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        shrinkage: bool = True,
        svd_tol: float | None = None,
        kind: Kind = "auto",
    ) -> None:
        if not isinstance(method, str) or method not in ("leace", "orth"):
            raise InputError(f"unknown method {method!r:.80}: choose 'leace' or 'orth'")
        self.method: str = method
        self.second = "full" if method == "leace" else "diag"
        self.affine, self.shrinkage, self.svd_tol = affine, shrinkage, svd_tol
        self.constrain_cov_trace = constrain_cov_trace
        super().__init__(x_dim, z_dim, kind=kind, device=device, dtype=dtype)

    def options(self) -> dict[str, Any]:
        """Constructor arguments beyond the dimensions, as plain data."""
        own = {
            "method": self.method,
            "affine": self.affine,
            "shrinkage": self.shrinkage,
            "svd_tol": self.svd_tol,
        }
        return super().options() | own

    @property
    def sigma_xx(self) -> Tensor:
        """`(d, d)` covariance of x, shrunk if `shrinkage`, else unbiased."""
        return mirror(self._upper_sigma_xx()[0]).to(self.dtype)

    @property
    def sigma_xx_(self) -> Tensor | None:
        """`(d, d)` scatter of x: the unbiased covariance times n - 1; None for `method="orth"`."""
        return self.moments.scatter_xx.to(self.dtype) if self.second == "full" else None

    def _upper_sigma_xx(self) -> tuple[Tensor, float, Tensor]:
        """Upper triangle of the covariance in float64, the weight of the shrinkage target in it, and its diagonal.

        Columns in units of their own have their correlations shrunk: the target is the diagonal. See `units`.
        """
        if self.second == "diag":
            raise InputError(f"method={self.method!r} does not keep sigma_xx: use method='leace'")
        freedom = self.moments.degrees_of_freedom()
        sigma = self.moments.upper_scatter_xx()
        if not self.shrinkage:
            return sigma.div_(freedom), 0.0, sigma.diagonal().real
        variance = sigma.div_(self.moments.weight).diagonal().real.clone()
        alpha, target = self._shrinkage_of(sigma, variance)
        sigma.mul_(alpha).diagonal().add_((1 - alpha) * target)
        return sigma, 1 - alpha, target

    def _shrinkage_of(self, upper: Tensor, variance: Tensor) -> tuple[float, Tensor]:
        """The weight of the covariance, and the diagonal of what it is shrunk towards."""
        n, own = self.moments.weight, units(variance.sqrt())
        if own is not None:
            return correlation_weight(upper, own, n), variance
        unit = binary_unit(variance.mean())
        held = _SQUARED < float(unit) < 1 / _SQUARED
        norm = torch.linalg.vector_norm(upper) / unit if held else torch.linalg.vector_norm(upper / unit)
        in_unit = variance / unit
        squares = 2 * norm.square() - in_unit.square().sum()
        return float(weight_of_sample(in_unit.sum(), squares, self.x_dim, n)), variance.mean()

    def _solve(self) -> LeaceEraser:
        sigma_xz, sigma_zz, freedom = self._covariances()
        tol = rank_tolerance(self.moments.eps, max(self.x_dim, self.z_dim)) if self.svd_tol is None else self.svd_tol
        if self.second == "diag":
            variance = self.moments.scatter_xx / freedom
            projection = orthogonal_projection(sigma_xz, sigma_zz, variance, tol=tol)
            return self._finish(projection, sigma_xz, sigma_zz, variance)
        known = self.whitening or self.whitened()
        projection = oblique_projection(known.factor, sigma_xz, sigma_zz, tol=tol)
        edit = self._edit(projection, known.target, known.shrunk) / known.total if known.total else 0.0
        found = {"edit": edit, "x_rank": known.factor.rank, "route": known.factor.route, "shrinkage": known.shrunk}
        return self._finish(projection, sigma_xz, sigma_zz, known.variance, **found)

    whitening: Whitening | None = None
    """Of the rows that were seen, where another fitter on them has found it."""

    def whitened(self) -> Whitening:
        """All that the solution needs of sigma_xx, which is the same for every concept on these rows."""
        sigma, shrunk, target = self._upper_sigma_xx()
        variance, total = sigma.diagonal().real.clone(), float(sigma.diagonal().real.sum())
        # A direction with a share s of the variance has entries of order 1 / sqrt(s) in R, and so amplifies the
        # rounding of the eraser's own dtype: beyond 1e-3 of a standard deviation it is no use.
        least = (1e3 * torch.finfo(self.dtype).eps) ** 2
        # Far from zero, a value carries rounding that is large beside a small spread: that is no direction of x.
        spread = torch.where(variance > 0, variance, 1.0)
        grain = (torch.finfo(self.dtype).eps * self.mean_x.abs()).to(variance).square() / spread
        rank = None if shrunk else int(self.moments.degrees_of_freedom())
        x_factor = factor_(sigma, eps=self.moments.eps, least=least, max_rank=rank, noise=grain)
        return Whitening(x_factor, variance, total, shrunk, target)

    def _edit(self, projection: Projection, target: Tensor, shrunk: float) -> float:
        """Mean squared change of the rows that were seen, whose covariance S is not the shrunk one.

        `tr(L R S R^H L^H)`, where `alpha R S R^H = I - (1 - alpha) R T R^H` for the target T, as `R sigma R^H = I`.
        """
        left, right = projection.left, projection.right
        if shrunk == 0:
            return float(left.abs().square().sum())
        if 1 - shrunk < _TINY:  # alpha is 0: only the target is left.
            seen = right @ mirror(self.moments.upper_scatter_xx()).div_(self.moments.weight) @ right.mH
        else:
            eye = torch.eye(right.shape[0], dtype=right.dtype, device=right.device)
            seen = (eye - shrunk * (right * target) @ right.mH) / (1 - shrunk)
        return float(torch.einsum("ij,ji->", left.mH @ left, seen).real)

    def _finish(
        self, projection: Projection, sigma_xz: Tensor, sigma_zz: Tensor, variance: Tensor, **found: Any
    ) -> LeaceEraser:
        # As they lie in memory when read from a file: in another layout a product may round otherwise.
        left, right = (side.to(self.dtype).contiguous() for side in (projection.left, projection.right))
        self._check_reach(right, variance)
        report = Report(
            method=self.method,
            kind=self.decision,
            n=self.moments.n,
            rank=left.shape[1],
            correlations=tuple(projection.correlations.tolist()),
            dropped=tuple(projection.dropped.tolist()),
            residual=_residual(left, right, sigma_xz, (variance[:, None] * sigma_zz.diagonal().real).sqrt()),
            **found,
        )
        if report.rank == 0:
            largest = max(report.dropped, default=0.0)
            warnings.warn(
                f"nothing is erased: the largest canonical correlation of x with {self.of} is {largest:.1e}, within "
                "the tolerance; the eraser is the identity",
                NothingErasedWarning,
                stacklevel=4,
            )
        mean = self.mean_x if self.affine else None
        return LeaceEraser(left, right, mean, method=self.method, config=self.config, report=report)

    def _check_reach(self, right: Tensor, variance: Tensor) -> None:
        """Refuse rows so large that what the eraser reads of them may overflow, and leave it as no number."""
        farthest = (self.moments.n * variance).sqrt()  # no row is farther from the mean
        if right.numel() and float((right.abs().to(farthest) @ farthest).max()) > torch.finfo(self.dtype).max:
            raise InputError(f"what an eraser in {self.dtype} reads of x may overflow, as x is too large: {ADVICE}")


def _residual(left: Tensor, right: Tensor, sigma_xz: Tensor, unit: Tensor) -> float:
    """Largest correlation with z left by the eraser as it is stored, rounding included."""
    left, right = left.to(sigma_xz.dtype), right.to(sigma_xz.dtype)
    rest = (sigma_xz - left @ (right @ sigma_xz)).abs()
    return float(torch.where(unit > 0, rest / unit, 0.0).max())


register(
    Method(
        name="leace",
        subjects=("rows",),
        paper="arXiv:2306.03819",
        summary="least affine edit that removes every linear trace of the concept",
        fit=fit_of(LeaceFitter),
        fitter=LeaceFitter,
        erasure=LeaceEraser,
        config=LeaceConfig,
        access=("rows", "labels"),
        access_on=("rows",),
        guarantee="on the rows of the fit all classes have one mean, so no linear predictor beats a constant",
        no_guarantee="anything of non-linear predictors, or exactness on rows that it was not fitted on",
    )
)
