"""CGCE: find a concept in a prompt's embedding by a trained classifier, and refine the embedding until it is gone."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError, StillUnsafeWarning
from efface.core.concept import Concept
from efface.core.doors import check_call
from efface.core.edits import OnText
from efface.core.erasure import Erasure
from efface.core.method import Field, Method, register
from efface.core.run import Run
from efface.diffusion.format_1 import rest_of, tensor, upgraded_erasure
from efface.diffusion.text.cgce.config import AT_APPLY, CgceConfig
from efface.diffusion.text.cgce.pairs import Ask, Pairs, choose_pairs
from efface.diffusion.text.cgce.readers import Reader, fit_readers
from efface.diffusion.text.cgce.refinement import follow, refine
from efface.diffusion.text.cgce.training import Fit
from efface.diffusion.text.contexts import warn_of_no_anchor
from efface.diffusion.text.contrast import Contexts, Contrast, moved
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import check_parts
from efface.pipelines.view import PipelineView

NAME = "cgce"


@dataclass(frozen=True, eq=False, repr=False)
class Cgce(Erasure):
    """Classifier-guided concept erasure on the prompt's embedding (arXiv:2511.05865), batched over prompts.

    Stage 1, pairs: prompts that are alike, one with the concept and one without (see `pairs`). Stage 2: a classifier of
    embedded prompts, given the concept's embedding, is trained on them by binary cross-entropy (see `training`).
    Stage 3: a prompt in which no concept is found is left bit for bit. Where one is, with a probability above
    `threshold`, its embedding goes down the gradient of `sum of BCE(f_c(e), 0)` over the concepts that are there, until
    all of them are gone (see `refinement`). The negative branch is left as it is.

    The source's method section and code were not at hand; we know its stages, its loss, that several classifiers'
    gradients are aggregated, and eta = 1. Everything else is a choice of ours, and an option (see `CgceConfig`):

    * `along`: with `preset="published"` it is the gradient that leads, as said above. It leads out of what the
      classifier reads and to where no prompt is: of a circle it leaves shards, or two objects. With
      `preset="recommended"`, ours and the default, a prompt moves on the straight way to where it would have the
      concept's anchor in its place (see `Contrast`), with steps as long, until the classifiers stop it or it is there;
      where they still find the concept then, by the gradient;
    * `until`: at the threshold a prompt is half way out of the concept, and a denoiser still draws it; the default goes
      on until the prompt reads like the median prompt without the concept;
    * which rows: all but the first that are the same in every prompt (the start of text in CLIP), rows of zeros
      (padding in Wan), and rows that the mask leaves out;
    * `reads`: where several text encoders give parts of the sequence, each part has its own classifier, is found unsafe
      by it and is refined until it is safe. One classifier for all may read the concept in one part and leave it in
      another;
    * `pooled`: vectors of SDXL, SD3 and FLUX are parts too, each with its own classifier.

    Does not guarantee: that a concept which the classifiers no longer find is gone from the picture: refinement is an
    attack on them, and may pass their boundary without taking out what the denoiser reads, so look at pictures
    (`efface.audit`); erasure of what they do not find; that a prompt is refined within `max_iter` steps, though that is
    counted and warned of; anything against who leaves this wrapper out.

    Attributes:
        readers: A tuple a concept: its classifiers, one for each part of the embedding.
        contrasts: A tuple a concept: what leads to its anchor, a word and a part after the other; empty without one.
        anchors: What each concept is moved to; empty likewise.
        report: Concept -> part -> how its classifier came out on pairs held out.
    """

    readers: tuple[tuple[Reader, ...], ...]
    contrasts: tuple[tuple[Contrast, ...], ...] = ()
    anchors: tuple[str, ...] = ()
    config: CgceConfig = field(default=CgceConfig(), kw_only=True, repr=False)
    report: Mapping[str, Mapping[str, Fit]] = field(default_factory=dict, kw_only=True, repr=False)

    @property
    def edits(self) -> tuple[OnText, ...]:
        """Refinement of every prompt in which a concept is found."""
        return (OnText(self.edited, suits=lambda view: self._check(view.encode("", allow_unknown=True))),)

    def check(self) -> None:
        """Refuse classifiers that do not go together."""
        parts = {tuple(reader.part for reader in group) for group in self.readers}
        if len(self.readers) != len(self.concepts) or len(parts) != 1:
            raise InputError(f"there are {len(self.readers)} groups of classifiers for {len(self.concepts)} concepts")
        if self.config.way == "anchor" and len(self.contrasts) != len(self.concepts):
            raise InputError(
                "it was fitted without a way to an anchor: fit it with preset='recommended', or write along='gradient'"
            )
        for contrast in (contrast for of in self.contrasts for contrast in of):
            contrast.check()

    def _check(self, embedding: PromptEmbedding) -> None:
        check_parts([reader.part for reader in self.readers[0]], embedding)

    def tuned(self, **options: Any) -> Cgce:
        """The same classifiers with another `threshold`, `until`, `along`, `eta`, `normalise` or `max_iter`."""
        if unknown := sorted(set(options) - set(AT_APPLY)):
            raise InputError(f"there is no option {unknown[0]!r}: write {', '.join(AT_APPLY)}")
        found = dataclasses.replace(self, config=dataclasses.replace(self.config, **options))
        found.check()
        return found

    # ------------------------------------------------------------------------------------------- gate

    def presence(self, embedding: PromptEmbedding) -> tuple[Tensor, Tensor]:
        """Logits and probabilities of each concept in each prompt, `(n, k)` both; of several parts the highest.

        Gradients pass through.

        Raises:
            InputError: If the prompts were made by another pipeline than the one it was fitted on.
        """
        check_call(Cgce.presence, locals())
        z = self._logits(embedding).amax(dim=2)
        return z, torch.sigmoid(z)

    def reading(self, embedding: PromptEmbedding) -> Tensor:
        """Logits above that of the threshold, `(n, k)`."""
        check_call(Cgce.reading, locals())
        return self.presence(embedding)[0] - self.config.limit

    def _logits(self, embedding: PromptEmbedding) -> Tensor:
        """`(n, concepts, parts)`."""
        self._check(embedding)
        return torch.stack([torch.stack([r.logits(embedding) for r in group], 1) for group in self.readers], 1)

    # ------------------------------------------------------------------------------------------- refinement

    def edited(self, embedding: PromptEmbedding, run: Run) -> PromptEmbedding:
        """Embeddings in which no concept is found any more; those in which none was stay bit for bit.

        Warns:
            StillUnsafeWarning: Once, if a prompt needs more than `max_iter` steps.
        """
        with torch.no_grad():
            before = self._logits(embedding).amax(2)
        fired = before > self.config.limit
        rows = fired.any(1).nonzero()[:, 0]
        notes = [self._note(embedding, i, z) for i, z in enumerate(before)]
        run.count("prompts", len(embedding))
        run.note(notes)
        if not len(rows):
            return embedding
        after, taken, done = self._refined(embedding, rows, fired[rows])
        for i, steps, safe in zip(rows.tolist(), taken.tolist(), done.tolist(), strict=True):
            old, new = embedding.sequence[i].float(), after.sequence[i].float()
            erased = [name for name, there in zip(self.names, fired[i].tolist(), strict=True) if there]
            moved = float((new - old).norm() / old.norm())
            notes[i] |= {"erased": erased, "steps": steps, "moved": moved, "safe": safe}
        self._tell([notes[i] for i in rows.tolist()], len(embedding), run)
        return after

    def _refined(
        self, embedding: PromptEmbedding, rows: Tensor, fired: Tensor
    ) -> tuple[PromptEmbedding, Tensor, Tensor]:
        """The embedding with the prompts `rows` refined; steps taken, `(m,)`; whether each is done."""
        after, taken, done = embedding, torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
        to = self._anchored(embedding, rows, fired)
        for readers in zip(*self.readers, strict=True):
            part = readers[0].part
            whole = part.of(embedding).clone()
            keeps = [part.keep(embedding, r.first)[rows] for r in readers]
            stop = torch.tensor([self.config.stop(r.typical) for r in readers], device=whole.device)
            classifiers = [r.classifier.on(whole.device) for r in readers]
            asked = (keeps, classifiers, fired, stop)
            x, steps, ended = whole[rows], torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool)
            if to is not None:
                x, steps, ended = follow(x, part.of(to)[rows], *asked, self.config)
            if len(left := (~ended).nonzero()[:, 0]):
                some = [keep[left] for keep in keeps]
                onward, more, safe = refine(x[left], some, classifiers, fired[left], stop, self.config)
                x = x.index_copy(0, left, onward.to(x.dtype))
                steps, ended = steps.index_add(0, left, more), ended.index_copy(0, left, safe)
            whole[rows] = x.to(whole.dtype)
            after = part.put(after, whole)
            taken, done = torch.maximum(taken, steps), done & ended
        return after, taken, done

    def _anchored(self, embedding: PromptEmbedding, rows: Tensor, fired: Tensor) -> PromptEmbedding | None:
        """The prompts with the anchors of the concepts that fired in their place; None where no way leads there."""
        if self.config.way == "gradient":
            return None
        for concept, contrasts in enumerate(self.contrasts):
            at = rows[fired[:, concept]].tolist()
            embedding = moved(embedding, at, contrasts) if at else embedding
        return embedding

    def _note(self, embedding: PromptEmbedding, i: int, z: Tensor) -> dict[str, Any]:
        presence = dict(zip(self.names, torch.sigmoid(z).tolist(), strict=True))
        prompt = embedding.prompts[i] if i < len(embedding.prompts) else None
        return {"prompt": prompt, "erased": [], "presence": presence, "steps": 0, "moved": 0.0, "safe": True}

    def _tell(self, erased: Sequence[Mapping[str, Any]], n: int, run: Run) -> None:
        """Count what was done, and warn once of prompts that are not safe."""
        run.count("prompts erased", len(erased))
        run.count("steps", sum(note["steps"] for note in erased))
        unsafe = [note["prompt"] for note in erased if not note["safe"]]
        if unsafe and "prompts still unsafe" not in run.log.counts:
            warnings.warn(
                f"{len(unsafe)} of {n} prompts are not safe after {self.config.max_iter} steps, e.g. {unsafe[0]!r}; "
                "they go on as they are now: raise max_iter or eta, or refuse prompts for which `run.log` says so",
                StillUnsafeWarning,
                stacklevel=2,
            )
        if unsafe:
            run.count("prompts still unsafe", len(unsafe))

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Data of format 1, which kept of the options those of its use alone, as those of today."""
        fits = {
            spec["target"]: {reader["part"]["name"]: reader["fit"] for reader in group}
            for spec, group in zip(plain["specs"], plain["readers"], strict=True)
        }
        readers = [
            [_upgraded_reader(reader, f"{i}.{j}.", tensors) for j, reader in enumerate(group)]
            for i, group in enumerate(plain["readers"])
        ]
        config = {
            "preset": "published",
            **plain["readers"][0][0]["sizes"],
            **plain["options"],
            **rest_of(plain, "options", "readers"),
        }
        return upgraded_erasure(plain, config, readers=readers, report=fits), tensors


