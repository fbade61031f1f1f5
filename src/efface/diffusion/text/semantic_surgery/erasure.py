"""Semantic Surgery: take a concept's direction out of a prompt's embedding where, and as far as, it is there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.concept import Concept
from efface.core.doors import check_call
from efface.core.edits import OnText
from efface.core.erasure import Erasure
from efface.core.method import Field, Method, register
from efface.core.run import Log, Run
from efface.core.subjects import as_subject
from efface.diffusion.format_1 import rest_of, tensor, upgraded_erasure
from efface.diffusion.text.contexts import (
    Encoded,
    check_others,
    filled,
    templates_of,
    warn_of_no_anchor,
)
from efface.diffusion.text.contrast import Contexts, Contrast, moved
from efface.diffusion.text.semantic_surgery import gating
from efface.diffusion.text.semantic_surgery.biopsy import Calibration, Gate
from efface.diffusion.text.semantic_surgery.choosing import Candidate, Sides
from efface.diffusion.text.semantic_surgery.config import SemanticSurgeryConfig
from efface.diffusion.text.semantic_surgery.feedback import Detector, look_again
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import Part, check_parts, parts_of
from efface.pipelines.view import PipelineView

NAME = "semantic-surgery"


@dataclass(frozen=True, eq=False, repr=False)
class SemanticSurgery(Erasure):
    """Zero-shot erasure on the prompt's embedding (OpenReview 3FTVceZQrh), batched over prompts.

    Biopsy: `s_c = cos(E(prompt), E(c) - E(""))` for each word c, in each text encoder's rows and in each pooled vector
    apart. Presence: `rho_c = sigmoid((s_c - beta_c) / gamma_c)`, the highest of all parts; each part's beta and gamma
    are calibrated, and one in which prompts with and without the word look alike has no gate. Active set: the words
    with `rho_c >= tau`. Where no word is active the embedding is left bit for bit.

    `preset="published"`, as the released code does it: the score is the mean cosine over rows; all active words become
    one prompt, in the order in which they were named, and `max(rho) (E("c1, c2, ...") - E(""))` is subtracted in every
    text encoder and pooled vector. What that takes out is to a large part what all words have in common, and of several
    words the order decides what else.

    `preset="recommended"`, ours and the default: the score is the cosine of the last row, which has read the whole
    prompt, where calibration accepts it, and no other errs clearly less often in longer prompts (see `chosen`);
    subtracted is what the word has that its anchor has not, by kind of row, as much as is in the row (see `Contrast`),
    times rho. Active words are taken out one after the other, the most present first, each as far as those before it
    have left it: concepts in another order give the same. The anchor is the concept's, else the nearest of `preserve`:
    the one whose mean rows over the templates lie nearest.

    Does not guarantee: erasure of what the gate does not see (other words, attacks on the gate); that siblings, whose
    directions are alike, are left alone; anything against who leaves this wrapper out.

    Attributes:
        parts: The parts of the embedding, each of which may have a gate and is operated on.
        gates: A tuple a word: its gates, one for each part of the embedding that tells prompts apart.
        contrasts: A tuple a word: what is taken out, by part; empty where it is the direction from the neutral prompt.
        anchors: What each concept is moved to; empty likewise.
        report: Word -> part -> how its gate was calibrated, if it was.
        candidates: Word -> part -> the scores that calibration chose from, and how each came out.
    """

    parts: tuple[Part, ...]
    gates: tuple[tuple[Gate, ...], ...]
    contrasts: tuple[tuple[Contrast, ...], ...] = ()
    anchors: tuple[str, ...] = ()
    config: SemanticSurgeryConfig = field(default=SemanticSurgeryConfig(), kw_only=True, repr=False)
    report: Mapping[str, Mapping[str, Calibration]] = field(default_factory=dict, kw_only=True, repr=False)
    candidates: Mapping[str, Mapping[str, tuple[Candidate, ...]]] = field(
        default_factory=dict, kw_only=True, repr=False
    )

    @property
    def words(self) -> tuple[str, ...]:
        """What is looked for: names and synonyms, in order."""
        return tuple(word for concept in self.concepts for word in concept.words)

    def check(self) -> None:
        """Refuse gates and directions that do not go with the words."""
        anchored = self.config.form.towards == "anchor"
        wanted = (len(self.words), *((len(self.words), len(self.concepts)) if anchored else (0, 0)))
        found = (len(self.gates), len(self.contrasts), len(self.anchors))
        if found != wanted or not all(self.gates):
            raise InputError(f"gates, contrasts and anchors are {found}: there must be {wanted}, and a gate a word")
        for each in (contrast for of_word in self.contrasts for contrast in of_word):
            each.check()

    @property
    def edits(self) -> tuple[OnText, ...]:
        """Surgery on every prompt."""
        return (OnText(self.edited, suits=self._suits),)

    def _suits(self, view: PipelineView) -> None:
        check_parts(self.parts, view.encode(self.concepts[0].neutral))

    # ------------------------------------------------------------------------------------------- gate

    def presence(self, embedding: PromptEmbedding) -> tuple[Tensor, Tensor]:
        """Scores and presence `rho` of each word in each prompt, `(n, k)` both, of the part in which it is highest."""
        check_call(SemanticSurgery.presence, locals())
        scores, above = self._read(embedding)
        return scores, torch.sigmoid(above)

    def above(self, embedding: PromptEmbedding) -> Tensor:
        """`(score - beta) / gamma` of each word in each prompt, `(n, k)`: the highest of its gates."""
        check_call(SemanticSurgery.above, locals())
        return self._read(embedding)[1]

    def _read(self, embedding: PromptEmbedding) -> tuple[Tensor, Tensor]:
        check_parts(self.parts, embedding)
        scores, above = [], []
        for gates in self.gates:
            each = torch.stack([gate.scores(embedding) for gate in gates], dim=1)
            by_part = torch.stack([gate.above(s) for gate, s in zip(gates, each.unbind(1), strict=True)], dim=1)
            highest, part = by_part.max(dim=1)
            scores.append(each.gather(1, part[:, None])[:, 0])
            above.append(highest)
        return torch.stack(scores, dim=1), torch.stack(above, dim=1)

    def reading(self, embedding: PromptEmbedding) -> Tensor:
        """`(score - beta) / gamma - logit(tau)` of each concept, the highest of its words, `(n, concepts)`."""
        check_call(SemanticSurgery.reading, locals())
        tau = self.config.active_from
        above = self.above(embedding) - math.log(tau / (1 - tau))
        counts = [len(concept.words) for concept in self.concepts]
        return torch.stack([part.amax(dim=1) for part in above.split(counts, dim=1)], dim=1)

    def calibrate(
        self,
        pipe: Any,
        present: Sequence[str],
        absent: Sequence[str],
        *,
        synonyms: Sequence[str] = (),
        concept: str | None = None,
    ) -> SemanticSurgery:
        """The same erasure with the gates of a concept's words calibrated; each is to fire on all that have it.

        Args:
            pipe: The pipeline.
            present: Prompts with the concept.
            absent: Prompts without it, with siblings.
            synonyms: Prompts that have the concept in other words.
            concept: Which one, where several are erased.

        Raises:
            InputError: If prompts with and without do not separate; the text has the histogram.
        """
        check_call(SemanticSurgery.calibrate, locals())
        view, of = PipelineView.of(pipe), self._concept(concept)
        here, gone = (view.encode(list(texts)) for texts in ([*present, *synonyms], absent))
        neutral = self.concepts[0].neutral
        directions = gating.directions(Encoded(view, [neutral, *of.words]), neutral, of.words, self.config)
        given, trial = Sides(here, gone), gating.trial(view, of, self.config)
        gates, found, candidates = list(self.gates), dict(self.report), dict(self.candidates)
        for i, word in enumerate(self.words):
            if word in of.words:
                made = gating.calibrated(word, directions[word], given, trial, self.config)
                gates[i], found[word], candidates[word] = made
        return dataclasses.replace(self, gates=tuple(gates), report=found, candidates=candidates)

    def _concept(self, name: str | None) -> Concept:
        if name is None and len(self.concepts) > 1:
            raise InputError(f"several concepts are erased: write concept= one of {', '.join(self.names)}")
        for concept in self.concepts:
            if name in (None, concept.name):
                return concept
        raise InputError(f"{name!r} is not erased here: write one of {', '.join(self.names)}")

    # ------------------------------------------------------------------------------------------- surgery

    def edited(
        self, embedding: PromptEmbedding, run: Run, *, seen: Sequence[Mapping[str, float]] | None = None
    ) -> PromptEmbedding:
        """Embeddings after surgery.

        Args:
            embedding: n prompts.
            run: Whose pipeline.
            seen: For each prompt, words that were seen in its picture, with how surely: they count as present, too.
        """
        scores, above = self._read(embedding)
        rho = torch.sigmoid(above)
        if seen is not None:
            extra = torch.tensor([[found.get(word, 0.0) for word in self.words] for found in seen], device=rho.device)
            rho = rho.maximum(extra)
        chosen = self.active(rho, above)
        run.note([self._note(i, scores[i].tolist(), rho[i].tolist(), c, embedding) for i, c in enumerate(chosen)])
        run.count("prompts", len(chosen))
        if not any(chosen):
            return embedding
        run.count("prompts erased", sum(map(bool, chosen)))
        return self.operated(run.view, embedding, chosen, rho)

    def active(self, rho: Tensor, above: Tensor) -> list[tuple[str, ...]]:
        """The active words of each prompt, the first of them first (see `Order`).

        Args:
            rho: Presence, `(n, k)`.
            above: What it is the sigmoid of, which tells words apart that are surely there.
        """
        check_call(SemanticSurgery.active, locals())
        if rho.ndim != 2 or rho.shape[1] != len(self.words) or above.shape != rho.shape:
            given = f"{tuple(rho.shape)} and {tuple(above.shape)}"
            raise InputError(
                f"rho and above are {given}: expected (n, {len(self.words)}), what presence and above give"
            )
        order = above if self.config.form.order == "present" else torch.arange(len(self.words), 0, -1).expand_as(above)
        found = []
        for there, rank in zip((rho >= self.config.active_from).tolist(), order.tolist(), strict=True):
            at = sorted((i for i, is_active in enumerate(there) if is_active), key=lambda i: -rank[i])
            found.append(tuple(self.words[i] for i in at))
        return found

    def operated(
        self,
        view: PipelineView,
        embedding: PromptEmbedding,
        chosen: Sequence[Sequence[str]],
        rho: Tensor,
        *,
        every_row: bool = False,
    ) -> PromptEmbedding:
        """Embeddings with words taken out; prompts without any stay bit for bit.

        Args:
            view: The pipeline.
            embedding: n prompts.
            chosen: For each prompt, its active words in order.
            rho: How much of each word is taken out of each prompt, `(n, k)`.
            every_row: Whether rows in which a word is not found are operated on, too.
        """
        if self.config.form.towards == "neutral":
            return self._from_neutral(view, embedding, chosen, rho)
        for turn in range(max(map(len, chosen))):
            for j, word in enumerate(self.words):
                if at := [i for i, words in enumerate(chosen) if words[turn : turn + 1] == (word,)]:
                    embedding = moved(embedding, at, self.contrasts[j], rho[at, j], every_row=every_row)
        return embedding

    def _from_neutral(
        self, view: PipelineView, embedding: PromptEmbedding, chosen: Sequence[Sequence[str]], rho: Tensor
    ) -> PromptEmbedding:
        rows = [i for i, words in enumerate(chosen) if words]
        said = [", ".join(chosen[i]) for i in rows]
        texts = list(dict.fromkeys(said))
        encoded = view.encode([self.concepts[0].neutral, *texts], allow_unknown=True)  # commas need not be known
        place = torch.tensor([texts.index(text) for text in said], device=rho.device)
        changed: dict[str, Tensor] = {}
        for role in ("sequence", "pooled"):
            whole, others = getattr(embedding, role), getattr(encoded, role)
            if whole is not None:
                delta = (others[1:].float() - others[:1].float())[place]
                by = rho[rows].amax(dim=1).view(-1, *[1] * (delta.ndim - 1))
                changed[role] = whole.clone()
                changed[role][rows] = (whole[rows].float() - by * delta).to(whole.dtype)
        return embedding.replace(**changed)

    def _note(
        self, i: int, scores: Sequence[float], rho: Sequence[float], words: Sequence[str], embedding: PromptEmbedding
    ) -> dict[str, Any]:
        prompt = embedding.prompts[i] if i < len(embedding.prompts) else None
        by = {"scores": scores, "presence": rho}
        return {"prompt": prompt, "erased": list(words)} | {
            key: dict(zip(self.words, values, strict=True)) for key, values in by.items()
        }

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        detector: Detector | None = None,
        seen_from: float = 0.5,
        trust: float = 1.0,
        log: Log | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Pictures with visual feedback: what a detector still sees is erased from the *original* embedding, once more.

        Args:
            pipe: The pipeline, without this erasure on it.
            prompts: n prompts.
            seeds: As many seeds; the second picture has the seed of the first.
            detector: Who looks; None makes one pass.
            seen_from: How sure the detector must be.
            trust: What its certainty is multiplied by (lambda of the paper).
            log: Where it is noted what was done.
            **sampling: Further arguments of `PipelineView.sample`.

        Raises:
            InputError: If the detector returns something else than one value in [0, 1] a picture.
        """
        check_call(SemanticSurgery.sample, locals())
        run = Run(as_subject(pipe), repr(self), log)
        view = PipelineView.of(run.view)
        images = view.sample(self.edited(view.encode(list(prompts)), run), list(seeds), **sampling)
        if detector is None:
            return images
        looking = {"seen_from": seen_from, "trust": trust}
        return look_again(self, run, prompts, seeds, images, detector, **looking, **sampling)

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Data of format 1, which knew one gate a word, over all rows, and put the most present word first."""
        own = ("thresholds", "sharpness", "calibrations")
        found = plain["calibrations"]
        config = {"preset": "published", "order": "present", **rest_of(plain, *own)}
        config |= {} if found else {name: plain[key][0] for name, key in _GIVEN.items()}
        directions = tensors["directions"]
        part = {"name": "sequence", "rows": [0, directions.shape[1]], "columns": [0, directions.shape[2]]}
        numbers = zip(plain["thresholds"], plain["sharpness"], strict=True)
        gates = [
            [
                {
                    "part": part,
                    "direction": tensor(f"gates.{i}.0.direction"),
                    "score": plain["score"],
                    "threshold": threshold,
                    "sharpness": sharpness,
                }
            ]
            for i, (threshold, sharpness) in enumerate(numbers)
        ]
        report = {word: {part["name"]: calibration} for word, calibration in found.items()}
        upgraded = {f"gates.{i}.0.direction": direction.clone() for i, direction in enumerate(directions)}
        return upgraded_erasure(plain, config, parts=[part], gates=gates, report=report), upgraded


_GIVEN = {"threshold": "thresholds", "sharpness": "sharpness"}


def fit(view: PipelineView, concepts: Sequence[Concept], config: SemanticSurgeryConfig) -> SemanticSurgery:
    """Encode the words, and their templates; calibrate their gates. The neutral prompt is that of the first concept.

    With `threshold="auto"` each concept's `preserve` must name what has to stay, siblings above all, or `anchor` what
    to show instead; see `SemanticSurgery.calibrate` for prompts of your own.

    Raises:
        InputError: If the pipeline cannot read a word, there is nothing to calibrate on, or prompts with and without
            the concept do not separate.
    """
    for each in concepts:
        view.check_concept(each)
    config = _told_apart(concepts, config)
    neutral = concepts[0].neutral
    texts = [neutral, *(word for each in concepts for word in each.words)]
    for each in concepts:
        texts += filled(templates_of(each), (*each.words, *gating.others(each, config)))
    encoded = Encoded(view, texts)
    gates: list[tuple[Gate, ...]] = []
    report: dict[str, dict[str, Calibration]] = {}
    candidates: dict[str, dict[str, tuple[Candidate, ...]]] = {}
    for each in concepts:
        directions = gating.directions(encoded, neutral, each.words, config)
        if not isinstance(config.threshold, str):
            gates += [gating.from_threshold(directions[word], config.threshold, config) for word in each.words]
            continue
        both = (filled(templates_of(each), words) for words in (each.words, gating.others(each, config)))
        given, trial = Sides(*map(encoded.of, both)), gating.trial(view, each, config)
        for word in each.words:
            found, report[word], candidates[word] = gating.calibrated(word, directions[word], given, trial, config)
            gates.append(found)
    made: dict[str, Any] = {"method": NAME, "concepts": tuple(concepts), "config": config}
    made |= {"report": report, "candidates": candidates}
    if config.form.towards == "neutral":
        return SemanticSurgery(parts_of(encoded.all), tuple(gates), **made)
    contexts = [Contexts(encoded, each) for each in concepts]
    anchors = tuple(each.anchor or c.nearest() for each, c in zip(concepts, contexts, strict=True))
    contrasts = tuple(
        tuple(c.contrast(part, word, anchor) for part in c.parts)
        for c, anchor in zip(contexts, anchors, strict=True)
        for word in c.words
    )
    return SemanticSurgery(parts_of(encoded.all), tuple(gates), contrasts, anchors, **made)


def _told_apart(concepts: Sequence[Concept], config: SemanticSurgeryConfig) -> SemanticSurgeryConfig:
    """The options, with another start of directions, and a warning, where a concept names nothing to move it to."""
    others = partial(gating.others, config=config)
    if config.threshold == "auto":
        or_else = "call calibrate(), or give a threshold, e.g. threshold=0.12, with preset='published'"
        check_others(concepts, "calibrate {} on", or_else, others)
    start = "directions start from the neutral prompt, towards='neutral', which takes out what all words have in common"
    if config.form.towards == "anchor" and warn_of_no_anchor(concepts, start, others, stacklevel=5):
        return dataclasses.replace(config, towards="neutral")
    return config


_READS: tuple[Field, ...] = ("synonyms", "anchor", "preserve", "templates", "neutral")


def _reads(config: SemanticSurgeryConfig, data: Mapping[str, Any]) -> tuple[Field, ...]:
    """The words; what they are told from, if it is calibrated; and if it moves them to an anchor, that."""
    if config.form.towards == "anchor":
        return _READS
    return ("synonyms", "neutral", *(("preserve", "templates") if config.threshold == "auto" else ()))


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="take what the concept has that its anchor has not out of prompts in which it is found",
        paper="OpenReview 3FTVceZQrh",
        fit=fit,
        erasure=SemanticSurgery,
        config=SemanticSurgeryConfig,
        reads=_READS,
        reads_with=_reads,
        access=("prompts", "embeddings"),
        access_on=("embeddings",),
        guarantee="prompts in which the gate finds nothing give the same pictures, bit for bit",
        no_guarantee="erasure of what the gate does not see, that siblings are left alone, or anything against who "
        "leaves this out",
    )
)
