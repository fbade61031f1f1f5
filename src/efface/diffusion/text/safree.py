"""SAFREE: project the tokens that pull a prompt towards a concept off it, for as many steps as the prompt calls for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import InputError, NothingErasedWarning
from efface._registry import Method, register
from efface.diffusion.erasure import Erasure
from efface.diffusion.guidance.negative_prompt import NegativePromptErasure
from efface.diffusion.spec import Concepts, ErasureSpec
from efface.diffusion.text.masking import (
    MaskedPrompt,
    check_length,
    masked_prompt,
    off_span,
    onto_span,
    phrase_bases,
    span_basis,
    triggers,
)
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView

Order = Literal["released", "paper"]
"""`"released"`: `(I - P_C) P_I e`, as the released code multiplies; `"paper"`: `P_I (I - P_C) e` (equation 5)."""


@dataclass(frozen=True)
class _Plan:
    """Rows of one prompt that were projected, as they were and as they are, and the last step of the latter."""

    rows: Tensor
    raw: Tensor
    safe: Tensor
    until: int


class Safree(Erasure):
    """SAFREE (arXiv:2410.12761), training-free, in each text encoder that gives rows of the sequence.

    Triggers: with `p_i` the pooled vector of the prompt with token i masked and `P_C` the projection onto the span of
    the pooled vectors of the phrases, `d_i = |(I - P_C) p_i|`; token i is a trigger if `d_i >= (1 + alpha) mean of d_j,
    j != i`. Projection: rows e of triggers become `(I - P_C) P_I e` with `P_I` onto the span of all `p_i`.
    Self-validating filter: with beta = 1 - mean cosine of all rows of the prompt before and after such projection, the
    safe rows are used up to step `t' = round(up_t sigmoid(2 k (10 beta - t0)))`, the raw rows after it; the
    denoiser's input is swapped, which costs no pass. Each prompt of a batch has its own triggers and its own t'. A
    prompt without triggers stays bit for bit. The rows that were projected are remembered until it is taken off.

    The phrases are targets and synonyms. Pooled vectors: see `masking.pooled`; T5 and Llama have none, and the mean of
    the last hidden rows stands for it. Where several text encoders give rows, each has its own triggers, and the
    cosines of all of them are averaged. SDXL's and SD3's CLIP rows are of the layer before the last; the projections
    come from the last.

    The defaults are those of the released code for nudity; for artists it has k=3.5, t0=5.5. Its formula of t' is not
    that of the paper, its constants were fitted on two sets of prompts, and its runs pass the phrases as negative
    prompt too, which is `negative=True` here and off. Otherwise the negative branch stays, and so do pooled vectors.

    Latent re-attention, the filter of skip features against a third branch, is left out: its released form is tied to
    the channel widths of Stable Diffusion 1 and overwrites Fourier coefficients where the paper scales them.

    Does not guarantee: erasure where the pooled vector goes its own way to the denoiser (FLUX, SDXL, SD3); of prompts
    whose text is not known (bare tensors handed to the pipeline), which is warned of; that a concept stays away once
    the raw rows are back; anything against who leaves this wrapper out. `(I - P_C) P_I` also takes out what no masked
    prompt has, so it moves siblings.

    Attributes:
        phrases: What is erased.
        bases: Text encoder -> orthonormal basis of the phrases' span, `(d, r)`, float64.
        alpha: By how much farther a prompt must be without a trigger.
        order: Order of the two projections.
        self_validating: Whether t' decides; otherwise the safe rows are used in all steps.
        k: Steepness of t' in beta.
        t0: Ten times the beta at which t' is half of `up_t`.
        up_t: The largest t'.
        negative: Whether the phrases are the negative prompt, too.
        last: What was found in each prompt of the last batch: plain data.
    """

    method = "safree"

    def __init__(
        self,
        specs: ErasureSpec | Sequence[ErasureSpec],
        bases: Mapping[str, Tensor],
        *,
        alpha: float = 0.01,
        order: Order = "released",
        self_validating: bool = True,
        k: float = 2.5,
        t0: float = 5.333,
        up_t: int = 10,
        negative: bool = False,
    ) -> None:
        super().__init__(specs)
        self.phrases = tuple(phrase for spec in self.specs for phrase in spec.concepts)
        self.bases = dict(bases)
        if order not in get_args(Order):
            raise InputError(f"order={order!r}: choose one of {', '.join(map(repr, get_args(Order)))}")
        for name, value, least in (("alpha", alpha, 0), ("k", k, 0), ("t0", t0, -math.inf), ("up_t", up_t, 0)):
            if not isinstance(value, int | float) or not math.isfinite(value) or value < least:
                raise InputError(f"{name}={value!r}: write a finite number{'' if least else ' from 0'}")
        self.alpha, self.order, self.self_validating, self.k, self.t0 = alpha, order, self_validating, k, t0
        self.up_t, self.negative = up_t, negative
        self.last: list[dict[str, Any]] = []

    @classmethod
    def fit(cls, pipe: Any, spec: Concepts, **options: Any) -> Safree:
        """Encode the phrases.

        Args:
            pipe: Any pipeline driven by text.
            spec: The concept, or several, whose phrases span one subspace.
            **options: `alpha`, `order`, `self_validating`, `k`, `t0`, `up_t`, `negative`: see the attributes.

        Raises:
            InputError: If the pipeline cannot read a word, an option is unknown or out of range, or `negative=True`
                goes with a pipeline without guidance.
        """
        specs, view = ErasureSpec.each(spec), PipelineView.of(pipe)
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise InputError(f"method='safree' has no option {unknown[0]!r}: it has {', '.join(_OPTIONS)}")
        made = cls(specs, {}, **options)
        for each in specs:
            each.check(view)
        if made.negative:
            NegativePromptErasure.fit(view, specs)
        made.bases = phrase_bases(view, made.phrases)
        return made

    def steps(self, beta: float) -> int:
        """t': the last step, from 0, that uses the safe rows, for a mean cosine of 1 - beta.

        >>> Safree("circle", {}).steps(0.5333), Safree("circle", {}).steps(0.1), Safree("circle", {}).steps(0.9)
        (5, 0, 10)
        """
        return round(self.up_t / (1 + math.exp(min(700.0, -2 * self.k * (10 * beta - self.t0)))))

    def project(self, rows: Tensor, name: str, masked: MaskedPrompt) -> Tensor:
        """All rows `(n, d)` of one encoder projected as those of triggers are.

        Args:
            rows: The rows.
            name: The text encoder.
            masked: The prompt they are of.
        """
        concept, prompt = self.bases[name].to(rows.device), span_basis(masked.vectors).to(rows.device)
        if self.order == "released":
            return off_span(onto_span(rows.double(), prompt), concept)
        return onto_span(off_span(rows.double(), concept), prompt)

    def filtered(self, view: PipelineView, embedding: PromptEmbedding) -> tuple[PromptEmbedding, list[int]]:
        """Safe embeddings, and t' of each prompt; -1 for a prompt without triggers.

        Args:
            view: The pipeline.
            embedding: n prompts, with their texts in `prompts`.

        Raises:
            InputError: If the call cuts off rows of a prompt, or has more rows than the pipeline by itself.
        """
        check_length(embedding)
        read = {prompt: masked_prompt(view, prompt) for prompt in dict.fromkeys(embedding.prompts)}
        parts = {name: part.clone() for name, part in embedding.sequences.items()}
        self.last = [self._filter(parts, i, read[prompt], prompt) for i, prompt in enumerate(embedding.prompts)]
        self.count("prompts", len(embedding))
        if found := [note for note in self.last if note["until"] >= 0]:
            self.count("prompts with triggers", len(found))
            embedding = embedding.replace(sequences=parts)
        return embedding, [note["until"] for note in self.last]

    def _filter(
        self, parts: Mapping[str, Tensor], i: int, read: Mapping[str, MaskedPrompt], prompt: str
    ) -> dict[str, Any]:
        note: dict[str, Any] = {"prompt": prompt, "triggers": {}, "beta": None, "until": -1}
        cosines = []
        for name, masked in read.items():
            if not len(masked.rows):
                continue
            rows = parts[name][i]
            if masked.content[1] > len(rows):
                raise InputError(
                    f"the prompt {prompt!r} has rows up to {masked.content[1]} in {name}, of which the call keeps "
                    f"{len(rows)}: leave max_sequence_length at its default, or shorten the prompt"
                )
            content = slice(*masked.content)
            projected = self.project(rows, name, masked)
            cosines.append(F.cosine_similarity(projected[content], rows[content].double(), dim=-1))
            chosen = triggers(
                off_span(masked.vectors, self.bases[name].to(masked.vectors.device)).norm(dim=1), self.alpha
            )
            note["triggers"][name] = [
                word for word, is_one in zip(masked.words, chosen.tolist(), strict=True) if is_one
            ]
            at = masked.rows[chosen.cpu()].to(rows.device)
            parts[name][i, at] = projected[at].to(rows.dtype)
            self.count("tokens projected", len(at))
        if any(note["triggers"].values()):
            note["beta"] = 1 - float(torch.cat([c.cpu() for c in cosines]).mean())
            note["until"] = self.steps(note["beta"])
        return note

    def _install(self, view: PipelineView) -> Callable[[], None]:
        fitted = {name: len(basis) for name, basis in self.bases.items()}
        here = {name: part.shape[-1] for name, part in view.encode(self.spec.neutral).sequences.items()}
        if fitted != here:
            raise InputError(
                f"this erasure was fitted on rows {fitted} wide, these are {here}: fit it on this pipeline"
            )
        plans: dict[str, _Plan] = {}

        def edit(embedding: PromptEmbedding) -> PromptEmbedding | None:
            if not embedding.prompts:
                self.count("prompts of unknown text", len(embedding))
                warnings.warn(
                    f"{self!r} erases nothing from embeddings whose text is not known: pass prompts, or what "
                    "PipelineView.encode returns to PipelineView.sample",
                    NothingErasedWarning,
                    stacklevel=2,
                )
                return None
            safe, until = self.filtered(view, embedding)
            plans.update(_plans(embedding, safe, until))
            return safe

        def swap(index: int, embedding: PromptEmbedding, rows: Tensor) -> Tensor | None:
            late = [(i, p) for i, text in enumerate(embedding.prompts) if (p := plans.get(text)) and index > p.until]
            if not late:
                return None
            self.count("steps with raw rows", len(late))
            changed = rows.clone()
            for i, plan in late:
                raw, safe = plan.raw.to(rows), plan.safe.to(rows)
                now = rows[i, plan.rows]
                # Another erasure may have moved the rows since: then only what this one did is taken back.
                changed[i, plan.rows] = raw if torch.equal(now, safe) else now + (raw - safe)
            return changed

        with ExitStack() as stack:
            stack.callback(view.install_edit(edit))
            if self.negative:
                other = NegativePromptErasure(self.specs, ", ".join(self.phrases)).apply_(view)
                stack.callback(other.undo_, view)
            if self.self_validating:
                stack.callback(view.install_swap(swap))
            return stack.pop_all().close

    def config(self) -> dict[str, Any]:
        """The options."""
        return {name: getattr(self, name) for name in _OPTIONS}

    def tensors(self) -> dict[str, Tensor]:
        """Text encoder -> basis."""
        return {name: basis.cpu().contiguous() for name, basis in self.bases.items()}

    @classmethod
    def _restore(cls, specs: Sequence[ErasureSpec], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Safree:
        return cls(specs, tensors, **{name: config[name] for name in _OPTIONS})


_OPTIONS = ("alpha", "order", "self_validating", "k", "t0", "up_t", "negative")


def _plans(raw: PromptEmbedding, safe: PromptEmbedding, until: Sequence[int]) -> dict[str, _Plan]:
    """What must be known to take the safe rows back, by prompt."""
    found = {}
    for i, (prompt, last) in enumerate(zip(raw.prompts, until, strict=True)):
        if last >= 0:
            rows = (raw.sequence[i] != safe.sequence[i]).any(-1).nonzero()[:, 0]
            found[prompt] = _Plan(rows, raw.sequence[i, rows], safe.sequence[i, rows], last)
    return found


register(
    Method(
        name=Safree.method,
        kind="diffusion",
        paper="arXiv:2410.12761",
        summary="project the tokens that pull a prompt towards the concept off it, for some steps",
        fitter=Safree,
        eraser=Safree,
        needs=("text",),
    )
)
