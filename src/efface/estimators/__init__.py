"""The erasers as scikit-learn estimators: in a Pipeline, in cross-validation, on pandas and polars tables."""

from efface._lazy import attach

_NAMES = {
    "LeaceTransformer": "efface.estimators.linear",
    "OrthogonalTransformer": "efface.estimators.linear",
    "MeanDifferenceTransformer": "efface.estimators.linear",
    "OracleTransformer": "efface.estimators.oracle",
    "QuadraticTransformer": "efface.estimators.quadratic",
}

__getattr__, __dir__ = attach(__name__, _NAMES, globals())
