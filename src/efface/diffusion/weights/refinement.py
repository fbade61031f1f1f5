"""MACE's refinement: the words around a concept forget it, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

from efface._errors import InputError
from efface.core.concept import TEMPLATES, Concept
from efface.core.config import Config
from efface.diffusion.weights.closed_form import equations, hold, mapped, move, pair_rows, phrase_rows
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.projections import Layers, streams_of
from efface.diffusion.weights.rows import pairs_of, preserved
from efface.pipelines.view import PipelineView

CONTEXTS = (
    "{}",
    "a photo of a {}",
    "a {} in a photo",
    "a picture of the {} in the morning",
    "an image of a {} on a table",
    "a {} and a house",
    "a small {} in the corner of a room",
    "a drawing of a {} with a tree",
    "the {} is here",
    "there is a {} in this picture",
)
"""Templates with words behind the concept, for concepts that name none."""


def told(concepts: Sequence[Concept]) -> list[Concept]:
    """Concepts with templates that have words behind the concept, where they name none."""
    own = [tuple(concept.templates) == TEMPLATES for concept in concepts]
    return [Concept.of(c, templates=CONTEXTS) if bare else c for c, bare in zip(concepts, own, strict=True)]


def refined(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: Config,
    *,
    method: str,
    layers: Layers,
    ridge: float,
    preserve_weight: float,
) -> WeightErasure:
    """The closed-form refinement of MACE (arXiv:2403.06135, equations 1 to 3), of any number of concepts at once.

    In templates with the concept, the rows of all words but the concept's own are read as the same words' rows with the
    anchor in its place: the end of text, padding and words behind it then say nothing of it. The concept's own rows
    stay for an adapter a concept.

    Args:
        view: The pipeline.
        concepts: What is erased.
        config: The options of the method.
        method: Its name.
        layers: Which matrices.
        ridge: How much these are held where they are.
        preserve_weight: How much a row that is preserved counts.

    Raises:
        InputError: If text enters the pipeline where no such edit is defined, or the normal equations are singular.
    """
    streams = streams_of(view, layers)
    if all(stream.pooled for stream in streams):
        raise InputError(f"{type(view.pipe).__name__} gives these layers one vector a prompt, which has no other words")
    streams = tuple(stream for stream in streams if not stream.pooled)
    sums = equations(streams, view)
    move(sums, pair_rows(view, streams, pairs_of(told(concepts), in_templates=True), "others"))
    hold(sums, phrase_rows(view, streams, preserved(told(concepts), in_templates=True), "all"), preserve_weight)
    maps = [total.solve(ridge) for total in sums]
    report = {"keys": sums[0].n, "ranks": [found.rank for found in maps]}
    return mapped(view, streams, maps, method=method, concepts=concepts, config=config, report=report)
