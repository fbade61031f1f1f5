"""MACE's fusion: edits of several concepts become one change, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.doors import check_call
from efface.core.weights import Change
from efface.diffusion.weights.closed_form import cholesky, equations, hold, phrase_rows
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.projections import Stream, deltas_of, streams_of
from efface.diffusion.weights.refinement import told
from efface.diffusion.weights.rows import Phrase, pairs_of, preserved
from efface.pipelines.view import PipelineView


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
    return fused_on_rows(pipe, erasures, preserve=preserve, preserve_weight=preserve_weight, ridge=ridge, after=after)


def fused_on_rows(
    pipe: Any,
    erasures: Sequence[WeightErasure],
    *,
    preserve: Sequence[str] = (),
    preserve_weight: float,
    ridge: float,
    after: WeightErasure | None = None,
) -> WeightErasure:
    """The same of one or more: that of one holds back what it changes of rows that are preserved."""
    for name, value in (("preserve_weight", preserve_weight), ("ridge", ridge)):
        if not 0 <= value < math.inf:
            raise InputError(f"{name}={value!r}: write a finite number, at least 0")
    view = PipelineView.of(pipe)
    concepts = tuple(dict.fromkeys(concept for each in erasures for concept in each.concepts))
    streams = _edited(view, erasures)
    sums = [total.gram for total in equations(streams, view)]
    crosses: dict[tuple[str, str], Tensor] = {}
    for erasure in erasures:
        phrases = [pair.key for pair in pairs_of(told(erasure.concepts), in_templates=True)]
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
    kept = [*preserved(told(concepts), in_templates=True), *(Phrase(prompt, prompt) for prompt in preserve)]
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
