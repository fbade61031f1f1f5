"""The estimator of the regression residual, which needs the concept when it transforms, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from efface._errors import InputError
from efface._text import shown
from efface.core.doors import fits
from efface.erasers.oracle import OracleFitter
from efface.estimators.base import LabelledTransformer


@dataclass(kw_only=True, eq=False, repr=False)
class OracleTransformer(LabelledTransformer):
    """Erases a concept by taking from each feature its least-squares regression on the concept.

    `X' = X - alpha (Z - mean Z) B` with `B = Cov(Z)^+ Cov(Z, X)`: the least edit of all that makes X' and Z
    uncorrelated. Equivalent to fairlearn's `CorrelationRemover` for numeric sensitive columns and alpha; takes
    categories, streams and routed columns as well.

    Args:
        sensitive_columns, keep_sensitive, concept, kind: As for `LeaceTransformer`; if the concept is y,
            `transform` takes it as `sensitive_features`.
        alpha: How much of the regression to take away, from 0 (nothing) to 1 (all of it).

    Does not guarantee: that non-linear models learn less. They may learn more, since the edit depends on the
    concept: feed its output to linear models.

    Source: EleutherAI blog 2023, "Oracle LEACE"; the residual of ordinary regression.

    >>> import numpy as np
    >>> X = np.array([[0.0, 0.0], [0.0, 2.0], [1.0, 2.0], [1.0, 4.0]])
    >>> OracleTransformer(sensitive_columns=[0]).fit_transform(X).ravel()
    array([1., 3., 1., 3.])
    """

    alpha: float = 1.0

    def _make_fitter(self, x_dim: int, z_dim: int, dtype: Any) -> OracleFitter:
        if not fits(self.alpha, float) or not 0 <= self.alpha <= 1:
            raise InputError(f"alpha must be between 0 and 1, got {shown(self.alpha)}")
        return OracleFitter(x_dim, z_dim, dtype=dtype)

    def _erase(self, features: Any, *z: Any) -> Any:
        erased = super()._erase(features, *z)
        return erased if self.alpha == 1 else np.asarray(self.alpha * erased + (1 - self.alpha) * features)
