"""SPEED: edits of values that act only where what is retained has next to nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from efface._errors import EffaceWarning, InputError
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.method import Method, register
from efface.core.weights import Change
from efface.diffusion.weights.closed_form import (
    InputMap,
    NormalEquations,
    all_rows,
    cholesky,
    equations,
    move,
    pair_rows,
    warn_of_nothing,
)
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.projections import VALUES_HELP, Layers, Stream, deltas_of, streams_of, with_layers
from efface.diffusion.weights.rows import (
    READS,
    SPAN_HELP,
    Phrase,
    Span,
    check_words,
    pairs_of,
    preserved,
    reads_of,
    texts_of,
)
from efface.pipelines.view import PipelineView

NAME = "speed"
_CHUNK = 4096
_FILTER_RIDGE = 1.0
_MUCH = 0.01
"""Of a row's squared length: a tenth of the row."""
_LITTLE = 0.5
"""Of the length by which the unguarded edit moves the concepts' rows."""


@dataclass(frozen=True, kw_only=True)
class SpeedConfig(Config):
    """Options of SPEED."""

    key_span: Span = option("last_to_end", SPAN_HELP)
    layers: Layers = option("auto", VALUES_HELP)
    ridge: float = option(
        1.0, "how much the weights are held, in units of the mean square of an entry of the concepts' rows", above=0
    )
    null_share: float = option(
        0.001, "share of the retained rows' energy in the space where weights change", least=0, most=1
    )
    null_of: Literal["each", "all"] = option("each", "of whose energy: at most of each row's own, or of all together")
    least_free: float = option(0.25, "that space has at least this share of all directions", least=0, most=1)
    null_below: float | None = option(None, "instead, that space is of eigenvalues below this (published: .1)", least=0)
    filtered: bool | Literal["auto"] = option(
        "auto",
        "only rows that the unguarded edit moves more than the mean; auto: where all leave less than least_free",
    )
    augment: int = option(10, "how many rows are drawn around each that is retained", least=0)
    centres: int | None = option(3, "centres of the empty prompt's rows that stay fixed; none: all of them", least=1)
    fixed_ridge: float = option(0.0, "how much the start row and the centres may move; 0: not at all", least=0)
    in_templates: bool = option(False, "read words in the concept's templates, too, not by themselves")
    seed: int = option(0, "seed of what is drawn, and of the centres", least=0)


def fit(
    view: PipelineView, concepts: Sequence[Concept], config: SpeedConfig, *, retain: Sequence[str] | None = None
) -> WeightErasure:
    """Scalable, precise and efficient concept erasure by null spaces (arXiv:2503.07392), of any number of concepts.

    With `A1 = mean k k^T` and `A* = mean t k^T` of keys k and targets t, for each matrix W:

        1. rows x to retain stay if `||E x||` is above its mean, E = W (A* - A1) (u I + A1)^-1;
        2. around each, `x + v v^T e` with normal e and v the last right singular vector of W, those above their mean;
        3. U spans the eigenvectors of the mean of `x x^T` that hold next to nothing of any x; P = U U^T;
        4. C is the start row and centres of the rows of the empty prompt;
        5. `W' = W + W (A* - A1) (X - X C (C^T X C + l I)^-1 C^T X)`, X = P (P A1 P + ridge u I)^-1 P,

    u being the mean square of an entry of k.

    So `W' x = W x` for all x that U is orthogonal to, and with `fixed_ridge=0` for C.

    Differences from the released code: U is by what it holds of each row, not by an absolute threshold on eigenvalues
    that depends on the text encoder's scale (`null_below` is that), as a word's own rows are few among those behind it
    and have little of the energy of all (`null_of="all"`); where all rows leave room, none is filtered out in step 1,
    as what is out is not held (`filtered=True` is as released); ridges are in units of u, which is 1 there, so that a
    text encoder with smaller rows is edited as much; rows behind a word are keys, too (`key_span="last"` is
    as released); an empty anchor is paired row by row, not with the start row alone; means are over all rows, not in
    chunks of 128, so that the order does not matter; the centres are seeded, and chosen on any device.

    Args:
        view: The pipeline.
        concepts: What is erased; what each preserves is retained.
        config: The options.
        retain: Further prompts to retain.

    Raises:
        InputError: If the pipeline cannot read a word, its text enters where no such edit is defined, or what is
            retained leaves nothing that may change.
    """
    more = texts_of(retain, "retain")
    check_words(view, concepts, more=more)
    streams = streams_of(view, with_layers(config.layers, "values", view))
    sums = _means(view, streams, concepts, config)
    neutral = Phrase(concepts[0].neutral, concepts[0].neutral)
    phrases = [p for p in preserved(concepts, config.in_templates) if p.prompt != neutral.prompt]
    phrases += [Phrase(prompt, prompt) for prompt in more]
    # In the text encoder's own precision, and off the device: they are gone through again for each matrix.
    store = view.example.sequence.dtype
    kept = all_rows(view, streams, phrases, config.key_span, store, "cpu")
    fixed = all_rows(view, streams, [neutral], "all", store, "cpu")
    changes, facts = [], []
    for i, stream in enumerate(streams):
        found, fact = edited(stream, sums[i], kept[i], fixed[i], config)
        changes.append((stream, found))
        facts.append(fact)
    if all(total.changes_nothing for total in sums):
        warn_of_nothing(concepts)
    report = {"keys": sums[0].n, "retained": [len(rows) for rows in kept], "layers": _merged(facts)}
    _warn_of_crowds(report["layers"], config)
    _warn_of_little(report["layers"])
    deltas = deltas_of(view, changes)
    return WeightErasure.made(deltas, method=NAME, concepts=concepts, config=config, report=report)


