"""UCE: key and value projections that read a concept as its anchor, and all that is preserved as before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from efface._errors import InputError
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.method import Method, register
from efface.diffusion.weights.closed_form import (
    InputMap,
    NormalEquations,
    equations,
    hold,
    mapped,
    move,
    pair_rows,
    phrase_rows,
    rows_of_pairs,
)
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.projections import LAYERS_HELP, Layers, Stream, streams_of
from efface.diffusion.weights.rows import (
    READS,
    SPAN_HELP,
    Pair,
    Phrase,
    Span,
    check_words,
    pairs_of,
    preserved,
    reads_of,
)
from efface.pipelines.view import PipelineView

NAME = "uce"


@dataclass(frozen=True, kw_only=True)
class ReadAsConfig(Config):
    """Options of what reads a concept's rows as its anchor's."""

    key_span: Span = option("last_to_end", SPAN_HELP)
    layers: Layers = option("auto", LAYERS_HELP)
    ridge: float = option(0.5, "how much the weights are held where they are", least=0)
    erase_weight: float = option(1.0, "how much a row of the concept counts", above=0)
    preserve_weight: float | Literal["auto"] = option(
        "auto", "how much a row that is preserved counts; auto: one over how many concepts, at least .1", least=0
    )
    in_templates: bool = option(False, "read words in the concept's templates, too, not by themselves")


@dataclass(frozen=True, kw_only=True)
class UceConfig(ReadAsConfig):
    """Options of UCE."""

    target: Literal["replace", "tensor"] = option(
        "replace", "what a concept's values become: the anchor's, or those without their part along the concept's"
    )


def fit(
    view: PipelineView, concepts: Sequence[Concept], config: UceConfig, *, debias: Mapping[str, float] | None = None
) -> WeightErasure:
    """Unified concept editing (arXiv:2308.14761, equation 7), for any number of concepts at once.

    Each word of each concept is read as its anchor (as its neutral prompt where there is none), the words to preserve
    and the neutral prompt as before. With `debias`, a concept is read as itself and so much of each attribute:
    `v* = W (c + sum_a r_a c_a)`.

    With `target="tensor"`, as the released code calls it, values are read as the anchor's without their part along the
    concept's own, which are not the same rows for each matrix W:

        V* = W T - (<W T, W C> / <W C, W C>) W C

    for the rows C of a word's prompt and T of its anchor's, a pair as one vector, as in the release (with
    `key_span="last"` that is row by row). An anchor that reads the same as its concept then leaves nothing of it.

    Differences from the released code: it has two key spans, this has both (`"last_to_end"`: the paper's time;
    `"last"`: since 2025); it inverts a matrix for each layer in the layer's own dtype, this one for all in float64; its
    debiasing measures pictures to choose strengths, here they are given.

    Args:
        view: The pipeline.
        concepts: What is erased.
        config: The options.
        debias: Attribute -> strength; nothing is then erased.

    Raises:
        InputError: If the pipeline cannot read a word, its text enters where no such edit is defined, or the normal
            equations are singular.
    """
    debias = None if debias is None else _strengths(debias)
    if debias is not None and config.target != "replace":
        raise InputError(
            f"target={config.target!r} says what an erased concept becomes, and with debias none is erased: leave one "
            "of them out"
        )
    check_words(view, concepts, more=tuple(debias or ()))
    streams = streams_of(view, config.layers)
    solved, sums = solutions(view, streams, concepts, config, debias)
    report: dict[str, Any] = {"keys": sums[0].n, "ranks": [found.rank for found in solved]}
    if config.target == "replace":
        return mapped(view, streams, solved, method=NAME, concepts=concepts, config=config, report=report)
    apart = projected(view, streams, concepts, config, sums)
    report["ranks"] = [max(found.rank for found in of.values()) for of in apart]
    return mapped(view, streams, apart, method=NAME, concepts=concepts, config=config, report=report)


def projected(
    view: PipelineView,
    streams: Sequence[Stream],
    concepts: Sequence[Concept],
    config: ReadAsConfig,
    sums: Sequence[NormalEquations],
) -> list[dict[str, InputMap]]:
    """Of each stream and matrix, what rows are read as where targets are without their part along the concept's values.

    Args:
        view: The pipeline.
        streams: Matrices of it.
        concepts: What is erased.
        config: The options.
        sums: Of each stream, with the keys of all concepts and of what is preserved.
    """
    weights = [{p: w.to(t.gram) for p, w in s.weights.items()} for s, t in zip(streams, sums, strict=True)]
    aims = [{p: NormalEquations(w.shape[1], w.device) for p, w in of.items()} for of in weights]
    for some in rows_of_pairs(view, streams, pairs_of(concepts, config.in_templates), config.key_span):
        for of_stream, matrices, aimed in zip(some, weights, aims, strict=True):
            for path, w in matrices.items():
                for keys, targets in of_stream:
                    aimed[path].aim(keys, without(w, keys.to(w), targets.to(w)), config.erase_weight)
    return [
        {path: aim.beside(total).solve(config.ridge) for path, aim in aimed.items()}
        for aimed, total in zip(aims, sums, strict=True)
    ]


def without(weight: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    """Rows `(n, width)` of which a matrix makes the targets' values without their part along the keys', as one vector.

    >>> import torch
    >>> without(torch.eye(2), torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[0., 4.]])
    """
    own, shown = keys @ weight.mT, targets @ weight.mT
    size = own.square().sum()
    return targets - ((own * shown).sum() / size if bool(size > 0) else size) * keys


def solutions(
    view: PipelineView,
    streams: Sequence[Stream],
    concepts: Sequence[Concept],
    config: ReadAsConfig,
    debias: Mapping[str, float] | None = None,
) -> tuple[list[InputMap], list[NormalEquations]]:
    """What rows are read as in each stream, and the sums that it follows from."""
    sums, kept = equations(streams, view), preserved(concepts, config.in_templates)
    pairs = pairs_of(concepts, config.in_templates)
    rows = pair_rows(view, streams, pairs, config.key_span)
    if debias is not None:
        rows = _with_attributes(view, streams, pairs, config.key_span, debias)
    move(sums, rows, config.erase_weight)
    weight = preserve_weight(config.preserve_weight, len(concepts))
    hold(sums, phrase_rows(view, streams, kept, "last" if config.key_span == "last" else "all"), weight)
    return [total.solve(config.ridge) for total in sums], sums


def preserve_weight(given: float | str, concepts: int) -> float:
    """The released rule for `"auto"`.

    >>> preserve_weight("auto", 2), preserve_weight("auto", 100), preserve_weight(1.0, 2)
    (0.5, 0.1, 1.0)
    """
    return max(0.1, 1 / concepts) if isinstance(given, str) else given


def _strengths(debias: Any) -> dict[str, float]:
    """Attribute -> strength, checked."""
    hint = "write debias={'woman': 0.5, ...}, or leave it out"
    if not isinstance(debias, Mapping) or not debias:
        raise InputError(f"debias names no attribute with its strength: {hint}")
    for word, strength in debias.items():
        if not isinstance(word, str) or isinstance(strength, bool) or not isinstance(strength, int | float):
            raise InputError(f"debias has {word!r}: {strength!r}, which is no attribute with its strength: {hint}")
        if not math.isfinite(strength):
            raise InputError(f"debias has {word!r}: {strength!r}: write a finite number")
    return {word: float(strength) for word, strength in debias.items()}


def _with_attributes(
    view: PipelineView,
    streams: Sequence[Stream],
    pairs: Sequence[Pair],
    span: Span,
    debias: Mapping[str, float],
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Each word's rows, to be read as themselves and a share of each attribute's."""
    towards = [[Pair(pair.key, Phrase(word, word)) for pair in pairs] for word in debias]
    for each in zip(*(pair_rows(view, streams, pairs_to, span) for pairs_to in towards), strict=True):
        found = []
        for of_stream in zip(*each, strict=True):
            keys = of_stream[0][0]
            shift = sum(r * targets for r, (_, targets) in zip(debias.values(), of_stream, strict=True))
            found.append((keys, keys + shift))
        yield found


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="text projections that read a concept as its anchor, in closed form (UCE), many concepts at once",
        paper="arXiv:2308.14761",
        fit=fit,
        erasure=WeightErasure,
        config=UceConfig,
        reads=READS,
        reads_with=reads_of,
        access=("prompts", "embeddings", "weights"),
        access_on=("weights",),
        guarantee="the least squares of reading the concepts' rows as their anchors' and preserved rows as before",
        no_guarantee="that the concept is gone from prompts that do not name it, from words that were not preserved, "
        "or against who has the weights of before",
    )
)
