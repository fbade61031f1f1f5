"""Semantic Surgery: take a concept's direction out of a prompt's embedding where, and as far as, it is there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.edits import OnText
from efface.core.erasure import Erasure
from efface.core.method import Method, register
from efface.core.run import Log, Run
from efface.core.subjects import as_subject
from efface.diffusion.format_1 import rest_of, tensor, upgraded_erasure
from efface.diffusion.text.semantic_surgery.biopsy import Calibration, Score, calibrate_gate, presence_score
from efface.diffusion.text.semantic_surgery.feedback import Detector, look_again
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView

NAME = "semantic-surgery"


@dataclass(frozen=True, kw_only=True)
class SemanticSurgeryConfig(Config):
    """Options of Semantic Surgery. The paper's thresholds are set by hand, 0.06 to 0.30 by task."""

    threshold: float | Literal["auto"] = option(
        "auto", "beta; 'auto' calibrates it on the templates with the concept against those with preserve"
    )
    sharpness: float = option(0.02, "gamma, where the threshold is given", above=0)
    score: Score = option("per-token", "which cosine of a prompt with the concept's direction")
    active_from: float = option(0.5, "tau: the presence from which on a word is active", above=0, below=1)


@dataclass(frozen=True, eq=False, repr=False)
class SemanticSurgery(Erasure):
    """Zero-shot erasure on the prompt's embedding (OpenReview 3FTVceZQrh), batched over prompts.

    Biopsy: `s_c = cos(E(prompt), E(c) - E(""))` for each word c. Presence: `rho_c = sigmoid((s_c - beta_c) / gamma_c)`.
    Active set: the words with `rho_c >= tau`. Co-occurrence encoding: all active words as one prompt, the most present
    first. Surgery: `E(prompt) - max(rho) (E("c1, c2, ...") - E(""))`, in every text encoder and pooled vector. Where
    no word is active the embedding is left bit for bit.

    Does not guarantee: erasure of what the gate does not see (other words, attacks on the gate); that siblings, whose
    directions are alike, are left alone; anything against who leaves this wrapper out.

    Attributes:
        directions: E(word) - E(""), `(k, rows, width)`.
        thresholds: beta, one a word.
        sharpness: gamma, one a word.
        report: Word -> how its gate was calibrated, if it was.
    """

    directions: Tensor
    thresholds: tuple[float, ...]
    sharpness: tuple[float, ...]
    config: SemanticSurgeryConfig = field(default=SemanticSurgeryConfig(), kw_only=True, repr=False)
    report: Mapping[str, Calibration] = field(default_factory=dict, kw_only=True, repr=False)

    @property
    def words(self) -> tuple[str, ...]:
        """What is looked for: names and synonyms, in order."""
        return tuple(word for concept in self.concepts for word in concept.words)

    def check(self) -> None:
        """Refuse gates or directions that are not as many as the words."""
        numbers = (len(self.words), len(self.directions), len(self.thresholds), len(self.sharpness))
        if self.directions.ndim != 3 or len(set(numbers)) > 1:
            raise InputError(
                f"words, directions, thresholds and sharpness are {numbers}: there must be one of each a word"
            )

    @property
    def edits(self) -> tuple[OnText, ...]:
        """Surgery on every prompt."""
        return (OnText(self.edited, suits=self._suits),)

    def _suits(self, view: PipelineView) -> None:
        if self.directions.shape[1:] != view.encode(self.concepts[0].neutral).sequence.shape[1:]:
            raise InputError("this erasure was fitted on a pipeline with other prompts: fit it on this one")

    # ------------------------------------------------------------------------------------------- gate

    def presence(self, embedding: PromptEmbedding) -> tuple[Tensor, Tensor]:
        """Scores and presence `rho` of each word in each prompt, `(n, k)` both; a detector of what is asked for."""
        x = embedding.sequence
        if x.shape[1:] != self.directions.shape[1:]:
            here, fitted = tuple(x.shape[1:]), tuple(self.directions.shape[1:])
            raise InputError(
                f"prompts are {here} here, and the erasure was fitted on {fitted}: fit it on this pipeline"
            )
        scores = torch.stack([presence_score(x, d, self.config.score) for d in self.directions.to(x.device)], dim=1)
        return scores, torch.sigmoid(self._above(scores))

    def _above(self, scores: Tensor) -> Tensor:
        beta, gamma = (torch.tensor(v, device=scores.device) for v in (self.thresholds, self.sharpness))
        return (scores - beta) / gamma

    def reading(self, embedding: PromptEmbedding) -> Tensor:
        """`(score - beta) / gamma - logit(tau)` of each concept, the highest of its words, `(n, concepts)`."""
        tau = self.config.active_from
        above = self._above(self.presence(embedding)[0]) - math.log(tau / (1 - tau))
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
        view, of = PipelineView.of(pipe), self._concept(concept)
        here, gone = (view.encode(list(texts)).sequence for texts in ([*present, *synonyms], absent))
        thresholds, sharpness, found = list(self.thresholds), list(self.sharpness), dict(self.report)
        for i, word in enumerate(self.words):
            if word in of.words:
                direction = self.directions[i].to(here.device)
                scores = (presence_score(x, direction, self.config.score).cpu() for x in (here, gone))
                found[word] = calibrate_gate(*scores, name=repr(word))
                thresholds[i], sharpness[i] = found[word].threshold, found[word].sharpness
        return dataclasses.replace(self, thresholds=tuple(thresholds), sharpness=tuple(sharpness), report=found)

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
        scores, rho = self.presence(embedding)
        if seen is not None:
            extra = torch.tensor([[found.get(word, 0.0) for word in self.words] for found in seen], device=rho.device)
            rho = rho.maximum(extra)
        chosen = [self.active(row) for row in rho.tolist()]
        run.note([self._note(i, scores[i].tolist(), rho[i].tolist(), c, embedding) for i, c in enumerate(chosen)])
        run.count("prompts", len(chosen))
        rows = [i for i, words in enumerate(chosen) if words]
        if not rows:
            return embedding
        run.count("prompts erased", len(rows))
        part = self.subtract(run.view, embedding, rows, [chosen[i] for i in rows], rho[rows].amax(dim=1))
        return embedding.replace(**part)

    def subtract(
        self,
        view: PipelineView,
        embedding: PromptEmbedding,
        rows: Sequence[int],
        words: Sequence[Sequence[str]],
        strength: Tensor,
    ) -> dict[str, Tensor]:
        """Role -> tensor of the embedding, with words taken out of some prompts.

        Args:
            view: The pipeline.
            embedding: n prompts.
            rows: Which of them.
            words: For each of these, the active words, the most present first.
            strength: How much of their joint direction, `(rows,)`.
        """
        texts = list(dict.fromkeys(", ".join(active) for active in words))
        encoded = view.encode([self.concepts[0].neutral, *texts], allow_unknown=True)  # commas need not be known
        place = torch.tensor([texts.index(", ".join(active)) for active in words], device=strength.device)
        changed = {}
        for role in ("sequence", "pooled"):
            whole, others = getattr(embedding, role), getattr(encoded, role)
            if whole is not None:
                delta = (others[1:].float() - others[:1].float())[place]
                by = strength.view(-1, *[1] * (delta.ndim - 1))
                changed[role] = whole.clone()
                changed[role][list(rows)] = (whole[list(rows)].float() - by * delta).to(whole.dtype)
        return changed

    def active(self, row: Sequence[float]) -> tuple[str, ...]:
        """Active words, the most present first."""
        order = sorted(range(len(row)), key=lambda i: -row[i])
        return tuple(self.words[i] for i in order if row[i] >= self.config.active_from)

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
        run = Run(as_subject(pipe), repr(self), log)
        view: PipelineView = run.view
        images = view.sample(self.edited(view.encode(list(prompts)), run), list(seeds), **sampling)
        if detector is None:
            return images
        looking = {"seen_from": seen_from, "trust": trust}
        return look_again(self, run, prompts, seeds, images, detector, **looking, **sampling)

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Data of format 1, which did not say what the threshold was asked to be, as those of today."""
        own = {name: plain[name] for name in ("thresholds", "sharpness")}
        found = plain["calibrations"]
        config = rest_of(plain, *own, "calibrations")
        config |= {} if found else {name: plain[key][0] for name, key in _GIVEN.items()}
        return upgraded_erasure(plain, config, **own, report=found, directions=tensor("directions")), tensors


_GIVEN = {"threshold": "thresholds", "sharpness": "sharpness"}


def fit(view: PipelineView, concepts: Sequence[Concept], config: SemanticSurgeryConfig) -> SemanticSurgery:
    """Encode the words; calibrate their gates. The neutral prompt is that of the first concept.

    With `threshold="auto"` each concept's `preserve` must name what has to stay, siblings above all; see
    `SemanticSurgery.calibrate` for prompts of your own.

    Raises:
        InputError: If the pipeline cannot read a word, there is nothing to calibrate on, or prompts with and
            without the concept do not separate.
    """
    for each in concepts:
        view.check_concept(each)
    words = [word for each in concepts for word in each.words]
    encoded = view.encode([concepts[0].neutral, *words]).sequence.float()
    if not bool(encoded.isfinite().all()):
        raise InputError(f"the embedding of {words} is not finite: convert the text encoder to float32")
    start = 0.0 if isinstance(config.threshold, str) else config.threshold
    gates = ((start,) * len(words), (config.sharpness,) * len(words))
    made = SemanticSurgery(encoded[1:] - encoded[:1], *gates, method=NAME, concepts=tuple(concepts), config=config)
    if config.threshold != "auto":
        return made
    if bare := [each.name for each in concepts if not each.preserve]:
        raise InputError(
            f"there is nothing to calibrate {', '.join(bare)} on: name what has to stay, Concept(..., "
            "preserve=[siblings and others]), call calibrate(), or give a threshold, e.g. threshold=0.12"
        )
    for each in concepts:
        made = made.calibrate(view, each.prompts(), each.prompts(each.preserve), concept=each.name)
    return made


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="subtract the concept's direction from prompts in which it is found",
        paper="OpenReview 3FTVceZQrh",
        fit=fit,
        erasure=SemanticSurgery,
        config=SemanticSurgeryConfig,
        access=("prompts", "embeddings"),
        access_on=("embeddings",),
        guarantee="prompts in which the gate finds nothing give the same pictures, bit for bit",
        no_guarantee="erasure of what the gate does not see, that siblings are left alone, or anything against who "
        "leaves this out",
    )
)
