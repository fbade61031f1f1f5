"""The estimator of quadratic erasure, which makes means and covariances of all classes equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from efface.erasers.quadratic import QuadraticFitter
from efface.estimators.base import LabelledTransformer


@dataclass(kw_only=True, eq=False, repr=False)
class QuadraticTransformer(LabelledTransformer):
    """Erases classes so that no quadratic model reads them: each is moved to the barycenter of all.

    `X' = T_z (X - mu_z) + mu` with the optimal transport maps T_z between Gaussians. Of several sensitive
    columns each combination of classes is a class, so that combinations are erased as well.

    Args:
        sensitive_columns, keep_sensitive, concept, kind: As for `LeaceTransformer`; if the concept is y,
            `transform` takes it as `sensitive_features`.
        n_bins: Cut continuous concepts into that many classes, at quantiles of the first batch seen.
        shrinkage: Shrink the class covariances (arXiv:1308.2608), as classes with few rows need.

    Does not guarantee: anything of models of higher order, which may learn more from the edit; equal
    covariances with shrinkage on, or on rows it was not fitted on.

    Source: arXiv:2502.02820.

    >>> import numpy as np
    >>> X, z = np.array([[-1.0], [1.0], [3.0], [9.0]]), ["a", "a", "b", "b"]
    >>> QuadraticTransformer(shrinkage=False).fit_transform(X, sensitive_features=z).round(6).ravel()
    array([1., 5., 1., 5.])
    """

    _one_class_a_row = True

    n_bins: int | None = None
    shrinkage: bool = True

    def _make_fitter(self, x_dim: int, z_dim: int, dtype: Any) -> QuadraticFitter:
        return QuadraticFitter(x_dim, z_dim, dtype=dtype, shrinkage=self.shrinkage)
