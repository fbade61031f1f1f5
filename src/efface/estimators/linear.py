"""Estimators whose eraser is a linear projection: LEACE, orthogonal, mean difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from efface.erasers.leace import LeaceFitter
from efface.erasers.mean_difference import MeanDifferenceFitter
from efface.erasers.orthogonal import OrthogonalFitter
from efface.estimators.base import UnlabelledTransformer


@dataclass(kw_only=True, eq=False, repr=False)
class LeaceTransformer(UnlabelledTransformer):
    """Erases a concept from features by LEACE: the least edit that leaves no linear trace of it.

    After `fit_transform`, `Cov(X', Z) = 0`: on these rows no linear classifier or regression reads Z from X'
    better than a constant. The concept Z is given in one of three ways: `fit(X, sensitive_features=Z)`, which
    a Pipeline passes on under metadata routing; `sensitive_columns`, for columns of X, which are dropped from
    the output; or `concept="y"`. The target y is never erased unasked.

    Args:
        sensitive_columns: Names or positions of the columns of X that hold the concept.
        keep_sensitive: Leave those columns in the output, as they were.
        concept: `"y"` if the concept is y.
        kind: `"auto"`: strings, categories, booleans and integers are classes, floats are quantities.
            `"categorical"` and `"continuous"` override, and a mapping from column name overrides by column.
        affine: Keep the mean of X; otherwise the map is linear.
        shrinkage: Shrink the covariance of X (arXiv:1308.2608): smaller edits on few rows.
        svd_tol: Leave canonical correlations up to this alone; None leaves rounding alone.

    Attributes:
        eraser_: The fitted eraser, to save, or to use without scikit-learn.
        report_: What the fit found and did.
        rank_: How many directions were taken out.
        fitter_: The statistics, which `partial_fit` adds to.
        sensitive_indices_: Positions of the sensitive columns, if they are columns of X.
        n_features_in_: Number of columns of X.
        feature_names_in_: Their names, if X had any.

    Does not guarantee: anything of non-linear models (a forest or a network may still read Z); exact erasure on
    rows it was not fitted on; that a combination of two sensitive columns is erased if each of them is.

    Source: arXiv:2306.03819.

    >>> import numpy as np
    >>> X, sex = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 4.0], [3.0, 1.0]]), ["f", "f", "m", "m"]
    >>> X_ = LeaceTransformer().fit_transform(X, sensitive_features=sex)
    >>> np.allclose(X_[:2].mean(0), X_[2:].mean(0))
    True
    """

    affine: bool = True
    shrinkage: bool = True
    svd_tol: float | None = None

    def _make_fitter(self, x_dim: int, z_dim: int, dtype: Any) -> LeaceFitter:
        options = {"affine": self.affine, "shrinkage": self.shrinkage, "svd_tol": self.svd_tol}
        return LeaceFitter(x_dim, z_dim, dtype=dtype, **options)


@dataclass(kw_only=True, eq=False, repr=False)
class OrthogonalTransformer(UnlabelledTransformer):
    """Erases a concept by an orthogonal projection away from `Cov(X, Z)`.

    As guarded as LEACE on the rows it was fitted on, at a larger edit; needs `O(d k)` memory instead of
    `O(d^2)`. The result depends on the scale of the features: standardise them first.

    Args:
        sensitive_columns, keep_sensitive, concept, kind: As for `LeaceTransformer`.
        affine: Keep the mean of X; otherwise the map is linear.
        svd_tol: Leave directions whose correlation is up to this alone; None leaves rounding alone.

    Does not guarantee: see `LeaceTransformer`.

    Source: arXiv:2203.07893 (centred).

    >>> import numpy as np
    >>> X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
    >>> OrthogonalTransformer().fit_transform(X, sensitive_features=["f", "f", "m", "m"])[:, 0].round(6)
    array([1.5, 1.5, 1.5, 1.5])
    """

    affine: bool = True
    svd_tol: float | None = None

    def _make_fitter(self, x_dim: int, z_dim: int, dtype: Any) -> OrthogonalFitter:
        return OrthogonalFitter(x_dim, z_dim, dtype=dtype, affine=self.affine, svd_tol=self.svd_tol)


@dataclass(kw_only=True, eq=False, repr=False)
class MeanDifferenceTransformer(UnlabelledTransformer):
    """Erases classes by an orthogonal projection away from the differences of their means.

    The same projection as `OrthogonalTransformer` for classes, and none other: a continuous concept is cut
    into classes by `n_bins`, or refused.

    Args:
        sensitive_columns, keep_sensitive, concept, kind: As for `LeaceTransformer`.
        n_bins: Cut continuous concepts into that many classes, at quantiles of the first batch seen.
        affine: Keep the mean of X; otherwise the map is linear.
        svd_tol: Leave directions whose correlation is up to this alone; None leaves rounding alone.

    Does not guarantee: see `LeaceTransformer`; nor that a concept cut into bins is erased within a bin.

    Source: arXiv:2212.04273.

    >>> import numpy as np
    >>> X, z = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]]), np.array([0, 0, 1, 1])
    >>> MeanDifferenceTransformer().fit_transform(X, sensitive_features=z)[:, 1].round(6)
    array([1., 0., 1., 0.])
    """

    _classes_only = True

    n_bins: int | None = None
    affine: bool = True
    svd_tol: float | None = None

    def _make_fitter(self, x_dim: int, z_dim: int, dtype: Any) -> MeanDifferenceFitter:
        return MeanDifferenceFitter(x_dim, z_dim, dtype=dtype, affine=self.affine, svd_tol=self.svd_tol)