def _upgraded_reader(reader: Mapping[str, Any], prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    weights = {name.removeprefix(prefix): tensor(name) for name in tensors if name.startswith(prefix)}
    own = {"typical": reader["fit"]["typical"], "classifier": {"weights": weights, "heads": reader["sizes"]["heads"]}}
    return {"part": reader["part"], "first": reader["first"], **own}


def fit(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: CgceConfig,
    *,
    pairs: Pairs | Mapping[str, Pairs] | None = None,
    ask: Ask | None = None,
) -> Cgce:
    """Make pairs, embed them, train and calibrate a classifier for each concept and part of the embedding.

    The embeddings are kept in memory while it trains: rows x width x number of different prompts. The global generator
    is left alone. Without `pairs` and `ask`, a concept's `preserve` or `anchor` must name something.

    Args:
        view: Any pipeline driven by text.
        concepts: The concepts.
        config: The options.
        pairs: `(safe, unsafe)` prompts, or a `.json` or `.csv` file of them; of several concepts, name -> pairs. They
            take the place of the concept's; for both, write `[*pairs_of_concept(concept), *mine]`.
        ask: A language model, `text -> text`, that makes the pairs.

    Raises:
        InputError: If the pipeline cannot read a word or prompt, there is nothing to train on, or pairs held out do
            not separate; the text then has the histogram.
    """
    for each in concepts:
        view.check_concept(each)
    several = len(concepts) > 1
    chosen = {each.name: choose_pairs(each, pairs, ask, config, several=several) for each in concepts}
    draws = "prompts are moved along='gradient', which may draw things of no kind"
    if config.way == "anchor" and warn_of_no_anchor(concepts, draws):
        config = dataclasses.replace(config, along="gradient")
    found = {name: fit_readers(view, name, each, config) for name, each in chosen.items()}
    fits = {name: {reader.part.name: one for reader, one in each.items()} for name, each in found.items()}
    readers = tuple(tuple(each) for each in found.values())
    ways = [_way(view, each) for each in concepts] if config.way == "anchor" else []
    contrasts, anchors = tuple(way for way, _ in ways), tuple(anchor for _, anchor in ways)
    return Cgce(readers, contrasts, anchors, method=NAME, concepts=tuple(concepts), config=config, report=fits)


def _way(view: PipelineView, concept: Concept) -> tuple[tuple[Contrast, ...], str]:
    """What leads from a concept to its anchor, and the anchor: the concept's, or the nearest word of `preserve`."""
    contexts = Contexts.of(view, concept)
    anchor = concept.anchor or contexts.nearest()
    return tuple(contexts.contrast(part, word, anchor) for word in concept.words for part in contexts.parts), anchor


_READS: tuple[Field, ...] = ("synonyms", "anchor", "preserve", "templates")


def _reads(config: CgceConfig, data: Mapping[str, Any]) -> tuple[Field, ...]:
    """What a concept says; where pairs are given they stand in its place, but for the way to its anchor."""
    return () if config.way == "gradient" and any(value is not None for value in data.values()) else _READS


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="refine prompts in which a trained classifier finds the concept, along its gradient",
        paper="arXiv:2511.05865",
        fit=fit,
        erasure=Cgce,
        config=CgceConfig,
        reads=_READS,
        reads_with=_reads,
        access=("prompts", "embeddings"),
        access_on=("embeddings",),
        guarantee="prompts in which no classifier finds a concept give the same pictures, bit for bit",
        no_guarantee="that a concept which the classifiers no longer find is gone from the picture, erasure of what "
        "they do not find, or anything against who leaves this out",
    )
)
