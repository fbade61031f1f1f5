"""AdaVD: values of text off the value of the concept, as far as they are like it."""

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
from efface.core.edits import OnStates
from efface.core.erasure import Erasure
from efface.core.fingerprint import fingerprint
from efface.core.method import Field, Method, register
from efface.core.subjects import unwrapped
from efface.diffusion.text.contexts import filled, others_of
from efface.diffusion.values.layers import AT_ONCE, ByLayer, picked_prompts, rows_that_differ, value_layers, values_of
from efface.diffusion.weights.rows import Phrase, Read
from efface.pipelines.following import Given
from efface.pipelines.view import PipelineView

NAME = "adavd"
JOINT = 0.93
"""The published epsilon, which was calibrated on both branches as one vector."""

_RANK = 1e-8


@dataclass(frozen=True, kw_only=True)
class AdaVDConfig(Config):
    """Options of AdaVD, in the paper's symbols."""

    branches: Literal["cond", "joint"] = option(
        "cond", "what is one vector: a prompt's value, or with it the negative prompt's, as the released code has it"
    )
    gate: bool = option(True, "take off by likeness to the concept; else all of it, from every row")
    strength: float = option(2.0, "s: most that is taken off; at epsilon it is half of it", above=0)
    steepness: float = option(100.0, "p: how steeply that rises with the cosine", above=0)
    target: Literal["last", "mean"] = option(
        "last", "a concept's value: of its word's last row, or the mean from there to the end of the window"
    )
    epsilon: float | Literal["auto"] = option(
        "auto", "cosine at which half the strength is taken off; auto: per layer (cond), .93 (joint)", least=-1, most=1
    )


