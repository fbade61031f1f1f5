"""Linear projection of prompts: the plainest eraser of text, and the baseline for those with a gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.edits import OnText
from efface.core.erasure import Erasure
from efface.core.method import Field, Method, register
from efface.core.run import Run
from efface.diffusion.format_1 import rest_of, tensor, upgraded_erasure
from efface.diffusion.text.contexts import check_others, others_of
from efface.erasers.leace import LeaceEraser, LeaceFitter
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import check_length, first_row, parts_of
from efface.pipelines.view import PipelineView

NAME = "projection"
Kind = Literal["leace", "orthogonal"]
"""`"leace"`: the least edit that takes the linear trace of labels away; `"orthogonal"`: off the span of differences."""

_FIELDS = ("proj_left", "proj_right", "bias")


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig(Config):
    """Options of the projection."""

    kind: Kind = option("leace", "which projection")
    shrinkage: bool = option(True, "shrink the covariance that LEACE whitens with: prompts are fewer than dimensions")


@dataclass(frozen=True, eq=False, repr=False)
class PromptProjection(Erasure):
    """One affine projection of all rows of a prompt, `x - L R (x - mu)`, a text encoder at a time.

    Each text encoder's rows of the sequence have a projection of their own, and so has its part of the pooled vector.
    `kind="leace"` (arXiv:2306.03819, Theorem 4.2): fitted on the rows of the templates with the concept against those
    with `anchor` and `preserve`; a row is labelled by its prompt, one label a concept, so that several concepts are
    erased by one projection. `kind="orthogonal"`: L = R^T is an orthonormal basis of the span of `m(word) - m(anchor)`,
    a vector a word, with m the mean over a prompt's rows, and mu is m(anchor); the neutral prompt stands for an anchor
    that is not named, and of several anchors mu is the mean.

    Which rows: all but the first ones that are the same in every prompt (the start of text in CLIP), rows of zeros
    (padding in Wan) and rows that the mask leaves out. Rows are not told apart by their place: after the end of text,
    CLIP's rows carry the whole prompt, and a projection has no gate that could ask where the concept is.

    There is no gate: **every prompt is moved**, those without the concept too. The negative branch is left as it is.

    Does not guarantee: that siblings are left alone; that the concept is gone from a single row (LEACE makes the means
    over all rows equal, on the prompts it was fitted on), or from a denoiser that reads rows together; anything against
    who leaves this wrapper out.

    Attributes:
        first: First row that is edited, by text encoder.
        rows: Text encoder -> the projection of its rows.
        pooled: Text encoder -> the projection of its part of the pooled vector.
    """

    first: Mapping[str, int]
    rows: Mapping[str, LeaceEraser]
    pooled: Mapping[str, LeaceEraser]
    config: ProjectionConfig = field(default=ProjectionConfig(), kw_only=True, repr=False)

    def check(self) -> None:
        """Refuse projections whose tensors do not go together, and rows without a first one."""
        for eraser in (*self.rows.values(), *self.pooled.values()):
            eraser.check()
        if set(self.first) != set(self.rows):
            raise InputError(f"there are first rows of {sorted(self.first)} and projections of {sorted(self.rows)}")

    @property
    def edits(self) -> tuple[OnText, ...]:
        """The projection of every prompt."""
        return (OnText(self.edited, suits=lambda view: self._check(view.encode(self.concepts[0].neutral))),)

    @property
    def ranks(self) -> dict[str, dict[str, int]]:
        """Rank of each projection, of rows and of pooled vectors."""
        each = {"rows": self.rows, "pooled": self.pooled}
        return {role: {name: e.proj_left.shape[1] for name, e in found.items()} for role, found in each.items()}

    def edited(self, embedding: PromptEmbedding, run: Run) -> PromptEmbedding:
        """The prompts projected; `negative` stays.

        Args:
            embedding: n prompts.
            run: Who is told.

        Raises:
            InputError: If they were made by another pipeline than the one it was fitted on.
        """
        self._check(embedding)
        sequences: dict[str, Tensor] = {}
        pooled = None if embedding.pooled is None else embedding.pooled.clone()
        for part in parts_of(embedding):
            x = part.of(embedding)
            if part.pooled and pooled is not None:
                pooled[:, slice(*part.columns)] = self.pooled[part.encoder].to(x.device)(x[:, 0])
            elif not part.pooled:
                changed = self.rows[part.encoder].to(x.device)(x)
                said = part.says(embedding, self.first[part.encoder])
                sequences[part.encoder] = torch.where(said[..., None], changed, x)
        run.count("prompts", len(embedding))
        return embedding.replace(sequences=sequences, pooled=pooled)

    def _check(self, embedding: PromptEmbedding) -> None:
        for fitted, parts in ((self.rows, embedding.sequences), (self.pooled, embedding.pooled_parts)):
            here = {name: part.shape[-1] for name, part in parts.items()}
            there = {name: len(eraser.proj_left) for name, eraser in fitted.items()}
            if here != there:
                raise InputError(f"prompts are {here} wide here, and the erasure was fitted on {there}: fit it on this")
        check_length(embedding)

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Data of format 1 as those of today."""
        erasers = {
            role: {name: {f: tensor(f"{role}.{name}.{f}") for f in _FIELDS} for name in plain["ranks"][role]}
            for role in ("rows", "pooled")
        }
        config = rest_of(plain, "first", "ranks")
        return upgraded_erasure(plain, config, first=plain["first"], report=plain["ranks"], **erasers), tensors