def _means(
    view: PipelineView, streams: Sequence[Stream], concepts: Sequence[Concept], config: SpeedConfig
) -> list[NormalEquations]:
    """A1 and A* - A1 of each stream: means over keys."""
    sums = equations(streams, view)
    move(sums, pair_rows(view, streams, pairs_of(concepts, config.in_templates), config.key_span))
    return [total.scaled(1 / max(total.n, 1)) for total in sums]


def edited(
    stream: Stream, total: NormalEquations, kept: Tensor, neutral: Tensor, config: SpeedConfig
) -> tuple[dict[str, Change], dict[str, Any]]:
    """The change of each matrix of a stream, and what was found."""
    fixed = fixed_rows(neutral.to(total.gram), config.centres, config.seed)
    unit = float(total.gram.diagonal().mean())
    unguarded = total.solve(_FILTER_RIDGE * unit)
    facts: dict[str, Any] = {}
    changes: dict[str, Change] = {}
    for i, (path, weight) in enumerate(stream.weights.items()):
        w = weight.to(total.gram)
        space, fact = free_space(w, kept, unguarded, config, config.seed + i)
        if space.shape[1] == 0:
            raise InputError(
                f"what is retained leaves no direction in which {path} may change: preserve fewer words, or write a "
                f"larger null_share (it is {config.null_share:g}) or least_free (it is {config.least_free:g})"
            )
        by = guarded(total.gram, space, fixed, config.ridge * unit, config.fixed_ridge)
        found = total.solution(lambda rows, by=by: rows @ by)
        changes |= stream.only(path).changes(found.of)
        whole = energy(w, unguarded, total.gram)
        reached = math.sqrt(energy(w, found, total.gram) / whole) if whole > 0 else 1.0
        facts[path] = {**fact, "rank": found.rank, "reached": reached}
    return changes, facts


