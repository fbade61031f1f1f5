"""RECE: UCE, and then again for what would bring the concept back, found in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from efface.core.concept import Concept
from efface.core.config import option
from efface.core.method import Method, register
from efface.diffusion.weights.closed_form import (
    InputMap,
    cholesky,
    equations,
    hold,
    mapped,
    pair_rows,
    phrase_rows,
)
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.projections import Stream, streams_of
from efface.diffusion.weights.rows import READS, check_words, pairs_of, preserved, reads_of
from efface.diffusion.weights.uce import ReadAsConfig, preserve_weight, solutions
from efface.pipelines.view import PipelineView

NAME = "rece"


@dataclass(frozen=True, kw_only=True)
class ReceConfig(ReadAsConfig):
    """Options of RECE: those of UCE, with its own defaults, and of the rounds after it."""

    ridge: float = option(0.1, "how much the weights are held where they are", least=0)
    preserve_weight: float | Literal["auto"] = option(
        0.1, "how much a row that is preserved counts; auto: one over how many concepts, at least .1", least=0
    )
    rounds: int = option(3, "how often what would bring the concept back is looked for, and erased", least=0)
    regularisation: float = option(0.1, "how much what would bring it back is held near zero", above=0)


def fit(view: PipelineView, concepts: Sequence[Concept], config: ReceConfig) -> WeightErasure:
    """Reliable and efficient concept erasure (arXiv:2407.12383), for any number of concepts at once.

    From UCE's weights, in each round and for each row c of each concept's prompt:

        c* = (r I + sum_l W'_l^T W'_l)^-1 (sum_l W'_l^T W_l) c                                  (equation 8)

    is what the edited matrices read most nearly as the unedited ones read c; then c* is read as the anchor's row, as in
    UCE, from the weights of the round before. With `W' = W (I + D)` and `G = sum_l W_l^T W_l` all of it is in G and D,
    and no matrix of a layer is formed before the end.

    Differences from the released code: it stops by a detector's rate on pictures, here after a given number of rounds;
    it samples what to preserve among letters of a string, here all of it is.

    Raises:
        InputError: If the pipeline cannot read a word, its text enters where no such edit is defined, or the normal
            equations are singular.
    """
    check_words(view, concepts)
    streams = streams_of(view, config.layers)
    maps, sums = solutions(view, streams, concepts, config)
    grams = [gram_of(stream, total.gram) for stream, total in zip(streams, sums, strict=True)]
    far: list[float] = []
    for _ in range(config.rounds):
        back = [bringing_back(g, d, config.regularisation) for g, d in zip(grams, maps, strict=True)]
        nexts, moved = _round(view, streams, concepts, config, back)
        maps = [d.then(more) for d, more in zip(maps, nexts, strict=True)]
        far.append(moved)
    report = {"keys": sums[0].n, "ranks": [found.rank for found in maps], "found": far}
    return mapped(view, streams, maps, method=NAME, concepts=concepts, config=config, report=report)


def gram_of(stream: Stream, like: Tensor) -> Tensor:
    """`sum_l W_l^T W_l` of the matrices as they are."""
    found = torch.zeros_like(like)
    for weight in stream.weights.values():
        w = weight.to(found)
        found.addmm_(w.mT, w)
    return found


def bringing_back(gram: Tensor, edit: InputMap, regularisation: float) -> Tensor:
    """What a row c is multiplied by to give c*, `(width, width)`."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    mixed = (eye + edit.matrix).mT @ gram
    edited = mixed @ (eye + edit.matrix)
    return torch.cholesky_solve(mixed, cholesky((edited + edited.mT) / 2, regularisation, "the edited matrices"))


def _round(
    view: PipelineView, streams: Sequence[Stream], concepts: Sequence[Concept], config: ReceConfig, back: list[Tensor]
) -> tuple[list[InputMap], float]:
    """What rows are read as after a round, and how large what was found is beside the concept's own rows."""
    sums = equations(streams, view)
    sizes = torch.zeros(2, dtype=torch.float64)
    for each in pair_rows(view, streams, pairs_of(concepts, config.in_templates), "all"):
        for total, (keys, targets), by in zip(sums, each, back, strict=True):
            found = keys @ by.mT
            sizes += torch.stack([found.norm() ** 2, keys.norm() ** 2]).cpu()
            total.add(found, targets, config.erase_weight)
    weight = preserve_weight(config.preserve_weight, len(concepts))
    hold(sums, phrase_rows(view, streams, preserved(concepts, config.in_templates), "all"), weight)
    return [total.solve(config.ridge) for total in sums], float((sizes[0] / sizes[1]).sqrt())


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="UCE, and rounds against the rows that would bring the concept back, in closed form (RECE)",
        paper="arXiv:2407.12383",
        fit=fit,
        erasure=WeightErasure,
        config=ReceConfig,
        reads=READS,
        reads_with=reads_of,
        access=("prompts", "embeddings", "weights"),
        access_on=("weights",),
        guarantee="in each round, the least squares of reading what most nearly brings the concept back as its anchor",
        no_guarantee="that nothing else brings the concept back, that words which were not preserved stay as they are, "
        "or anything against who has the weights of before",
    )
)