Fitting = Callable[[Tensor, Tensor], LeaceEraser]
"""Vectors `(n, ..., d)` of a part of n prompts, and which count, `(n, ...)` -> the projection of that part."""


def _fitted(encoded: PromptEmbedding, fitting: Fitting) -> tuple[dict[str, Any], ...]:
    """First rows and projections of rows, and projections of pooled vectors, by text encoder."""
    first: dict[str, int] = {}
    rows: dict[str, LeaceEraser] = {}
    pooled: dict[str, LeaceEraser] = {}
    for part in parts_of(encoded):
        x = part.of(encoded)
        if part.pooled:
            pooled[part.encoder] = fitting(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
        else:
            first[part.encoder] = first_row(x)
            rows[part.encoder] = fitting(x, part.says(encoded, first[part.encoder]))
    return first, rows, pooled


def _leace(view: PipelineView, concepts: Sequence[Concept], shrinkage: bool) -> tuple[dict[str, Any], ...]:
    labels: dict[str, list[int]] = {}
    for each in concepts:
        for prompt in (*each.prompts(), *each.prompts(others_of(each))):
            labels.setdefault(prompt, [0] * len(concepts))
    for i, each in enumerate(concepts):
        for prompt in each.prompts():
            labels[prompt][i] = 1
    z = torch.tensor(list(labels.values())).double()

    def fitting(x: Tensor, used: Tensor) -> LeaceEraser:
        of_rows = z.to(x.device)[:, None].expand(*used.shape, -1)[used]
        return LeaceFitter.fit(x[used].float(), of_rows, shrinkage=shrinkage, kind="continuous").eraser

    return _fitted(_encode(view, list(labels)), fitting)


def _orthogonal(view: PipelineView, concepts: Sequence[Concept]) -> tuple[dict[str, Any], ...]:
    starts = [each.anchor or concepts[0].neutral for each in concepts]
    texts = list(dict.fromkeys(starts))
    pairs = [(texts.index(start), word) for start, each in zip(starts, concepts, strict=True) for word in each.words]
    from_ = [start for start, _ in pairs]
    return _fitted(_encode(view, [*texts, *(word for _, word in pairs)]), partial(_off_span, len(texts), from_))


def _off_span(starts: int, from_: Sequence[int], x: Tensor, used: Tensor) -> LeaceEraser:
    """The orthogonal projection off the span of words' differences of means.

    Args:
        starts: How many of the first texts are what differences start from, whose mean stays in place.
        from_: From which of them, for each word.
        x: Vectors of the texts, then of the words.
        used: Which count.
    """
    count = used[..., None].double()
    means = (x.double() * count).sum(1) / count.sum(1).clamp_min(1)
    _, s, basis = torch.linalg.svd(means[starts:] - means[list(from_)], full_matrices=False)
    basis = basis[s > s[0] * max(means.shape) * torch.finfo(torch.float32).eps].float()
    if not len(basis):
        raise InputError(
            "the words mean the same as the anchor, or the neutral prompt, to a text encoder: choose other words"
        )
    return LeaceEraser(basis.mT.contiguous(), basis, means[:starts].mean(0).float())


def _encode(view: PipelineView, prompts: list[str]) -> PromptEmbedding:
    encoded = view.encode(prompts)
    for name, value in encoded.tensors().items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"the {name} of {prompts} is not finite: convert the text encoder to float32")
    return encoded


def fit(view: PipelineView, concepts: Sequence[Concept], config: ProjectionConfig) -> PromptProjection:
    """Encode prompts; fit a projection for each text encoder.

    With `kind="leace"` each concept's `preserve` must name what has to stay, or its `anchor` what to move to.

    Raises:
        InputError: If the pipeline cannot read a word, or there is nothing to compare with.
    """
    for each in concepts:
        view.check_concept(each)
    leace = config.kind == "leace"
    if leace:
        check_others(concepts, "compare {} with", "write kind='orthogonal', which needs no such words")
    fitted = _leace(view, concepts, config.shrinkage) if leace else _orthogonal(view, concepts)
    made = PromptProjection(*fitted, method=NAME, concepts=tuple(concepts), config=config)
    return replace(made, report=made.ranks)


_READS: Mapping[Kind, tuple[Field, ...]] = {
    "leace": ("synonyms", "anchor", "preserve", "templates"),
    "orthogonal": ("synonyms", "anchor", "neutral"),
}


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="project every prompt off the concept's linear trace (LEACE or orthogonal), without a gate",
        paper="arXiv:2306.03819",
        fit=fit,
        erasure=PromptProjection,
        config=ProjectionConfig,
        reads=tuple(dict.fromkeys(name for names in _READS.values() for name in names)),
        reads_with=lambda config, data: _READS[config.kind],
        access=("prompts", "embeddings"),
        access_on=("embeddings",),
        guarantee="on the prompts of the fit, rows of prompts with and without the concept have equal means (leace)",
        no_guarantee="that siblings are left alone (every prompt is moved), that the concept is gone from a single "
        "row or from a denoiser that reads rows together, or anything against who leaves this out",
    )
)
