"""Oracle LEACE: given the labels at apply time, the least edit of all that removes every linear trace."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from efface._errors import NothingErasedWarning
from efface.core.config import Config, checked, option
from efface.core.labels import Kind
from efface.core.method import Method, register
from efface.core.row_labels import read_labels
from efface.erasers.base import Eraser, Report, check_shapes
from efface.erasers.fitter import Fitter, fit_of
from efface.erasers.lowrank import check_width, no_autocast
from efface.linalg.projection import concept_whitener, rank_tolerance
from efface.linalg.shrinkage import shrunk_in_units


@dataclass(frozen=True, kw_only=True)
class OracleConfig(Config):
    """Options of oracle LEACE; see `OracleFitter`."""

    shrinkage: bool = option(False, "shrink the covariance of the labels; erasure is then no longer exact")
    kind: Kind = option("auto", "what labels are: integers classes and floats quantities, unless you say so")


@dataclass(frozen=True, eq=False, repr=False)
class OracleEraser(Eraser):
    """`r(x, z) = x - B (z - mean_z)`: the residual of the least-squares regression of x on z.

    Attributes:
        coef: B `(d, k)`.
        mean_z: `(k,)`.

    Guarantees, on the data it was fitted on: zero cross-covariance with z at the least mean squared edit of
    all functions of (x, z), under every inner product.

    Does not guarantee: that non-linear predictors learn less; they may learn *more* (the labels leak into
    the edit), so do not train deep networks on its output.

    Source: "Oracle LEACE", EleutherAI blog 2023, Theorem 1; the residualisation of ordinary regression.
    """

    coef: Tensor
    mean_z: Tensor
    method: str = field(default="oracle", kw_only=True)

    takes_labels = True

    def check(self) -> None:
        """Refuse tensors that do not go together."""
        check_shapes(self, coef=("d", "k"), mean_z=("k",))

    @classmethod
    def fit(cls, x: Any, z: Any, **kwargs: Any) -> OracleEraser:
        """Fit on x `(..., d)` and z in one call; arguments as `OracleFitter.fit`."""
        return OracleFitter.fit(x, z, **kwargs).eraser

    def __call__(self, x: Any, z: Any) -> Any:
        """Erase the concept from `x` `(..., d)` given its labels `z` `(...)` or `(..., k)`; `x` is not changed."""
        return self.erased(lambda t: self._erase(t, z), x, z)

    def _erase(self, x: Tensor, z: Any) -> Tensor:
        check_width(x, len(self.coef))
        # A quantity that was fitted as integers is one still.
        kind = "continuous" if self.report is not None and self.report.kind == "continuous" else "auto"
        labels = read_labels(self.class_numbers(x, z), tuple(x.shape[:-1]), kind=kind)
        columns = labels.columns(len(self.mean_z))
        with no_autocast(x):
            dtype = torch.promote_types(x.dtype, self.coef.dtype)
            shift = columns.to(x.device, dtype) - self.mean_z.to(dtype)
            return (x.to(dtype) - shift @ self.coef.to(dtype).mT).to(x.dtype)


class OracleFitter(Fitter):
    """Gathers the moments of z and its cross-moments with x, and solves for the oracle eraser.

    `B = sigma_xz sigma_zz^+` with a pseudo-inverse that does not depend on the scale of z.

    Args:
        x_dim: Width of x.
        z_dim: Width of z: number of classes (1 will do for two classes 0/1), or of columns.
        device: Where statistics live.
        dtype: Dtype of the eraser; float64 also forms all products in float64.
        shrinkage: Shrink sigma_zz, as `LeaceFitter` shrinks sigma_xx; erasure is then no longer exact.
        svd_tol: Accepted for compatibility; None (or anything) drops exact dependencies of the columns of z
            alone, by a rule relative to their scale.
        kind: What z is: `"auto"`, `"categorical"` or `"continuous"`.
    """

    method = "oracle"
    second = "diag"
    config_type = OracleConfig

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        shrinkage: bool = False,
        svd_tol: float | None = None,
        kind: Kind = "auto",
    ) -> None:
        self.shrinkage = checked(shrinkage, bool, "shrinkage")
        self.svd_tol = checked(svd_tol, float | None, "svd_tol")
        super().__init__(x_dim, z_dim, kind=kind, device=device, dtype=dtype)

    def options(self) -> dict[str, Any]:
        """Constructor arguments beyond the dimensions, as plain data."""
        return super().options() | {"shrinkage": self.shrinkage, "svd_tol": self.svd_tol}

    @property
    def sigma_zz(self) -> Tensor:
        """`(k, k)` covariance of z, shrunk if `shrinkage`, else unbiased."""
        return self._sigma_zz().to(self.dtype)

    @property
    def sigma_zz_(self) -> Tensor:
        """`(k, k)` scatter of z: the unbiased covariance times n - 1."""
        return self.moments.scatter_zz.to(self.dtype)

    def _sigma_zz(self) -> Tensor:
        freedom = self.moments.degrees_of_freedom()
        if not self.shrinkage:
            return self.moments.scatter_zz / freedom
        sigma, n = self.moments.scatter_zz / self.moments.weight, self.moments.weight
        return shrunk_in_units(sigma, sigma.real.new_tensor(n), sigma.diagonal().real.sqrt())[0]

    def _solve(self) -> OracleEraser:
        sigma_xz, _, _ = self._covariances()
        W = concept_whitener(self._sigma_zz())
        # x = sum_j coef_j z_j needs the plain transpose; sigma_xz = E[conj(x) z] holds its conjugate.
        whitened = sigma_xz @ W
        coef = (whitened @ W.mH).conj().to(self.dtype)
        report = self._report(whitened, coef)
        return OracleEraser(coef, self.mean_z, config=self.config, report=report)

    @property
    def _leaves_some(self) -> bool:
        return self.shrinkage

    def _residual(self, coef: Tensor) -> float:
        """Largest correlation with z left by the eraser as it is stored, rounding included."""
        sigma_xz, sigma_zz, freedom = self._covariances()
        rest = (sigma_xz - coef.conj().to(sigma_xz.dtype) @ sigma_zz).abs()
        unit = ((self.moments.scatter_xx / freedom)[:, None] * sigma_zz.diagonal().real).sqrt()
        return float(torch.where(unit > 0, rest / unit, 0.0).max())

    def _report(self, whitened: Tensor, coef: Tensor) -> Report:
        total = float(self.moments.scatter_xx.sum() / self.moments.degrees_of_freedom())
        explained = torch.linalg.svdvals(whitened)
        tol = rank_tolerance(self.moments.eps, max(self.x_dim, self.z_dim))
        rank = int((explained > tol * max(total / self.x_dim, 1e-300) ** 0.5).sum())
        if rank == 0:
            warnings.warn(f"nothing is erased: x has no covariance with {self.of}", NothingErasedWarning, stacklevel=5)
        edit = float(explained.square().sum()) / total if total else 0.0
        residual = self._residual(coef)
        return Report(self.method, self.decision, self.moments.n, rank, residual=residual, edit=edit)


register(
    Method(
        name="oracle",
        subjects=("rows",),
        paper="EleutherAI blog 2023, Oracle LEACE",
        summary="regression residual: least edit of all, needs the labels when it is applied",
        fit=fit_of(OracleFitter),
        fitter=OracleFitter,
        erasure=OracleEraser,
        config=OracleConfig,
        access=("rows", "labels"),
        access_on=("rows", "labels"),
        guarantee="on the rows of the fit the cross-covariance with the labels is zero, at the least edit of all",
        no_guarantee="that non-linear predictors learn less: the labels leak into the edit",
        labels_at_apply=True,
    )
)