def free_space(
    weight: Tensor, kept: Tensor, unguarded: InputMap, config: SpeedConfig, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """U of step 3 for one matrix, and what was found: with `filtered="auto"` of all rows, if these leave enough."""

    def found(filtered: bool) -> tuple[Tensor, dict[str, Any]]:
        generator = torch.Generator().manual_seed(seed)
        gram, few, n = retained(weight, kept, unguarded, filtered, config.augment, generator)
        rows = kept[few.to(kept.device)]
        own = rows if config.null_of == "each" else None
        space = null_space(gram, config.null_share, config.null_below, own, config.least_free)
        most = float(most_of_a_row(rows, space)[-1]) if space.shape[1] else 0.0
        return space, {"rows": n, "filtered": filtered, "free": space.shape[1], "most": most}

    if not isinstance(config.filtered, str):
        return found(config.filtered)
    space, fact = found(False)
    return (space, fact) if space.shape[1] > config.least_free * weight.shape[1] else found(True)


def _warn_of_crowds(layers: dict[str, Any], config: SpeedConfig) -> None:
    """Tell of rows to retain that have more in the space where weights change than they were to have."""
    most = max((fact["most"] for fact in layers.values()), default=0.0)
    if config.null_below is None and config.null_of == "each" and most > max(config.null_share, _MUCH):
        free = min(fact["free"] for fact in layers.values())
        warnings.warn(
            f"what is retained fills so much that the {free} directions left to change (least_free="
            f"{config.least_free:g}) hold up to {most:.1%} of a retained row, more than null_share="
            f"{config.null_share:g}: such rows move a little; preserve fewer words, or write a smaller least_free",
            EffaceWarning,
            stacklevel=4,
        )


def _warn_of_little(layers: dict[str, Any]) -> None:
    """Tell of concepts whose rows are held together with what is retained."""
    reached = sorted(fact["reached"] for fact in layers.values())
    if reached and (middle := reached[len(reached) // 2]) < _LITTLE:
        warnings.warn(
            f"the concepts' rows move by {middle:.0%} of what they move where nothing is retained (the middle of "
            f"{len(reached)} layers): what is retained holds them, too, so that little is erased; preserve fewer "
            "words, or those less like them",
            EffaceWarning,
            stacklevel=4,
        )


def retained(
    weight: Tensor, rows: Tensor, unguarded: InputMap, filtered: bool, augment: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, int]:
    """Mean of `x x^T` over what is retained for one matrix, which rows are, and how many with those drawn: steps 1, 2.

    The rows that are drawn are `x + g v` with a normal g, so that the sum over them follows from x, g and v.

    Args:
        weight: W, `(out, width)`, float64.
        rows: What could be retained, `(n, width)`.
        unguarded: D of the edit E = W D that steps 1 and 2 look at.
        filtered: Whether rows that it moves less than the mean are left out.
        augment: How many are drawn around each.
        generator: What g is drawn with.
    """
    gram = torch.zeros(weight.shape[1], weight.shape[1], dtype=weight.dtype, device=weight.device)
    if not len(rows):
        return gram, torch.zeros(0, dtype=torch.bool, device=gram.device), 0
    chunks = [part.to(gram) for part in rows.split(_CHUNK)]
    edited = torch.cat([moved(weight, unguarded, part) for part in chunks])
    size = edited.norm(dim=1)
    few = size > size.mean() if filtered else torch.ones_like(size, dtype=torch.bool)
    few = few if bool(few.any()) else torch.ones_like(few)  # all are moved the same
    v = last_direction(weight)
    g = torch.randn(len(rows), augment, generator=generator, dtype=torch.float64).to(gram)
    along = moved(weight, unguarded, v[None])[0]
    sizes = (size[:, None] ** 2 + 2 * g * (edited @ along)[:, None] + g**2 * along.square().sum()).clamp_min(0).sqrt()
    more = few[:, None].expand_as(g)
    if augment and filtered:
        more = more & (sizes > sizes[few].mean())
    counts, sums = few + more.sum(1), (g * more).sum(1)
    cross = torch.zeros_like(v)
    for part, n, s in zip(chunks, counts.split(_CHUNK), sums.split(_CHUNK), strict=True):
        some = part[n > 0]
        gram.addmm_(some.mT * n[n > 0], some)
        cross += s @ part
    gram += torch.outer(cross, v) + torch.outer(v, cross) + (g.square() * more).sum() * torch.outer(v, v)
    n = int(counts.sum())
    return gram / n, few, n


def moved(weight: Tensor, edit: InputMap, rows: Tensor) -> Tensor:
    """`W D x` of rows `(n, width)`, `(n, out)`."""
    inner = rows if edit.right is None else rows @ edit.right.mT
    return inner @ (weight @ edit.left).mT


def energy(weight: Tensor, edit: InputMap, gram: Tensor) -> float:
    """Mean of `||W D k||^2` over keys whose mean of `k k^T` is given."""
    out = weight @ edit.left
    inner = gram if edit.right is None else edit.right @ gram @ edit.right.mT
    return float(((out @ inner) * out).sum().clamp_min(0))


def last_direction(weight: Tensor) -> Tensor:
    """The right singular vector of the smallest singular value that is not zero by W's shape, `(width,)`."""
    out, width = weight.shape
    if out >= width:
        return torch.linalg.eigh(weight.mT @ weight).eigenvectors[:, 0]
    found = torch.linalg.eigh(weight @ weight.mT).eigenvectors[:, 0] @ weight
    return found / found.norm()


def null_space(
    gram: Tensor, share: float, below: float | None = None, rows: Tensor | None = None, least: float = 0.0
) -> Tensor:
    """Orthonormal basis `(width, r)` of the directions of which rows with this mean of `x x^T` have next to nothing.

    Args:
        gram: The mean.
        share: The smallest eigenvalues together are at most this share of all.
        below: Instead, each is below this.
        rows: Instead, the eigenvectors of the smallest hold at most `share` of each of these rows, `(n, width)`.
        least: It has at least this share of all directions, those with the least of it, unless `below` is given.
    """
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    if below is not None:
        return vectors[:, values < below]
    if rows is None or not len(rows):
        small = values.cumsum(0) <= share * values.sum()
    else:
        small = most_of_a_row(rows, vectors) <= share
    return vectors[:, : max(int(small.sum()), math.ceil(least * len(gram)))]


def most_of_a_row(rows: Tensor, vectors: Tensor) -> Tensor:
    """Largest share of a row's squared length that lies in the first 1, 2, ... of orthonormal vectors, `(vectors,)`."""
    found = torch.zeros(vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    for part in rows.split(_CHUNK) if len(rows) else ():
        x = part.to(vectors)
        size = x.square().sum(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        found = torch.maximum(found, ((x @ vectors).square().cumsum(1) / size).max(0).values)
    return found


def guarded(gram: Tensor, space: Tensor, fixed: Tensor, ridge: float, fixed_ridge: float) -> Tensor:
    """The inverse of step 5, `(width, width)`, symmetric: X without what C takes.

    Args:
        gram: A1.
        space: U, `(width, r)`.
        fixed: C, `(c, width)`.
        ridge: Of A1.
        fixed_ridge: Of C; 0 fixes it exactly.
    """
    inside = space.mT @ gram @ space
    factor = cholesky((inside + inside.mT) / 2, ridge, "the concepts, where they may change,")
    x = space @ torch.cholesky_solve(space.mT, factor)
    c = fixed.mT
    if fixed_ridge == 0:  # an orthonormal basis of what of C lies in the space: the same, and well-conditioned
        u, s, _ = torch.linalg.svd(space.mT @ c, full_matrices=False)
        c = space @ u[:, s > max(float(s.max()), 1.0) * 1e-9]
    if not c.shape[1]:
        return x
    xc = x @ c
    inner = c.mT @ xc
    inner = (inner + inner.mT) / 2
    return x - xc @ torch.cholesky_solve(xc.mT, cholesky(inner, fixed_ridge, "the rows that stay fixed,"))


def fixed_rows(neutral: Tensor, centres: int | None, seed: int) -> Tensor:
    """The first row of the empty prompt, and centres of its others by k-means; None takes each of them.

    Args:
        neutral: Rows of the empty prompt, `(rows, width)`.
        centres: How many.
        seed: Of the first choice.
    """
    first, rest = neutral[:1], neutral[1:]
    if centres is None or len(rest) <= centres:
        return neutral
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:centres]
    found = rest[order.to(rest.device)]
    for _ in range(50):  # Lloyd's; a centre that no row is near to stays
        near = torch.cdist(rest, found).argmin(1)
        means = [rest[near == k].mean(0) if bool((near == k).any()) else found[k] for k in range(centres)]
        new = torch.stack(means)
        if torch.equal(new, found):
            break
        found = new
    return torch.cat([first, found])


def _merged(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {path: fact for each in facts for path, fact in each.items()}


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="values that read concepts as their anchors, changed only where retained rows have nothing (SPEED)",
        paper="arXiv:2503.07392",
        fit=fit,
        erasure=WeightErasure,
        config=SpeedConfig,
        reads=READS,
        reads_with=reads_of,
        access=("prompts", "embeddings", "weights"),
        access_on=("weights",),
        guarantee="what lies wholly outside the null space, the start row and the centres of the empty prompt are read "
        "as before",
        no_guarantee="that the concept is gone: it is moved as far as the null space allows; that words which were not "
        "retained stay as they are, or anything against who has the weights of before",
    )
)