@dataclass(frozen=True, eq=False, repr=False)
class AdaVD(Erasure):
    """Values of text with their part along the concept's value taken off (AdaVD, arXiv:2412.06143).

    In each cross-attention layer and each row of a prompt but the start of text, with `v` the row's value and `c_j` the
    values of the concepts' words (of the last token of each by itself; the same for all rows), heads side by side:

        v' = v - sum_j delta_j a_j c_j,    delta_j = s sigmoid(p (cos(v, c_j) - epsilon))

    where `sum_j a_j c_j` is the orthogonal projection of `v` on the span of all `c_j`, so that with `delta = 1`
    (`gate=False`) `<v', c_j> = 0` for each of them. At `v = c` almost `s = 2` times the projection is taken off, as
    published: the value is turned round.

    `branches="cond"`, as the text has it: vectors are of the prompt alone, and the negative branch stays. Epsilon is
    then found in each layer from the concept's templates (see `fit`), or given. `branches="joint"`, as the released
    code has it: the vectors are `[value of the negative prompt; value of the prompt]` on `[value of the neutral prompt;
    c]`, row by row, of which **both halves** are edited; epsilon = .93 is calibrated for these. It needs guidance with
    both branches in one pass.

    `target="mean"` takes for `c_j` the mean of the values from the word's last row to the end of the window, end of
    text and padding among them. So Uni-AdaVD (arXiv:2607.14521) has it for what no one row names (nudity), with
    `branches="joint", epsilon=0.43, strength=1`; for what has a name it does as above. Of that work this is all: its
    decomposition for other architectures and its epsilons for them were in no text that we could read.

    The released code divides by the raw `c_j` in its Gram-Schmidt, which is not orthogonal for three concepts and more;
    and it knows 77 rows and SD 1's heads alone. The edits act in the pipeline's own calls (`pipe(...)`,
    `view.sample`), not in passes of the denoiser by itself.

    Does not guarantee: that the concept is gone where a row's value is not like that of the bare word (a word in a
    context may be further from it than epsilon), or from keys, the pooled vector and what reads text elsewhere; that
    siblings with like values are left alone; with `gate=False` no prompt is. Concepts with nearly parallel values have
    large `a_j` of both signs, which a gate does not balance. Nothing against who leaves this out.

    Attributes:
        values: Denoiser -> path of a layer -> `(k, width)`: `c_j`.
        neutral: The same for the negative half of joint vectors, `(rows, width)`; empty with `branches="cond"`.
        gram: `(k, k)`, or of joint vectors `(rows, k, k)`: pseudo-inverse of the inner products.
        epsilon: `(k,)`: epsilon of each concept.
        edited_rows: Whether each row is edited; those beyond are.
        bases: Denoiser -> fingerprint at the fit.
    """

    values: ByLayer
    neutral: ByLayer
    gram: ByLayer
    epsilon: ByLayer
    edited_rows: tuple[bool, ...]
    bases: Mapping[str, str]
    config: AdaVDConfig = field(default=AdaVDConfig(), kw_only=True, repr=False)

    def __repr__(self) -> str:
        layers = sum(len(of) for of in self.values.values())
        return f"AdaVD({', '.join(map(repr, self.names))}, {layers} layers, branches={self.config.branches!r})"

    def check(self) -> None:
        """Refuse tensors that do not go together.

        Raises:
            InputError: If they do not.
        """
        joint = self.config.branches == "joint"
        for part, of in self.values.items():
            for path, c in of.items():
                gram, epsilon = (each.get(part, {}).get(path) for each in (self.gram, self.epsilon))
                other = self.neutral.get(part, {}).get(path)
                lead = () if other is None else (len(other),)
                if (
                    c.ndim != 2
                    or gram is None
                    or gram.shape != (*lead, len(c), len(c))
                    or epsilon is None
                    or epsilon.shape != (len(c),)
                    or joint != (other is not None)
                ):
                    raise InputError(f"what is known of {path} of {part} does not go together")

    @property
    def edits(self) -> tuple[OnStates, ...]:
        """The values of each denoiser."""
        return OnStates.of_parts(self.values, self.edited, self.bases)

    def edited(self, part: str, path: str, x: Tensor, given: Given) -> Tensor | None:
        """The values of a pass with the prompts' part along the concept taken off.

        Args:
            part: Name of the denoiser.
            path: Path of the layer.
            x: (branches n, rows, width) values.
            given: Which branches are the prompts'.

        Raises:
            InputError: If branches are to be read jointly and there is no negative one.
        """
        if self.config.branches == "cond":
            return given.of_prompts(x, partial(self.without, part, path))
        if not given.negatives:
            raise InputError(
                "branches='joint' reads a prompt with its negative prompt, and there is none in this pass (guidance is "
                "off, or the pipeline makes two passes): fit with branches='cond'"
            )
        parts, behind = list(x.chunk(given.branches)), given.negatives[0]
        negative = parts[behind]
        for i in given.prompts:
            both = self.without(part, path, torch.cat([negative, parts[i]], -1))
            other, parts[i] = both.chunk(2, -1)
            parts[behind] = other if i == given.prompts[0] else parts[behind]
        return torch.cat(parts)

    def without(self, part: str, path: str, v: Tensor) -> Tensor:
        """Values with their part along the concept taken off.

        Args:
            part: Name of the denoiser.
            path: Path of the layer.
            v: (n, rows, width); twice as wide with `branches="joint"`, the negative prompt's half in front.

        Returns:
            The same shape.
        """
        rows, dtype = v.shape[1], torch.promote_types(v.dtype, torch.float32)
        c, gram, epsilon = (each[part][path].to(v.device, dtype) for each in (self.values, self.gram, self.epsilon))
        if part in self.neutral:
            other = self.neutral[part][path].to(v.device, dtype)
            if rows > len(other):
                raise InputError(
                    f"prompts are {rows} rows long, and the erasure was fitted on {len(other)}: leave "
                    "max_sequence_length at its default, or make it smaller"
                )
            c, gram = joined(other[:rows], c), gram[:rows]
        wide = v.to(dtype)
        along = (c @ wide[..., None])[..., 0]  # (n, rows, k)
        share = (along[..., None, :] @ gram)[..., 0, :]
        if self.config.gate:
            lengths = wide.norm(dim=-1, keepdim=True) * c.norm(dim=-1)
            cos = along / lengths.clamp_min(torch.finfo(dtype).tiny)
            share = share * (self.config.strength * torch.sigmoid(self.config.steepness * (cos - epsilon)))
        off = (share[..., None, :] @ c)[..., 0, :]
        edited = torch.ones(rows, dtype=torch.bool)
        edited[: len(self.edited_rows)] = torch.tensor(self.edited_rows)[:rows]
        return torch.where(edited.to(v.device)[:, None], (wide - off).to(v.dtype), v)


def joined(other: Tensor, c: Tensor) -> Tensor:
    """Values of the negative half, `(rows, width)`, and of the concepts, `(k, width)`, as `(rows, k, 2 width)`."""
    rows, k = len(other), len(c)
    return torch.cat([other[:, None].expand(rows, k, -1), c.expand(rows, k, -1)], -1)


