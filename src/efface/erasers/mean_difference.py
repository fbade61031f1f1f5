"""Mean projection: an orthogonal projection away from the differences of class means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from efface._errors import InputError
from efface.core.config import Config, option
from efface.core.method import Method, register
from efface.erasers.fitter import fit_of
from efface.erasers.leace import LeaceEraser
from efface.erasers.orthogonal import OrthogonalFitter


@dataclass(frozen=True, kw_only=True)
class MeanDifferenceConfig(Config):
    """Options of the mean projection; see `LeaceFitter`."""

    affine: bool = option(True, "keep the mean of the rows; otherwise the map is linear")
    svd_tol: float | None = option(None, "leave correlations up to this alone; None: rounding alone", above=0)


class MeanDifferenceFitter(OrthogonalFitter):
    """`P = I - U U^T` with U a basis of the span of `mean(x | z = i) - mean(x)`.

    For classes the cross-covariance has the columns `p_i (mean(x | z = i) - mean(x))`, which span the same
    space: this is the orthogonal projection, restricted to categorical concepts.

    Args:
        x_dim: Width of x.
        z_dim: Number of classes.
        options: As `LeaceFitter`, without `method` and `kind`.

    Source: Haghighatkhah et al. 2022, "Better Hit the Nail on the Head than Beat around the Bush".
    """

    config_type = MeanDifferenceConfig

    def __init__(self, x_dim: int, z_dim: int, **options: Any) -> None:
        kind = options.pop("kind", "categorical")
        if not isinstance(kind, str) or kind not in ("auto", "categorical"):
            raise InputError("a mean difference needs classes: use method 'orth' for a continuous concept")
        super().__init__(x_dim, z_dim, kind="categorical", **options)
        self.method = "mean-difference"

    def options(self) -> dict[str, Any]:
        """Constructor arguments beyond the dimensions, as plain data."""
        return {k: v for k, v in super().options().items() if k != "kind"}


register(
    Method(
        name="mean-difference",
        subjects=("rows",),
        paper="arXiv:2212.04273",
        summary="orthogonal projection away from the differences of class means",
        fit=fit_of(MeanDifferenceFitter),
        fitter=MeanDifferenceFitter,
        erasure=LeaceEraser,
        config=MeanDifferenceConfig,
        access=("rows", "labels"),
        access_on=("rows",),
        guarantee="on the rows of the fit all classes have one mean, so no linear predictor beats a constant",
        no_guarantee="the least edit, or anything of non-linear predictors",
        concepts=("categorical",),
    )
)
