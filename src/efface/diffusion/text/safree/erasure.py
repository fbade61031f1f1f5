"""SAFREE: project the tokens that pull a prompt towards a concept off it, for as many steps as the prompt calls for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import InputError, NothingErasedWarning
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.doors import check_call
from efface.core.edits import Edit, OnPrediction, OnText
from efface.core.erasure import Erasure
from efface.core.method import Method, register
from efface.core.run import Run
from efface.diffusion.format_1 import rest_of, tensor, upgraded_erasure
from efface.diffusion.guidance.away import check_guided, tell_unguided, text_of, with_negative
from efface.diffusion.text.safree.masking import (
    MaskedPrompt,
    masked_prompt,
    off_span,
    onto_span,
    phrase_bases,
    span_basis,
    triggers,
)
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import check_length
from efface.pipelines.view import PipelineView

NAME = "safree"
Order = Literal["released", "paper"]
"""`"released"`: `(I - P_C) P_I e`, as the released code multiplies; `"paper"`: `P_I (I - P_C) e` (equation 5)."""


@dataclass(frozen=True, kw_only=True)
class SafreeConfig(Config):
    """Options of SAFREE; the defaults are those of the released code for nudity."""

    alpha: float = option(0.01, "by how much farther from the concept a prompt must be without a trigger", least=0)
    order: Order = option("released", "order of the two projections")
    self_validating: bool = option(True, "whether t' decides; otherwise the safe rows are used in all steps")
    k: float = option(2.5, "steepness of t' in beta", least=0)
    t0: float = option(5.333, "ten times the beta at which t' is half of up_t")
    up_t: float = option(10, "the largest t'", least=0)
    negative: bool = option(False, "whether the phrases are the negative prompt, too")


@dataclass(frozen=True)
class _Plan:
    """Rows of one prompt that were projected, as they were and as they are, and the last step of the latter."""

    rows: Tensor
    raw: Tensor
    safe: Tensor
    until: int


@dataclass(frozen=True, eq=False, repr=False)
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
        bases: Text encoder -> orthonormal basis of the phrases' span, `(d, r)`, float64.
    """

    bases: Mapping[str, Tensor]
    config: SafreeConfig = field(default=SafreeConfig(), kw_only=True, repr=False)

    @property
    def phrases(self) -> tuple[str, ...]:
        """What is erased, in order."""
        return tuple(phrase for concept in self.concepts for phrase in concept.words)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Projection of every prompt, and its raw rows once they are due."""
        found: list[Edit] = [OnText(self.edited, suits=self._suits)]
        if self.config.negative:
            found.append(OnText(self._negated))
        if self.config.self_validating:
            found.append(OnPrediction(before=self.raw_rows))
        return tuple(found)

    def _suits(self, view: PipelineView) -> None:
        fitted = {name: len(basis) for name, basis in self.bases.items()}
        here = {name: part.shape[-1] for name, part in view.encode(self.concepts[0].neutral).sequences.items()}
        if fitted != here:
            raise InputError(
                f"this erasure was fitted on rows {fitted} wide, these are {here}: fit it on this pipeline"
            )
        if self.config.negative:
            check_guided(view, NAME)

    # ------------------------------------------------------------------------------------------- prompts

    def edited(self, embedding: PromptEmbedding, run: Run) -> PromptEmbedding | None:
        """Safe embeddings; None where the texts are not known.

        Args:
            embedding: n prompts, with their texts in `prompts`.
            run: Whose pipeline.

        Raises:
            InputError: If the call cuts off rows of a prompt, or has more rows than the pipeline by itself.
        """
        if not embedding.prompts:
            run.count("prompts of unknown text", len(embedding))
            warnings.warn(
                f"{self!r} erases nothing from embeddings whose text is not known: pass prompts, or what "
                "PipelineView.encode returns to PipelineView.sample",
                NothingErasedWarning,
                stacklevel=2,
            )
            return None
        check_length(embedding)
        told = [_texts_of(embedding, i) for i in range(len(embedding))]
        read = {text: masked_prompt(run.view, text) for texts in told for text in texts.values()}
        parts = {name: part.clone() for name, part in embedding.sequences.items()}
        notes = []
        for i, texts in enumerate(told):
            own = {name: read[text][name] for name, text in texts.items() if name in read[text]}
            notes.append(self._filter(parts, i, embedding.prompts[i], own, run))
        run.note(notes)
        run.count("prompts", len(embedding))
        found = [i for i, note in enumerate(notes) if note["until"] >= 0]
        if not found:
            return embedding
        run.count("prompts with triggers", len(found))
        safe = embedding.replace(sequences=parts)
        plans = {_key(embedding, i): _plan(embedding, safe, i, notes[i]["until"]) for i in found}
        run.shared.setdefault(id(self), {}).update(plans)
        return safe

    def _filter(
        self, parts: Mapping[str, Tensor], i: int, prompt: str, read: Mapping[str, MaskedPrompt], run: Run
    ) -> dict[str, Any]:
        """Project the triggers of a prompt in place; what was found, with t', which is -1 without triggers."""
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
            away = off_span(masked.vectors, self.bases[name].to(masked.vectors.device)).norm(dim=1)
            chosen = triggers(away, self.config.alpha).cpu()
            found = zip(masked.words, chosen.tolist(), strict=True)
            note["triggers"][name] = [word for word, is_one in found if is_one]
            at = masked.rows[chosen].to(rows.device)
            parts[name][i, at] = projected[at].to(rows.dtype)
            run.count("tokens projected", len(at))
        if any(note["triggers"].values()):
            note["beta"] = 1 - float(torch.cat([c.cpu() for c in cosines]).mean())
            note["until"] = self.steps(note["beta"])
        return note

    def project(self, rows: Tensor, name: str, masked: MaskedPrompt) -> Tensor:
        """All rows `(n, d)` of one encoder projected as those of triggers are.

        Args:
            rows: The rows.
            name: The text encoder.
            masked: The prompt they are of.
        """
        concept, prompt = self.bases[name].to(rows.device), span_basis(masked.vectors).to(rows.device)
        if self.config.order == "released":
            return off_span(onto_span(rows.double(), prompt), concept)
        return onto_span(off_span(rows.double(), concept), prompt)

    def _negated(self, embedding: PromptEmbedding, run: Run) -> PromptEmbedding | None:
        if embedding.negative is None:
            return tell_unguided(self, run, len(embedding))
        return with_negative(embedding, ", ".join(self.phrases), run.view)

    # ------------------------------------------------------------------------------------------- steps

    def steps(self, beta: float) -> int:
        """t': the last step, from 0, that uses the safe rows, for a mean cosine of 1 - beta.

        >>> Safree({}).steps(0.5333), Safree({}).steps(0.1), Safree({}).steps(0.9)
        (5, 0, 10)
        """
        check_call(Safree.steps, locals())
        k, t0, up_t = self.config.k, self.config.t0, self.config.up_t
        return round(up_t / (1 + math.exp(min(700.0, -2 * k * (10 * beta - t0)))))

    def raw_rows(self, index: int, embedding: PromptEmbedding, rows: Tensor, run: Run) -> Tensor | None:
        """The rows of text for a step: the raw ones for prompts whose last safe step is over."""
        plans: Mapping[tuple[str, ...], _Plan] = run.shared.get(id(self), {})
        keys = [_key(embedding, i) for i in range(len(embedding.prompts))]
        late = [(i, p) for i, key in enumerate(keys) if (p := plans.get(key)) and index > p.until]
        if not late:
            return None
        run.count("steps with raw rows", len(late))
        changed = rows.clone()
        for i, plan in late:
            raw, safe = plan.raw.to(rows), plan.safe.to(rows)
            now = rows[i, plan.rows]
            # Another erasure may have moved the rows since: then only what this one did is taken back.
            changed[i, plan.rows] = raw if torch.equal(now, safe) else now + (raw - safe)
        return changed

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Data of format 1 as those of today."""
        bases = {name: tensor(name) for name in tensors}
        return upgraded_erasure(plain, rest_of(plain), bases=bases), tensors


def _texts_of(embedding: PromptEmbedding, i: int) -> dict[str, str]:
    """Text encoder -> what it was given of one of the prompts."""
    return {slot.encoder: embedding.texts_of(slot.encoder)[i] for slot in embedding.layout}


def _key(embedding: PromptEmbedding, i: int) -> tuple[str, ...]:
    """What tells a prompt of a call from others."""
    return (embedding.prompts[i], *_texts_of(embedding, i).values())


def _plan(raw: PromptEmbedding, safe: PromptEmbedding, i: int, until: int) -> _Plan:
    """What must be known to take the safe rows of a prompt back."""
    rows = (raw.sequence[i] != safe.sequence[i]).any(-1).nonzero()[:, 0]
    return _Plan(rows, raw.sequence[i, rows], safe.sequence[i, rows], until)


def fit(view: PipelineView, concepts: Sequence[Concept], config: SafreeConfig) -> Safree:
    """Encode the phrases; those of several concepts span one subspace.

    Raises:
        InputError: If the pipeline cannot read a word, or `negative=True` goes with a pipeline without guidance.
    """
    for each in concepts:
        view.check_concept(each)
    if config.negative:
        check_guided(view, NAME)
        text_of(view, concepts, None)
    bases = phrase_bases(view, [phrase for each in concepts for phrase in each.words])
    return Safree(bases, method=NAME, concepts=tuple(concepts), config=config)


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="project the tokens that pull a prompt towards the concept off it, for some steps",
        paper="arXiv:2410.12761",
        fit=fit,
        erasure=Safree,
        config=SafreeConfig,
        reads=("synonyms",),
        access=("prompts", "embeddings"),
        access_on=("prompts", "embeddings", "latents"),
        guarantee="prompts without triggers give the same pictures, bit for bit",
        no_guarantee="erasure where pooled vectors reach the denoiser on their own, of prompts whose text is not "
        "known, or once the raw rows are back; anything against who leaves this out",
    )
)
