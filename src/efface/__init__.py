"""efface: take a concept out of a model, prove that it is gone, show what else went with it.

Names are imported when they are first used, so that `import efface` costs nothing.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from efface import attribution as attribution
    from efface import audit as audit
    from efface import compat as compat
    from efface import core as core
    from efface import diffusion as diffusion
    from efface import engines as engines
    from efface import erasers as erasers
    from efface import estimators as estimators
    from efface import explanation as explanation
    from efface import linalg as linalg
    from efface import moments as moments
    from efface import pipelines as pipelines
    from efface import report as report
    from efface import scrubbing as scrubbing
    from efface import stats as stats
    from efface import streams as streams
    from efface import training as training
    from efface._errors import (
        EffaceError,
        EffaceWarning,
        FormatError,
        GroupError,
        InputError,
        MissingExtraError,
        NotFittedError,
        NothingErasedWarning,
        NotReachedWarning,
        NotReadWarning,
        StillUnsafeWarning,
        UnknownOptionWarning,
    )
    from efface.core.concept import Concept
    from efface.core.erasure import Erasure, load
    from efface.core.method import Method, erase, get_method, methods
    from efface.core.saved_types import saved
    from efface.core.site import Site
    from efface.erasers.base import Eraser, EraserModule, Report
    from efface.erasers.compose import compose, join_concepts
    from efface.erasers.concepts import ConceptsFitter
    from efface.erasers.fitter import Fitter
    from efface.erasers.leace import ErasureMethod, LeaceEraser, LeaceFitter
    from efface.erasers.mean_difference import MeanDifferenceFitter
    from efface.erasers.oracle import OracleEraser, OracleFitter
    from efface.erasers.orthogonal import OrthogonalFitter
    from efface.erasers.quadratic import QuadraticEditor, QuadraticEraser, QuadraticFitter
    from efface.explanation.explaining import Explanation, explain
    from efface.linalg.shrinkage import optimal_linear_shrinkage
    from efface.moments.classwise import ClassMoments
    from efface.moments.grouping import GroupedTensor, groupby
    from efface.moments.quantile import QuantileNormalizer, cdf, icdf
    from efface.moments.streaming import Moments
    from efface.pipelines.view import PipelineView
    from efface.scrubbing.collecting import collect
    from efface.scrubbing.concept_scrubber import ConceptScrubber
    from efface.scrubbing.controls import RandomSubspace
    from efface.scrubbing.fitting import scrub
    from efface.scrubbing.fold import foldable
    from efface.scrubbing.scrubber import Scrubber
    from efface.scrubbing.sites import find_roles, find_sites
    from efface.scrubbing.token_labels import (
        labels_from_characters,
        labels_from_spans,
        labels_from_tagged,
        labels_from_words,
    )

_NAMES = {
    "efface._errors": (
        "EffaceError",
        "EffaceWarning",
        "FormatError",
        "GroupError",
        "InputError",
        "MissingExtraError",
        "NotFittedError",
        "NothingErasedWarning",
        "NotReachedWarning",
        "NotReadWarning",
        "StillUnsafeWarning",
        "UnknownOptionWarning",
    ),
    "efface.pipelines.view": ("PipelineView",),
    "efface.erasers.base": ("Eraser", "EraserModule", "Report"),
    "efface.erasers.fitter": ("Fitter",),
    "efface.erasers.compose": ("compose", "join_concepts"),
    "efface.erasers.concepts": ("ConceptsFitter",),
    "efface.erasers.leace": ("ErasureMethod", "LeaceEraser", "LeaceFitter"),
    "efface.erasers.mean_difference": ("MeanDifferenceFitter",),
    "efface.erasers.oracle": ("OracleEraser", "OracleFitter"),
    "efface.erasers.orthogonal": ("OrthogonalFitter",),
    "efface.erasers.quadratic": ("QuadraticEditor", "QuadraticEraser", "QuadraticFitter"),
    "efface.explanation.explaining": ("Explanation", "explain"),
    "efface.linalg.shrinkage": ("optimal_linear_shrinkage",),
    "efface.moments.classwise": ("ClassMoments",),
    "efface.moments.grouping": ("GroupedTensor", "groupby"),
    "efface.moments.quantile": ("QuantileNormalizer", "cdf", "icdf"),
    "efface.moments.streaming": ("Moments",),
    "efface.scrubbing.concept_scrubber": ("ConceptScrubber",),
    "efface.scrubbing.controls": ("RandomSubspace",),
    "efface.scrubbing.collecting": ("collect",),
    "efface.scrubbing.fitting": ("scrub",),
    "efface.scrubbing.fold": ("foldable",),
    "efface.scrubbing.token_labels": (
        "labels_from_characters",
        "labels_from_spans",
        "labels_from_tagged",
        "labels_from_words",
    ),
    "efface.scrubbing.scrubber": ("Scrubber",),
    "efface.core.concept": ("Concept",),
    "efface.core.erasure": ("Erasure", "load"),
    "efface.core.method": ("Method", "erase", "get_method", "methods"),
    "efface.core.saved_types": ("saved",),
    "efface.core.site": ("Site",),
    "efface.scrubbing.sites": ("find_roles", "find_sites"),
}

_ROOMS = (
    *("attribution", "audit", "compat", "core", "diffusion", "engines", "erasers", "estimators"),
    *("explanation", "linalg", "moments", "pipelines", "report", "scrubbing", "stats", "streams", "training"),
)

__all__ = [
    "ClassMoments",
    "Concept",
    "ConceptScrubber",
    "ConceptsFitter",
    "EffaceError",
    "EffaceWarning",
    "Eraser",
    "EraserModule",
    "Erasure",
    "ErasureMethod",
    "Explanation",
    "Fitter",
    "FormatError",
    "GroupError",
    "GroupedTensor",
    "InputError",
    "LeaceEraser",
    "LeaceFitter",
    "MeanDifferenceFitter",
    "MissingExtraError",
    "Method",
    "Moments",
    "NotFittedError",
    "NothingErasedWarning",
    "NotReachedWarning",
    "NotReadWarning",
    "OracleEraser",
    "OracleFitter",
    "OrthogonalFitter",
    "PipelineView",
    "QuadraticEditor",
    "QuadraticEraser",
    "QuadraticFitter",
    "QuantileNormalizer",
    "RandomSubspace",
    "Report",
    "Scrubber",
    "Site",
    "StillUnsafeWarning",
    "UnknownOptionWarning",
    "audit",
    "cdf",
    "collect",
    "compose",
    "erase",
    "explain",
    "find_roles",
    "find_sites",
    "foldable",
    "get_method",
    "groupby",
    "icdf",
    "join_concepts",
    "labels_from_characters",
    "labels_from_spans",
    "labels_from_tagged",
    "labels_from_words",
    "load",
    "methods",
    "optimal_linear_shrinkage",
    "saved",
    "scrub",
]

__getattr__, __dir__ = attach(
    __name__,
    {name: module for module, names in _NAMES.items() for name in names} | {room: f"efface.{room}" for room in _ROOMS},
    globals(),
)
