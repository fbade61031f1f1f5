"""Linear projection of prompts: the plainest eraser of text, and the baseline for those with a gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from efface._errors import InputError
from efface._registry import Method, register
from efface.diffusion.erasure import Erasure
from efface.diffusion.spec import Concepts, ErasureSpec
from efface.diffusion.text.masking import check_length
from efface.erasers.leace import LeaceEraser, LeaceFitter
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView

Kind = Literal["leace", "orthogonal"]
"""`"leace"`: the least edit that takes the linear trace of labels away; `"orthogonal"`: off the span of differences."""

_CONSTANT = 1e-4
_FIELDS = ("proj_left", "proj_right", "bias")


class PromptProjection(Erasure):
    """One affine projection of all rows of a prompt, `x - L R (x - mu)`, a text encoder at a time.

    Each text encoder's rows of the sequence have a projection of their own, and so has its part of the pooled vector.
    `kind="leace"` (arXiv:2306.03819, Theorem 4.2): fitted on the rows of the spec's templates with the concept against
    those with `preserve`; a row is labelled by its prompt, one label a concept, so that several concepts are erased by
    one projection. `kind="orthogonal"`: L = R^T is an orthonormal basis of the span of `m(word) - m("")`, a vector a
    word, with m the mean over a prompt's rows, and mu is m("").

    Which rows: all but the first ones that are the same in every prompt (the start of text in CLIP), rows of zeros
    (padding in Wan) and rows that the mask leaves out. Rows are not told apart by their place: after the end of text,
    CLIP's rows carry the whole prompt, and a projection has no gate that could ask where the concept is.

    There is no gate: **every prompt is moved**, those without the concept too. The negative branch is left as it is.

    Does not guarantee: that siblings are left alone; that the concept is gone from a single row (LEACE makes the means
    over all rows equal, on the prompts it was fitted on), or from a denoiser that reads rows together; anything against
    who leaves this wrapper out.

    Attributes:
        kind: Which projection.
        first: First row that is edited, by text encoder.
        rows: Text encoder -> the projection of its rows.
        pooled: Text encoder -> the projection of its part of the pooled vector.
    """

    method = "projection"

    def __init__(
        self,
        specs: ErasureSpec | Sequence[ErasureSpec],
        kind: Kind,
        first: Mapping[str, int],
        rows: Mapping[str, LeaceEraser],
        pooled: Mapping[str, LeaceEraser],
    ) -> None:
        super().__init__(specs)
        self.kind: Kind = kind
        self.first, self.rows, self.pooled = dict(first), dict(rows), dict(pooled)

    @classmethod
    def fit(cls, pipe: Any, spec: Concepts, *, kind: Kind = "leace", shrinkage: bool = True) -> PromptProjection:
        """Encode prompts; fit a projection for each text encoder.

        Args:
            pipe: Any pipeline driven by text.
            spec: The concept, or several. With `kind="leace"` each one's `preserve` must name what has to stay.
            kind: Which projection.
            shrinkage: Shrink the covariance that LEACE whitens with: prompts are fewer than dimensions.

        Raises:
            InputError: If the pipeline cannot read a word, or there is nothing to compare with.
        """
        specs, view = ErasureSpec.each(spec), PipelineView.of(pipe)
        if kind not in get_args(Kind):
            raise InputError(f"kind={kind!r}: choose one of {', '.join(map(repr, get_args(Kind)))}")
        for each in specs:
            each.check(view)
        if kind == "orthogonal":
            return cls(specs, kind, *_orthogonal(view, specs))
        if bare := [each.target for each in specs if not each.preserve]:
            raise InputError(
                f"there is nothing to compare {', '.join(bare)} with: name what has to stay, ErasureSpec(..., "
                "preserve=[siblings and others]), or write kind='orthogonal', which needs no such words"
            )
        return cls(specs, kind, *_leace(view, specs, shrinkage))

    def project(self, embedding: PromptEmbedding) -> PromptEmbedding:
        """The prompts projected; `negative` stays.

        Args:
            embedding: n prompts.

        Raises:
            InputError: If they were made by another pipeline than the one it was fitted on.
        """
        self._check(embedding)
        keep = _kept(embedding)
        parts = {}
        for name, part in embedding.sequences.items():
            changed = self.rows[name].to(part.device)(part)
            parts[name] = torch.where(keep[name] & _from(self.first[name], part), changed, part)
        found = embedding.replace(sequences=parts)
        if embedding.pooled is not None and self.pooled:
            pooled = embedding.pooled.clone()
            for slot in embedding.layout:
                if slot.encoder in self.pooled:
                    place = pooled[:, slice(*slot.pooled)]
                    place.copy_(self.pooled[slot.encoder].to(place.device)(place))
            found = found.replace(pooled=pooled)
        self.count("prompts", len(embedding))
        return found

    def _check(self, embedding: PromptEmbedding) -> None:
        for fitted, parts in ((self.rows, embedding.sequences), (self.pooled, embedding.pooled_parts)):
            here = {name: part.shape[-1] for name, part in parts.items()}
            there = {name: len(eraser.proj_left) for name, eraser in fitted.items()}
            if here != there:
                raise InputError(f"prompts are {here} wide here, and the erasure was fitted on {there}: fit it on this")
        check_length(embedding)

    def _install(self, view: PipelineView) -> Callable[[], None]:
        self._check(view.encode(self.spec.neutral))
        return view.install_edit(self.project)

    def config(self) -> dict[str, Any]:
        """The kind, first rows and ranks."""
        ranks = {
            role: {name: eraser.proj_left.shape[1] for name, eraser in getattr(self, role).items()}
            for role in ("rows", "pooled")
        }
        return {"kind": self.kind, "first": self.first, "ranks": ranks}

    @property
    def report(self) -> dict[str, Any]:
        """As of every erasure, with the rank of each projection."""
        return {**super().report, "kind": self.kind, "ranks": self.config()["ranks"]}

    def tensors(self) -> dict[str, Tensor]:
        """`role.encoder.field` -> tensor."""
        return {
            f"{role}.{name}.{field}": getattr(eraser, field).cpu().contiguous()
            for role in ("rows", "pooled")
            for name, eraser in getattr(self, role).items()
            for field in _FIELDS
        }

    @classmethod
    def _restore(
        cls, specs: Sequence[ErasureSpec], config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> PromptProjection:
        found = {
            role: {
                n: LeaceEraser(*(tensors[f"{role}.{n}.{field}"] for field in _FIELDS)) for n in config["ranks"][role]
            }
            for role in ("rows", "pooled")
        }
        return cls(specs, config["kind"], config["first"], found["rows"], found["pooled"])


_Fitted = tuple[dict[str, int], dict[str, LeaceEraser], dict[str, LeaceEraser]]


def _leace(view: PipelineView, specs: Sequence[ErasureSpec], shrinkage: bool) -> _Fitted:
    labels: dict[str, list[int]] = {}
    for each in specs:
        for prompt in (*each.prompts(), *each.prompts(each.preserve)):
            labels.setdefault(prompt, [0] * len(specs))
    for i, each in enumerate(specs):
        for prompt in each.prompts():
            labels[prompt][i] = 1
    encoded, z = _encode(view, list(labels)), torch.tensor(list(labels.values())).double()

    def fitted(x: Tensor, z: Tensor) -> LeaceEraser:
        return LeaceFitter.fit(x.float(), z, shrinkage=shrinkage, kind="continuous").eraser

    first, rows = _first_rows(encoded), {}
    keep = _kept(encoded)
    for name, part in encoded.sequences.items():
        used = (keep[name] & _from(first[name], part))[..., 0]
        rows[name] = fitted(part[used], z.to(part.device)[:, None].expand(*used.shape, -1)[used])
    pooled = {name: fitted(part, z.to(part.device)) for name, part in encoded.pooled_parts.items()}
    return first, rows, pooled


def _orthogonal(view: PipelineView, specs: Sequence[ErasureSpec]) -> _Fitted:
    words = [word for each in specs for word in each.concepts]
    encoded = _encode(view, [specs[0].neutral, *words])
    first, rows = _first_rows(encoded), {}
    keep = _kept(encoded)
    for name, part in encoded.sequences.items():
        used = (keep[name] & _from(first[name], part)).double()
        rows[name] = _off_span((part.double() * used).sum(1) / used.sum(1).clamp_min(1))
    return first, rows, {name: _off_span(part.double()) for name, part in encoded.pooled_parts.items()}


def _off_span(means: Tensor) -> LeaceEraser:
    """The orthogonal projection off the span of differences to the first of `(1 + k, d)`, which stays in place."""
    _, s, basis = torch.linalg.svd(means[1:] - means[:1], full_matrices=False)
    basis = basis[s > s[0] * max(means.shape) * torch.finfo(torch.float32).eps].float()
    if not len(basis):
        raise InputError("the words mean the same as the neutral prompt to a text encoder: choose other words")
    return LeaceEraser(basis.mT.contiguous(), basis, means[0].float())


def _encode(view: PipelineView, prompts: list[str]) -> PromptEmbedding:
    encoded = view.encode(prompts)
    for name, value in encoded.tensors().items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"the {name} of {prompts} is not finite: convert the text encoder to float32")
    return encoded


def _first_rows(embedding: PromptEmbedding) -> dict[str, int]:
    """Text encoder -> how many of its first rows are the same in all prompts, up to rounding."""
    found = {}
    for name, part in embedding.sequences.items():
        spread = (part.float().amax(0) - part.float().amin(0)).amax(-1)
        varies = (spread > _CONSTANT * part.float().abs().max()).nonzero()
        if not len(varies):
            raise InputError(f"{name} gives the same rows for all of {list(embedding.prompts)}: choose other words")
        found[name] = int(varies[0])
    return found


def _kept(embedding: PromptEmbedding) -> dict[str, Tensor]:
    """Text encoder -> `(n, rows, 1)`: rows that are neither zero nor left out by the mask."""
    slots = {slot.encoder: slot for slot in embedding.layout}
    found = {}
    for name, part in embedding.sequences.items():
        keep = (part != 0).any(-1)
        if embedding.mask is not None:
            keep = keep & embedding.mask[:, slice(*slots[name].rows)].bool()
        found[name] = keep[..., None]
    return found


def _from(first: int, part: Tensor) -> Tensor:
    return (torch.arange(part.shape[1], device=part.device) >= first)[None, :, None]


register(
    Method(
        name=PromptProjection.method,
        kind="diffusion",
        paper="arXiv:2306.03819",
        summary="project every prompt off the concept's linear trace (LEACE or orthogonal), without a gate",
        fitter=PromptProjection,
        eraser=PromptProjection,
        needs=("text",),
    )
)
