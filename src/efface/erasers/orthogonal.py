"""Orthogonal projection away from the cross-covariance: centred SAL (arXiv:2203.07893), without whitening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from efface.core.config import Config, option
from efface.core.labels import Kind
from efface.core.method import Method, register
from efface.erasers.fitter import fit_of
from efface.erasers.leace import LeaceEraser, LeaceFitter


@dataclass(frozen=True, kw_only=True)
class OrthogonalConfig(Config):
    """Options of the orthogonal projection; see `LeaceFitter`."""

    affine: bool = option(True, "keep the mean of the rows; otherwise the map is linear")
    svd_tol: float | None = option(None, "leave correlations up to this alone; None: rounding alone", above=0)
    kind: Kind = option("auto", "what labels are: integers classes and floats quantities, unless you say so")


class OrthogonalFitter(LeaceFitter):
    """`LeaceFitter` with `method="orth"`: `P = I - U U^H` with U a basis of `colspace(sigma_xz)`.

    Keeps only `O(d k)` statistics. As guarded as LEACE on the data it was fitted on, with a larger edit.

    Args:
        x_dim: Width of x.
        z_dim: Width of z.
        options: As `LeaceFitter`, without `method`.
    """

    config_type = OrthogonalConfig

    def __init__(self, x_dim: int, z_dim: int, **options: Any) -> None:
        super().__init__(x_dim, z_dim, "orth", **options)

    def options(self) -> dict[str, Any]:
        """Constructor arguments beyond the dimensions, as plain data."""
        return {k: v for k, v in super().options().items() if k != "method"}


register(
    Method(
        name="orth",
        subjects=("rows",),
        paper="arXiv:2203.07893",
        summary="orthogonal projection away from the cross-covariance (centred SAL)",
        fit=fit_of(OrthogonalFitter),
        fitter=OrthogonalFitter,
        erasure=LeaceEraser,
        config=OrthogonalConfig,
        access=("rows", "labels"),
        access_on=("rows",),
        guarantee="on the rows of the fit all classes have one mean, so no linear predictor beats a constant",
        no_guarantee="the least edit, or anything of non-linear predictors",
    )
)
