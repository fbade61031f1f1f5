"""Mean projection: an orthogonal projection away from the differences of class means."""

from __future__ import annotations

from typing import Any

from efface._errors import InputError
from efface._registry import Method, register
from efface.erasers.leace import LeaceEraser
from efface.erasers.orthogonal import OrthogonalFitter


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

    def __init__(self, x_dim: int, z_dim: int, **options: Any) -> None:
        if options.pop("kind", "categorical") not in ("auto", "categorical"):
            raise InputError("a mean difference needs classes: use method 'orth' for a continuous concept")
        super().__init__(x_dim, z_dim, kind="categorical", **options)
        self.method = "mean-difference"

    def options(self) -> dict[str, Any]:
        """Constructor arguments beyond the dimensions, as plain data."""
        return {k: v for k, v in super().options().items() if k != "kind"}


register(
    Method(
        name="mean-difference",
        kind="vector",
        paper="arXiv:2212.04273",
        summary="orthogonal projection away from the differences of class means",
        fitter=MeanDifferenceFitter,
        eraser=LeaceEraser,
        concepts=("categorical",),
    )
)
