"""Orthogonal projection away from the cross-covariance: centred SAL (arXiv:2203.07893), without whitening."""

from __future__ import annotations

from typing import Any

from efface._registry import Method, register
from efface.erasers.leace import LeaceEraser, LeaceFitter


class OrthogonalFitter(LeaceFitter):
    """`LeaceFitter` with `method="orth"`: `P = I - U U^H` with U a basis of `colspace(sigma_xz)`.

    Keeps only `O(d k)` statistics. As guarded as LEACE on the data it was fitted on, with a larger edit.

    Args:
        x_dim: Width of x.
        z_dim: Width of z.
        options: As `LeaceFitter`, without `method`.
    """

    def __init__(self, x_dim: int, z_dim: int, **options: Any) -> None:
        super().__init__(x_dim, z_dim, "orth", **options)

    def options(self) -> dict[str, Any]:
        """Constructor arguments beyond the dimensions, as plain data."""
        return {k: v for k, v in super().options().items() if k != "method"}


register(
    Method(
        name="orth",
        kind="vector",
        paper="arXiv:2203.07893",
        summary="orthogonal projection away from the cross-covariance (centred SAL)",
        fitter=OrthogonalFitter,
        eraser=LeaceEraser,
    )
)
