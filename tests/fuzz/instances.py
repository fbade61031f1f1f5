"""Good instances of public classes, whose methods are called, and good arguments that take long to make."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

import efface
from efface import attribution, audit, estimators, scrubbing
from efface.audit.explanations import Measured, Subject
from efface.audit.pipelines import Readings
from efface.audit.vectors import Labels
from efface.core.installer import handles_on
from efface.core.method import get_method
from efface.explanation.pixels import PixelModel
from efface.pipelines import PromptEmbedding
from tests import models, squares
from tests.cases import CASES, CIRCLE
from tests.fuzz import odd
from tests.fuzz.outcome import quiet
from tests.pipelines import build


def _rows() -> tuple[torch.Tensor, torch.Tensor]:
    return odd.RIGHT["x (6, 4)"](random.Random()), odd.RIGHT["z (6,)"](random.Random())


@cache
def model() -> Any:
    """A tiny language model."""
    return models.tiny("llama")


@cache
def pipeline() -> Any:
    """A tiny text-to-image pipeline."""
    return build("sd1")


@cache
def view() -> Any:
    """A view of it."""
    return efface.PipelineView.of(pipeline())


@cache
def classifier() -> Any:
    """A classifier of pictures."""
    return squares.colour_net()


@cache
def _fitted(subject: str, method: str) -> Any:
    """What a method gives of a subject."""
    with quiet():
        return CASES[subject].fit(get_method(method, subject))


@cache
def _folded() -> Any:
    return _fitted("model", "leace").folded(model())


def tidy() -> None:
    """Take off what a call has put on the subjects that are shared by all calls.

    Raises:
        AssertionError: If it leaves a hook all the same.
    """
    for shared in (model, pipeline, classifier):
        if shared.cache_info().currsize:
            for handle in reversed(handles_on(shared())):
                handle.undo(force=True)
    for shared in (model, classifier):
        if shared.cache_info().currsize and (left := models.hooks(shared())):
            shared.cache_clear()
            raise AssertionError(f"{left} hooks are left")


GIVEN: dict[str, Callable[[random.Random], Any]] = {
    "model": lambda r: model(),
    "pipe": lambda r: pipeline(),
    "pipeline": lambda r: pipeline(),
    "view": lambda r: view(),
    "subject": lambda r: r.choice((model, pipeline, classifier))(),
    "classifier": lambda r: classifier(),
    "images": lambda r: squares.squares(4)[0],
    "data": lambda r: {"input_ids": models.tokens()},
    "concept": lambda r: CIRCLE,
    "prompts": lambda r: ["a red circle", "a small star"],
    "prompt": lambda r: "a red circle",
    "removal": lambda r: attribution.ConstantColour((0.25,) * 3, (0.1,) * 3),
    "masker": lambda r: attribution.Grid(2),
    "sites": lambda r: "norms",
    "audit": lambda r: audit.Audit("title"),
    "embedding": lambda r: view().encode(["a red circle"]),
    "labels": lambda r: Labels.of([0, 1, 0, 1, 0, 1], "y"),
    "eraser": lambda r: efface.LeaceEraser.fit(*_rows()),
    "before": lambda r: _rows()[0],
    "after": lambda r: _rows()[0] * 0.5,
}
"""What often fits, by the name of the parameter."""


@cache
def instances() -> dict[str, Callable[[], Any]]:
    """How to make a good instance of a class, for its methods."""
    return {**_of_rows(), **_of_audits(), **_of_attribution(), **_of_models(), **_of_pipelines()}


def instance(cls: type) -> Any:
    """A good instance."""
    with quiet():
        return instances()[cls.__name__]()


def _of_rows() -> dict[str, Callable[[], Any]]:
    x, z = _rows()
    fitters = ("LeaceFitter", "OrthogonalFitter", "MeanDifferenceFitter", "OracleFitter", "QuadraticFitter")
    transformers = ("Leace", "Orthogonal", "MeanDifference", "Oracle", "Quadratic")
    made: dict[str, Callable[[], Any]] = {name: partial(getattr(efface, name).fit, x, z) for name in fitters}
    return made | {
        "LeaceEraser": lambda: efface.LeaceEraser.fit(x, z),
        "OracleEraser": lambda: efface.OracleEraser.fit(x, z),
        "QuadraticEraser": lambda: efface.QuadraticEraser.fit(x, z),
        "QuadraticEditor": lambda: efface.QuadraticFitter.fit(x, z).editor(),
        "EraserModule": lambda: efface.LeaceEraser.fit(x, z).to_module(),
        "Moments": lambda: efface.Moments(4, 3).update(x, torch.nn.functional.one_hot(z, 3)),
        "ClassMoments": lambda: efface.ClassMoments(4, 3).update(x, z),
        "QuantileNormalizer": lambda: efface.QuantileNormalizer(x, z, num_bins=4),
        "GroupedTensor": lambda: efface.groupby(x, z),
        "Concept": lambda: efface.Concept("circle"),
        "Site": lambda: efface.Site("net.0"),
        "Method": lambda: efface.get_method("leace", "rows"),
        **{
            f"{name}Transformer": partial(getattr(estimators, f"{name}Transformer")(concept="y").fit, x, z)
            for name in transformers
        },
    }


def _of_audits() -> dict[str, Callable[[], Any]]:
    series = audit.Series("a", (0.0, 1.0), (0.5, 0.6))
    return {
        "Audit": lambda: audit.Audit("title", findings=(audit.Finding("accuracy", 0.5),)),
        "Finding": lambda: audit.Finding("accuracy", 0.5, low=0.4, high=0.6),
        "Figure": lambda: audit.Figure("figure", (series,), "lines"),
        "Series": lambda: series,
        "Table": lambda: audit.Table("table", ("a", "b"), (("x", 1),)),
        "Task": lambda: audit.Task([0, 1, 0, 1, 0, 1]),
        "Labels": lambda: Labels.of([0, 1, 0, 1, 0, 1], "y"),
        "Measured": lambda: Measured([[1.0, 0.5]], [[0.5, 1.0]]),
        "Subject": lambda: Subject("", {"a": Measured([[1.0, 0.5]], [[0.5, 1.0]])}),
        "Readings": lambda: Readings([1.0] * 6, [-1.0] * 6),
    }


def _of_attribution() -> dict[str, Callable[[], Any]]:
    x = squares.squares(8)[0]
    return {
        "Blur": lambda: attribution.Blur(1.0),
        "ConstantColour": lambda: attribution.ConstantColour((0.25,) * 3, (0.1,) * 3),
        "Marginal": lambda: attribution.Marginal(x),
        "TabularGaussian": lambda: attribution.TabularGaussian(torch.zeros(4), std=torch.ones(4)),
        "TokenMask": lambda: attribution.TokenMask(0),
        "Grid": lambda: attribution.Grid(2),
        "Segments": lambda: attribution.Segments(torch.arange(64).reshape(8, 8) // 32),
        "Superpixels": lambda: attribution.Superpixels(2, 2),
        "FeatureGroups": lambda: attribution.FeatureGroups([[0, 1], [2, 3]]),
        "Tokens": lambda: attribution.Tokens(),
        "TokenClassifier": lambda: attribution.TokenClassifier(models.tiny("bert"), 0),
        "Curve": lambda: attribution.Curve("keep", (0.5, 1.0), (2, 4), torch.ones(2, 3), torch.ones(2, 3)),
        "DiET": squares.quick_diet,
        "DietErasure": lambda: _fitted("classifier", "diet"),
        "PixelModel": lambda: PixelModel(classifier()),
    }


def _of_models() -> dict[str, Callable[[], Any]]:
    return {
        "Scrubber": lambda: _fitted("model", "leace"),
        "Folded": _folded,
        "RandomSubspace": lambda: efface.RandomSubspace(1),
        "ConceptScrubber": lambda: efface.ConceptScrubber(),
        "ScrubConfig": lambda: scrubbing.ScrubConfig(),
    }


def _of_pipelines() -> dict[str, Callable[[], Any]]:
    return {
        "PipelineView": view,
        "PromptEmbedding": lambda: PromptEmbedding(torch.zeros(2, 3, 4), pooled=torch.zeros(2, 4), prompts=("a", "b")),
        "KeyValueLayer": lambda: view().key_value_layers()[0],
        "Cgce": lambda: _fitted("pipeline", "cgce"),
        "NegativePromptErasure": lambda: _fitted("pipeline", "negative-prompt"),
        "PromptProjection": lambda: _fitted("pipeline", "projection"),
        "SafeLatentDiffusion": lambda: _fitted("pipeline", "sld"),
        "Safree": lambda: _fitted("pipeline", "safree"),
        "SemanticSurgery": lambda: _fitted("pipeline", "semantic-surgery"),
    }
