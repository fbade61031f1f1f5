"""MACE's two closed forms: the words around a concept forget it, and edits of several concepts become one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.concept import TEMPLATES, Concept
from efface.core.config import Config, option
from efface.core.doors import check_call
from efface.core.method import Method, register
from efface.core.weights import Change
from efface.diffusion.weights.closed_form import cholesky, equations, hold, mapped, move, pair_rows, phrase_rows
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.projections import LAYERS_HELP, Layers, Stream, deltas_of, streams_of
from efface.diffusion.weights.rows import READS, Phrase, check_words, pairs_of, preserved
from efface.pipelines.view import PipelineView

NAME = "mace-refinement"

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


@dataclass(frozen=True, kw_only=True)
class RefinementConfig(Config):
    """Options of the refinement."""

    layers: Layers = option("auto", LAYERS_HELP)
    ridge: float = option(1000.0, "how much the weights are held where they are", least=0)
    preserve_weight: float = option(0.1, "how much a row that is preserved counts", least=0)


def fit(view: PipelineView, concepts: Sequence[Concept], config: RefinementConfig) -> WeightErasure:
    """The closed-form refinement of MACE (arXiv:2403.06135, equations 1 to 3), of any number of concepts at once.

    In templates with the concept, the rows of all words but the concept's own are read as the same words' rows with the
    anchor in its place: the end of text, padding and words behind it then say nothing of it. It is the first of MACE's
    three steps; the concept's own rows stay for the second, an adapter a concept, and `fused` is the third.

    Differences from the released code: templates are the concept's own, or ten of ours (there 30); what is preserved is
    the concept's `preserve` in these templates, as no cached captions are shipped.

    Raises:
        InputError: If the pipeline cannot read a word, its text enters where no such edit is defined, or the normal
            equations are singular.
    """
    check_words(view, concepts)
    told = _told(concepts)
    streams = streams_of(view, config.layers)
    if all(stream.pooled for stream in streams):
        raise InputError(f"{type(view.pipe).__name__} gives these layers one vector a prompt, which has no other words")
    streams = tuple(stream for stream in streams if not stream.pooled)
    sums = equations(streams, view)
    move(sums, pair_rows(view, streams, pairs_of(told, in_templates=True), "others"))
    hold(sums, phrase_rows(view, streams, preserved(told, in_templates=True), "all"), config.preserve_weight)
    maps = [total.solve(config.ridge) for total in sums]
    report = {"keys": sums[0].n, "ranks": [found.rank for found in maps]}
    return mapped(view, streams, maps, method=NAME, concepts=concepts, config=config, report=report)


def _with_contexts(concept: Concept) -> Concept:
    return Concept.of(concept, templates=CONTEXTS) if tuple(concept.templates) == TEMPLATES else concept


def fused(
    pipe: Any,
    erasures: Sequence[WeightErasure],
    *,
    preserve: Sequence[str] = (),
    preserve_weight: float = 0.1,
    ridge: float = 1e-3,
    after: WeightErasure | None = None,
) -> WeightErasure:
    """Edits of several concepts as one change (MACE's fusion, arXiv:2403.06135, equations 7 to 9).

    Each was fitted by itself to the same weights, by whatever method that edits matrices of text. For each matrix, with
    `D_i` its change by the i-th and rows k of that one's concepts in their templates, it is the least squares of

        sum_i sum_k || D k - D_i k ||^2 + preserve_weight sum_p || D p ||^2 + ridge ||D||^2,

    so that what one erases the others leave alone. Matrices that read no text have no rows, and are refused.

    Args:
        pipe: The pipeline, or a view of it.
        erasures: Two or more.
        preserve: Prompts on which nothing is to change, beside what their concepts preserve.
        preserve_weight: How much a row of these counts.
        ridge: How much the weights are held where they are.
        after: What goes on before, such as the refinement: the result is of both.

    Raises:
        InputError: If they edit other things, or were fitted to other weights.
    """
    check_call(fused, locals())
    if len(erasures) < 2:
        raise InputError(f"there is nothing to fuse in {len(erasures)} erasures: give two or more")
    for name, value in (("preserve_weight", preserve_weight), ("ridge", ridge)):
        if not 0 <= value < math.inf:
            raise InputError(f"{name}={value!r}: write a finite number, at least 0")
    view = PipelineView.of(pipe)
    concepts = tuple(dict.fromkeys(concept for each in erasures for concept in each.concepts))
    streams = _edited(view, erasures)
    sums = [total.gram for total in equations(streams, view)]
    crosses: dict[tuple[str, str], Tensor] = {}
    for erasure in erasures:
        phrases = [pair.key for pair in pairs_of(_told(erasure.concepts), in_templates=True)]
        grams = _grams(view, streams, phrases)
        sums = [total + gram for total, gram in zip(sums, grams, strict=True)]
        with ExitStack() as stack:
            if after is not None:
                stack.enter_context(after.on(view))
            erasure.on(view).undo()  # or it is refused
            for stream, gram in zip(streams, grams, strict=True):
                for path, change in _changes(erasure, stream).items():
                    at = (stream.part, path)
                    crosses[at] = crosses.get(at, torch.zeros_like(change)) + change @ gram
    kept = [*preserved(_told(concepts), in_templates=True), *(Phrase(prompt, prompt) for prompt in preserve)]
    grams = _grams(view, streams, kept)
    sums = [total + preserve_weight * gram for total, gram in zip(sums, grams, strict=True)]
    changes: list[tuple[Stream, dict[str, Change]]] = []
    for stream, gram in zip(streams, sums, strict=True):
        factor = cholesky(gram, ridge, "the concepts")
        solved = {path: torch.cholesky_solve(crosses[stream.part, path].mT, factor).mT for path in stream.matrices}
        changes.append((stream, stream.additions(solved)))
    found = WeightErasure(deltas_of(view, changes), method="joined", concepts=concepts)
    found = replace(found, report={**found.size, "of": [each.report for each in erasures]})
    return found if after is None else after.then(found)


def _told(concepts: Sequence[Concept]) -> list[Concept]:
    return [_with_contexts(concept) for concept in concepts]


def _edited(view: PipelineView, erasures: Sequence[WeightErasure]) -> list[Stream]:
    """The matrices of text that erasures edit."""
    names = {(part, name) for each in erasures for part, delta in each.deltas.items() for name in delta.changes}
    known: list[Stream] = []
    for layers in ("keys-and-values", "context"):
        with suppress(InputError):  # a pipeline need not have both
            known += streams_of(view, layers)
    found = []
    for stream in known:
        edited = {p: m for p, m in stream.matrices.items() if (stream.part, f"{p}.weight") in names}
        names -= {(stream.part, f"{path}.weight") for path in edited}
        found += [replace(stream, matrices=edited)] if edited else []
    if names:
        part, name = min(names)
        raise InputError(
            f"{name} of {part} is no matrix that reads the rows of a prompt, so there are no rows to fuse it on: fuse "
            "erasures of keys and values (or of the context) alone, or join them by a & b"
        )
    return found


def _changes(erasure: WeightErasure, stream: Stream) -> dict[str, Tensor]:
    """Path -> the change by an erasure of a matrix as it is now, in the columns that read rows; float64."""
    found = {}
    for path, module in stream.matrices.items():
        weight: Any = module.weight
        before = after = weight.detach().double()
        for change in erasure.deltas[stream.part].changes.get(f"{path}.weight", ()):
            after = change.on(after)
        found[path] = (after - before)[:, : stream.width]
    return found


def _grams(view: PipelineView, streams: Sequence[Stream], phrases: Sequence[Phrase]) -> list[Tensor]:
    """Of each stream the sum of `k k^T` over all rows of prompts."""
    sums = equations(streams, view)
    hold(sums, phrase_rows(view, streams, phrases, "all"))
    return [total.gram for total in sums]


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="the words around a concept forget it, in closed form: the first step of MACE, for its others to go on",
        paper="arXiv:2403.06135",
        fit=fit,
        erasure=WeightErasure,
        config=RefinementConfig,
        reads=READS,
        access=("prompts", "embeddings", "weights"),
        access_on=("weights",),
        guarantee="the least squares of reading the words around the concepts as they are around their anchors",
        no_guarantee="that the concept is gone: its own rows are read as before, until adapters take them; or anything "
        "against who has the weights of before",
    )
)
