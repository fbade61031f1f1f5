"""OCE: values of cross-attention turned by a rotation, so that a concept's point elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from efface._errors import InputError, NothingErasedWarning
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.method import Method, register
from efface.core.weights import Change, Multiply
from efface.diffusion.weights.closed_form import all_rows, equations, hold, pair_rows, phrase_rows
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

NAME = "oce"
_RANK = 1e-6
_STILL = 1e-3
_BEYOND = 2.0


@dataclass(frozen=True, kw_only=True)
class OceConfig(Config):
    """Options of OCE."""

    key_span: Span = option("last", SPAN_HELP)
    layers: Layers = option("auto", VALUES_HELP)
    erase_weight: float | Literal["auto"] = option(
        "auto",
        "how much the concepts count (published: 1 to 3500); auto: twice what holds their values in place",
        above=0,
    )
    retain_weight: float = option(10.0, "how much the values of retained prompts count (published: .5 to 70)", least=0)
    preserve_weight: float = option(0.3, "how much the values of each preserved word count", least=0)
    ridge: float = option(10.0, "how much all values are held where they are (published: 1.5 to 10)", above=0)
    in_templates: bool = option(False, "read words in the concept's templates, too, not by themselves")


def fit(
    view: PipelineView, concepts: Sequence[Concept], config: OceConfig, *, retain: Sequence[str] | None = None
) -> WeightErasure:
    """Orthogonal concept erasure (arXiv:2605.28902): `W' = R W` with R orthogonal, of any number of concepts at once.

    For each matrix W, with orthonormal bases E of the concepts' unit values `W k / ||W k||` and E* of their anchors',
    `G = E E^T`, `G* = E* E*^T`, and C the mean of `h h^T` over the rows h of retained prompts,

        M = -e G (I - G*) + p sum_v v v^T + q W C W^T + l W W^T,    M = U S V^T,    R = U V^T,

    v the values of preserved words. It is solved inside the range of W, and R is the identity outside it.

    All inner products of values stay, so nothing is taken out of them: what reads values by their geometry finds all of
    it; what is misled is the layer after them, which is not turned. Where E is orthogonal to E*, M is symmetric and R a
    reflection or nothing: e is a threshold. `"auto"` is twice the largest of `E^T N E`, N the other terms.

    Differences from the released code: no flip of R's determinant, whose sign is arbitrary where W has more rows than
    columns; preserved words may be none; C is of `retain` and what is preserved, as no captions are shipped.

    Args:
        view: The pipeline.
        concepts: What is erased.
        config: The options.
        retain: Prompts whose values are to stay, such as captions.

    Raises:
        InputError: If the pipeline cannot read a word, its text enters where no such edit is defined, or what is to be
            turned is not determined.
    """
    more = texts_of(retain, "retain")
    check_words(view, concepts, more=more)
    streams = streams_of(view, with_layers(config.layers, "values", view))
    pairs, kept = pairs_of(concepts, config.in_templates), preserved(concepts, config.in_templates)
    rows = [_joined(each) for each in zip(*pair_rows(view, streams, pairs, config.key_span), strict=True)]
    words = all_rows(view, streams, [p for p in kept if p.text], config.key_span)
    general = _means(view, streams, [*kept, *(Phrase(prompt, prompt) for prompt in more)])
    changes: list[tuple[Stream, dict[str, Change]]] = []
    turned: dict[str, float] = {}
    for stream, (keys, targets), word, mean in zip(streams, rows, words, general, strict=True):
        for path, weight in stream.weights.items():
            w = weight.to(keys)
            r = rotation(w, keys, targets, word, mean, config)
            turned[path] = float((r - _eye(r)).norm() / len(r) ** 0.5)
            change = Multiply(left=r.to(weight.device, torch.promote_types(weight.dtype, torch.float32)))
            changes.append((stream, {f"{path}.weight": change}))
    if max(turned.values()) < _STILL:
        warnings.warn(
            "nothing is turned: erase_weight is below what holds the values in place; write a larger one, or 'auto'",
            NothingErasedWarning,
            stacklevel=3,
        )
    report = {"keys": len(rows[0][0]), "turned": turned}
    deltas = deltas_of(view, changes)
    return WeightErasure.made(deltas, method=NAME, concepts=concepts, config=config, report=report)


def rotation(w: Tensor, keys: Tensor, targets: Tensor, words: Tensor, mean: Tensor, config: OceConfig) -> Tensor:
    """R of one matrix, `(out, out)`.

    Args:
        w: W, `(out, width)`.
        keys: Rows of the concepts, `(n, width)`.
        targets: Rows of their anchors, `(n, width)`.
        words: Rows of preserved words, `(m, width)`.
        mean: C, `(width, width)`.
        config: The options.

    Raises:
        InputError: If it is not determined.
    """
    inside = _range(w)
    a = inside.mT @ w
    erased, guide = (_basis(rows @ a.mT) for rows in (keys, targets))
    values = words @ a.mT
    held = (
        config.preserve_weight * values.mT @ values + config.retain_weight * a @ mean @ a.mT + config.ridge * a @ a.mT
    )
    away = erased @ erased.mT
    away = away - (away @ guide) @ guide.mT
    weight = config.erase_weight
    if isinstance(weight, str):
        weight = _BEYOND * float(torch.linalg.eigvalsh(erased.mT @ held @ erased).max()) if erased.shape[1] else 1.0
    u, s, vh = torch.linalg.svd(held - weight * away)
    if not bool(s[-1] > s[0] * len(s) * torch.finfo(s.dtype).eps):
        raise InputError(
            "what is to be turned is not determined: write a larger ridge, or a slightly other erase_weight"
        )
    return _eye(w @ w.mT) + inside @ (u @ vh - _eye(u)) @ inside.mT


def _range(w: Tensor) -> Tensor:
    """Orthonormal basis of the range of W, `(out, r)`."""
    u, s, _ = torch.linalg.svd(w, full_matrices=False)
    return u[:, s > s[0] * max(w.shape) * torch.finfo(torch.float32).eps]


def _basis(values: Tensor) -> Tensor:
    """Orthonormal basis `(r, rank)` of the span of unit values `(n, r)`."""
    unit = values / values.norm(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    u, s, _ = torch.linalg.svd(unit.mT, full_matrices=False)
    return u[:, s > s[0] * _RANK]


def _eye(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype, device=like.device)


def _joined(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    keys, targets = zip(*parts, strict=True)
    return torch.cat(keys), torch.cat(targets)


def _means(view: PipelineView, streams: Sequence[Stream], phrases: Sequence[Phrase]) -> list[Tensor]:
    """Mean of `h h^T` over the rows of texts, without padding."""
    sums = equations(streams, view)
    hold(sums, phrase_rows(view, streams, phrases, "text"))
    return [total.gram / max(total.n, 1) for total in sums]


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="values of text turned by a rotation, so that a concept's point away (OCE), in closed form",
        paper="arXiv:2605.28902",
        fit=fit,
        erasure=WeightErasure,
        config=OceConfig,
        reads=READS,
        reads_with=reads_of,
        access=("prompts", "embeddings", "weights"),
        access_on=("weights",),
        guarantee="values are turned, and all their lengths and angles stay as they are",
        no_guarantee="that anything is taken out of the values: a reader that knows the rotation reads all of it; or "
        "anything against who has the weights of before",
    )
)
