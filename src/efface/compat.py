"""The names of the package concept_erasure 0.2 with its signatures; they are names of `efface` too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface.erasers.leace import ErasureMethod, LeaceEraser, LeaceFitter
    from efface.erasers.oracle import OracleEraser, OracleFitter
    from efface.erasers.quadratic import QuadraticEditor, QuadraticEraser, QuadraticFitter
    from efface.linalg.shrinkage import optimal_linear_shrinkage
    from efface.moments.grouping import GroupedTensor, groupby
    from efface.moments.quantile import QuantileNormalizer, cdf, icdf
    from efface.scrubbing.concept_scrubber import ConceptScrubber

_NAMES = {
    "efface.erasers.leace": ("ErasureMethod", "LeaceEraser", "LeaceFitter"),
    "efface.erasers.oracle": ("OracleEraser", "OracleFitter"),
    "efface.erasers.quadratic": ("QuadraticEditor", "QuadraticEraser", "QuadraticFitter"),
    "efface.linalg.shrinkage": ("optimal_linear_shrinkage",),
    "efface.moments.grouping": ("GroupedTensor", "groupby"),
    "efface.moments.quantile": ("QuantileNormalizer", "cdf", "icdf"),
    "efface.scrubbing.concept_scrubber": ("ConceptScrubber",),
}

__all__ = [
    "ConceptScrubber",
    "ErasureMethod",
    "GroupedTensor",
    "LeaceEraser",
    "LeaceFitter",
    "OracleEraser",
    "OracleFitter",
    "QuadraticEditor",
    "QuadraticEraser",
    "QuadraticFitter",
    "QuantileNormalizer",
    "cdf",
    "groupby",
    "icdf",
    "optimal_linear_shrinkage",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