def fit(view: PipelineView, concepts: Sequence[Concept], config: AdaVDConfig) -> AdaVD:
    """Read the values of the concepts' words, each by itself; find epsilon.

    `epsilon="auto"` with `branches="cond"`: in each layer, how like the word's value are the rows from the word on in
    the concept's templates, on average (`own`), and how like is the most like row of the same templates with the words
    of `anchor` and `preserve`, and of the neutral prompt (`others`). Epsilon is midway, `(own + others) / 2`, or where
    a layer does not tell them apart (`own <= others`), midway between `others` and 1. The report has all of them. This
    rule is ours; the paper has one number.

    Raises:
        InputError: If the pipeline cannot read a word, or its values are not of text alone.
    """
    value_layers(view)
    calibrated = _calibrated(config)
    for each in concepts:
        view.check_concept(each)
    view.check_prompts([*(w for c in concepts for w in (others_of(c) if calibrated else ())), concepts[0].neutral])
    if config.branches == "joint" and not view.guidance.negative:
        raise InputError(
            f"{type(view.pipe).__name__} has {view.guidance.mode} guidance and runs without a negative prompt, with "
            "which branches='joint' reads a prompt: write branches='cond'"
        )
    words = [(i, word) for i, concept in enumerate(concepts) for word in concept.words]
    read = Read(view, [*(word for _, word in words), concepts[0].neutral])
    at = [(i, word, rows) for i, word in words for rows in _target_rows(read, word, config.target)]
    dtype = torch.promote_types(read.embedding.sequence.dtype, torch.float32)
    values = _own_values(view, read, [(word, rows) for _, word, rows in at], dtype)
    neutral = _neutral_values(view, concepts[0].neutral, dtype) if config.branches == "joint" else {}
    edited = rows_that_differ(read.embedding)
    report: dict[str, Any] = {"vectors": len(at)}
    if calibrated:
        likeness = _Likeness(view, concepts, values, edited)
        epsilon = likeness.epsilon([(i, word) for i, word, _ in at])
        report |= {"own": _plain(likeness.own), "others": _plain(likeness.others), "epsilon": _plain(epsilon)}
    else:
        number = JOINT if isinstance(config.epsilon, str) else config.epsilon
        epsilon = _each(values, lambda c: torch.full((len(c),), number, dtype=dtype))
    gram = {
        part: {path: _inverse(joined(neutral[part][path], c) if neutral else c) for path, c in of.items()}
        for part, of in values.items()
    }
    bases = {part: fingerprint(unwrapped(view.components.denoisers[part])) for part in values}
    made = AdaVD(values, neutral, gram, epsilon, tuple(edited.tolist()), bases, concepts=tuple(concepts), config=config)
    return replace(made, method=NAME, report=report)


def _calibrated(config: AdaVDConfig) -> bool:
    return config.gate and config.branches == "cond" and isinstance(config.epsilon, str)


def _each(values: ByLayer, of: Callable[[Tensor], Tensor]) -> dict[str, dict[str, Tensor]]:
    return {part: {path: of(value) for path, value in each.items()} for part, each in values.items()}


def _plain(values: ByLayer) -> dict[str, Any]:
    return {part: {path: [round(n, 4) for n in v.tolist()] for path, v in of.items()} for part, of in values.items()}


def _inverse(c: Tensor) -> Tensor:
    """Pseudo-inverse of the inner products of vectors `(..., k, width)`; parallel ones share what is taken off."""
    wide = c.double() if c.device.type != "mps" else c.cpu().double()
    return torch.linalg.pinv(wide @ wide.mT, hermitian=True, rtol=_RANK).to(c)


def _target_rows(read: Read, word: str, target: str) -> list[list[int]]:
    """Rows of a word's prompt whose mean is a vector: each of its last, or all from there on."""
    phrase = Phrase(word, word)
    return [read.rows(phrase, "last_to_end")] if target == "mean" else [[row] for row in read.rows(phrase, "last")]


def _own_values(
    view: PipelineView, read: Read, at: Sequence[tuple[str, Sequence[int]]], dtype: torch.dtype
) -> dict[str, dict[str, Tensor]]:
    """The mean value of some rows of each of some prompts."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    for start in range(0, len(at), AT_ONCE):
        some = at[start : start + AT_ONCE]
        prompts = torch.tensor([read.at[word] for word, _ in some])
        for part, of in values_of(view, picked_prompts(read.embedding, prompts)).items():
            for path, v in of.items():
                means = torch.stack([v[k, list(rows)].mean(0) for k, (_, rows) in enumerate(some)])
                found.setdefault(part, {}).setdefault(path, []).append(means)
    values = {part: {path: torch.cat(vs).to(dtype) for path, vs in of.items()} for part, of in found.items()}
    for of in values.values():
        for path, c in of.items():
            if not bool(c.any(-1).all()):
                raise InputError(f"a word of the concept has the value 0 in {path}: there is nothing to take off")
    return values


def _neutral_values(view: PipelineView, neutral: str, dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    """The values of all rows of the neutral prompt; of the empty one, as the pipeline's negative branch has it."""
    with torch.no_grad():
        encoded = view.encode([neutral])
    if neutral == "" and encoded.negative is not None:
        encoded = encoded.negative
    return _each(values_of(view, encoded.replace(negative=None)), lambda v: v[0].to(dtype))


class _Likeness:
    """How like a word's value the rows of prompts are, layer by layer.

    Attributes:
        own: `(k,)`: on average of the rows from a word on, in its concept's templates.
        others: `(k,)`: of the most like row of the same templates with other words.
    """

    def __init__(self, view: PipelineView, concepts: Sequence[Concept], values: ByLayer, edited: Tensor) -> None:
        self.view, self.concepts, self.values, self.edited = view, concepts, values, edited
        self.own: dict[str, dict[str, Tensor]] = {}
        self.others: dict[str, dict[str, Tensor]] = {}

    def epsilon(self, words: Sequence[tuple[int, str]]) -> dict[str, dict[str, Tensor]]:
        """Epsilon of each word's vector, by the rule of `fit`.

        Args:
            words: Number of the concept, and word, of each vector.
        """
        of_own = [[Phrase(p, w) for p in filled(self.concepts[i].templates, [w])] for i, w in words]
        of_others = [self._others_of(self.concepts[i]) for i, _ in words]
        read = Read(
            self.view, [each.prompt for some in of_own for each in some] + [p for some in of_others for p in some]
        )
        cosines = self._cosines(read)
        for part, of in cosines.items():
            for path, cos in of.items():
                own = [
                    torch.cat([cos[read.at[e.prompt], read.rows(e, "last_to_end"), j] for e in some]).mean()
                    for j, some in enumerate(of_own)
                ]
                others = [cos[[read.at[p] for p in some]][:, self.edited, j].max() for j, some in enumerate(of_others)]
                self.own.setdefault(part, {})[path] = torch.stack(own)
                self.others.setdefault(part, {})[path] = torch.stack(others)
        return {
            part: {path: midway(own, self.others[part][path]).to(self.values[part][path]) for path, own in of.items()}
            for part, of in self.own.items()
        }

    def _others_of(self, concept: Concept) -> list[str]:
        own = {prompt.casefold() for prompt in concept.prompts()}
        found = [*filled(concept.templates, others_of(concept)), concept.neutral]
        return [prompt for prompt in found if prompt.casefold() not in own]

    def _cosines(self, read: Read) -> dict[str, dict[str, Tensor]]:
        """`(n, rows, k)` of n prompts, a few at a time, as values of many layers are large."""
        found: dict[str, dict[str, list[Tensor]]] = {}
        for start in range(0, len(read.embedding), AT_ONCE):
            prompts = torch.arange(start, min(start + AT_ONCE, len(read.embedding)))
            for part, of in values_of(self.view, picked_prompts(read.embedding, prompts)).items():
                for path, v in of.items():
                    c = self.values[part][path].to(v)
                    cos = torch.cosine_similarity(v[..., None, :], c, dim=-1).cpu()
                    found.setdefault(part, {}).setdefault(path, []).append(cos)
        return {part: {path: torch.cat(each) for path, each in of.items()} for part, of in found.items()}


def midway(own: Tensor, others: Tensor) -> Tensor:
    """Between a concept's own cosines and the others' highest, or between that and 1 where own ones are lower.

    >>> midway(torch.tensor([0.75, 0.25]), torch.tensor([0.25, 0.5])).tolist()
    [0.5, 0.75]
    """
    return (torch.where(own > others, own, 1.0) + others) / 2


READS: tuple[Field, ...] = ("synonyms", "anchor", "preserve", "templates", "neutral")

register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="take values of text off the concept's value in cross-attention, as far as they are like it (AdaVD)",
        paper="arXiv:2412.06143",
        fit=fit,
        erasure=AdaVD,
        config=AdaVDConfig,
        reads=READS,
        reads_with=lambda config, data: READS if _calibrated(config) else ("synonyms", "neutral"),
        access=("prompts", "embeddings", "weights"),
        access_on=("embeddings",),
        guarantee="with gate=False, every edited value is orthogonal to the values of the concept's words",
        no_guarantee="that the concept is gone where a row's value is not like that of the bare word, that siblings of "
        "like values are left alone, or anything against who leaves this out",
    )
)
