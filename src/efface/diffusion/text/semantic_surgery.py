"""Semantic Surgery: take a concept's direction out of a prompt's embedding where, and as far as, it is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from efface._errors import InputError
from efface._registry import Method, register
from efface.diffusion.erasure import GatedErasure
from efface.diffusion.spec import Concepts, ErasureSpec
from efface.diffusion.text.biopsy import Calibration, Score, calibrate_gate, presence_score
from efface.diffusion.text.feedback import Detector, look_again
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView


class SemanticSurgery(GatedErasure):
    """Zero-shot erasure on the prompt's embedding (OpenReview 3FTVceZQrh), batched over prompts.

    Biopsy: `s_c = cos(E(prompt), E(c) - E(""))` for each word c. Presence: `rho_c = sigmoid((s_c - beta_c) / gamma_c)`.
    Active set: the words with `rho_c >= tau`. Co-occurrence encoding: all active words as one prompt, the most present
    first. Surgery: `E(prompt) - max(rho) (E("c1, c2, ...") - E(""))`, in every text encoder and pooled vector. Where
    no word is active the embedding is left bit for bit.

    Does not guarantee: erasure of what the gate does not see (other words, attacks on the gate); that siblings, whose
    directions are alike, are left alone; anything against who leaves this wrapper out.

    Attributes:
        words: What is looked for: targets and synonyms.
        directions: E(word) - E(""), `(k, rows, width)`.
        thresholds: beta, one a word.
        sharpness: gamma, one a word.
        score: Which cosine.
        active_from: tau.
        calibrations: Word -> how its gate was calibrated, if it was.
        last: What was found in each prompt of the last batch: plain data.
    """

    method = "semantic-surgery"

    def __init__(
        self,
        specs: ErasureSpec | Sequence[ErasureSpec],
        directions: Tensor,
        thresholds: Sequence[float],
        sharpness: Sequence[float],
        *,
        score: Score = "per-token",
        active_from: float = 0.5,
        calibrations: Mapping[str, Calibration] | None = None,
    ) -> None:
        super().__init__(specs)
        self.words = tuple(word for spec in self.specs for word in spec.concepts)
        self.directions = directions
        self.thresholds, self.sharpness = tuple(thresholds), tuple(sharpness)
        self.score: Score = score
        self.active_from = active_from
        self.calibrations = dict(calibrations or {})
        self.last: list[dict[str, Any]] = []

    @classmethod
    def fit(
        cls,
        pipe: Any,
        spec: Concepts,
        *,
        threshold: float | Literal["auto"] = "auto",
        sharpness: float = 0.02,
        score: Score = "per-token",
        active_from: float = 0.5,
    ) -> SemanticSurgery:
        """Encode the words; calibrate their gates.

        Args:
            pipe: Any pipeline driven by text.
            spec: The concept, or several, which are erased together; with `threshold="auto"` each one's `preserve` must
                name what has to stay, siblings above all. The neutral prompt is that of the first.
            threshold: beta; `"auto"` calibrates on the spec's templates with the concept against those with `preserve`
                (see `calibrate` for prompts of your own). The paper's are set by hand, 0.06 to 0.30 by task.
            sharpness: gamma, where the threshold is given.
            score: Which cosine.
            active_from: tau.

        Raises:
            InputError: If the pipeline cannot read a word, there is nothing to calibrate on, or prompts with and
                without the concept do not separate.
        """
        specs, view = ErasureSpec.each(spec), PipelineView.of(pipe)
        for each in specs:
            each.check(view)
        if not 0 < active_from < 1:
            raise InputError(f"active_from={active_from}: write a number between 0 and 1")
        if sharpness <= 0:
            raise InputError(f"sharpness={sharpness}: write a number above 0")
        words = [word for each in specs for word in each.concepts]
        encoded = view.encode([specs[0].neutral, *words]).sequence.float()
        if not bool(encoded.isfinite().all()):
            raise InputError(f"the embedding of {words} is not finite: convert the text encoder to float32")
        directions = encoded[1:] - encoded[:1]
        start = 0.0 if threshold == "auto" else float(threshold)
        k = len(words)
        made = cls(specs, directions, [start] * k, [sharpness] * k, score=score, active_from=active_from)
        if threshold != "auto":
            return made
        if bare := [each.target for each in specs if not each.preserve]:
            raise InputError(
                f"there is nothing to calibrate {', '.join(bare)} on: name what has to stay, ErasureSpec(..., "
                "preserve=[siblings and others]), call calibrate(), or give a threshold, e.g. threshold=0.12"
            )
        for each in specs:
            made = made.calibrate(view, each.prompts(), each.prompts(each.preserve), concept=each.target)
        return made

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
        view, of = PipelineView.of(pipe), self._spec_of(concept)
        here, gone = (view.encode(list(texts)).sequence for texts in ([*present, *synonyms], absent))
        thresholds, sharpness, found = list(self.thresholds), list(self.sharpness), dict(self.calibrations)
        for i, word in enumerate(self.words):
            if word in of.concepts:
                scores = (presence_score(x, self.directions[i].to(x.device), self.score).cpu() for x in (here, gone))
                found[word] = calibrate_gate(*scores, name=repr(word))
                thresholds[i], sharpness[i] = found[word].threshold, found[word].sharpness
        return SemanticSurgery(
            self.specs,
            self.directions,
            thresholds,
            sharpness,
            score=self.score,
            active_from=self.active_from,
            calibrations=found,
        )

    def _spec_of(self, concept: str | None) -> ErasureSpec:
        if concept is None and len(self.specs) > 1:
            raise InputError(f"several concepts are erased: write concept= one of {', '.join(self.targets)}")
        for spec in self.specs:
            if concept in (None, spec.target):
                return spec
        raise InputError(f"{concept!r} is not erased here: write one of {', '.join(self.targets)}")

    def presence(self, embedding: PromptEmbedding) -> tuple[Tensor, Tensor]:
        """Scores and presence `rho` of each word in each prompt, `(n, k)` both; a detector of what is asked for."""
        x = embedding.sequence
        if x.shape[1:] != self.directions.shape[1:]:
            here, fitted = tuple(x.shape[1:]), tuple(self.directions.shape[1:])
            raise InputError(
                f"prompts are {here} here, and the erasure was fitted on {fitted}: fit it on this pipeline"
            )
        scores = torch.stack([presence_score(x, d, self.score) for d in self.directions.to(x.device)], dim=1)
        beta, gamma = (torch.tensor(v, device=x.device) for v in (self.thresholds, self.sharpness))
        return scores, torch.sigmoid((scores - beta) / gamma)

    def reading(self, embedding: PromptEmbedding) -> Tensor:
        """`(score - beta) / gamma - logit(tau)` of each concept, the highest of its words, `(n, concepts)`."""
        scores, _ = self.presence(embedding)
        beta, gamma = (torch.tensor(v, device=scores.device) for v in (self.thresholds, self.sharpness))
        above = (scores - beta) / gamma - math.log(self.active_from / (1 - self.active_from))
        counts = [len(spec.concepts) for spec in self.specs]
        return torch.stack([part.amax(dim=1) for part in above.split(counts, dim=1)], dim=1)

    def operate(
        self, view: PipelineView, embedding: PromptEmbedding, *, seen: Sequence[Mapping[str, float]] | None = None
    ) -> PromptEmbedding:
        """Embeddings after surgery.

        Args:
            view: The pipeline.
            embedding: n prompts.
            seen: For each prompt, words that were seen in its picture, with how surely: they count as present, too.
        """
        scores, rho = self.presence(embedding)
        if seen is not None:
            extra = torch.tensor([[found.get(word, 0.0) for word in self.words] for found in seen], device=rho.device)
            rho = rho.maximum(extra)
        chosen = [self.active(row) for row in rho.tolist()]
        self.last = [self._note(i, scores[i].tolist(), rho[i].tolist(), c, embedding) for i, c in enumerate(chosen)]
        self.count("prompts", len(chosen))
        rows = [i for i, words in enumerate(chosen) if words]
        if not rows:
            return embedding
        self.count("prompts erased", len(rows))
        part = self.subtract(view, embedding, rows, [chosen[i] for i in rows], rho[rows].amax(dim=1))
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
        encoded = view.encode([self.spec.neutral, *texts], allow_unknown=True)  # commas need not be known
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
        return tuple(self.words[i] for i in order if row[i] >= self.active_from)

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
            **sampling: Further arguments of `PipelineView.sample`.

        Raises:
            InputError: If the detector returns something else than one value in [0, 1] a picture.
        """
        view = PipelineView.of(pipe)
        images = view.sample(self.operate(view, view.encode(list(prompts))), list(seeds), **sampling)
        if detector is None:
            return images
        looking = {"seen_from": seen_from, "trust": trust}
        return look_again(self, view, prompts, seeds, images, detector, **looking, **sampling)

    def _install(self, view: PipelineView) -> Callable[[], None]:
        if self.directions.shape[1:] != view.encode(self.spec.neutral).sequence.shape[1:]:
            raise InputError("this erasure was fitted on a pipeline with other prompts: fit it on this one")
        return view.install_edit(lambda embedding: self.operate(view, embedding))

    def config(self) -> dict[str, Any]:
        """Gates and their calibration."""
        return {
            "thresholds": list(self.thresholds),
            "sharpness": list(self.sharpness),
            "score": self.score,
            "active_from": self.active_from,
            "calibrations": {word: c.to_dict() for word, c in self.calibrations.items()},
        }

    def tensors(self) -> dict[str, Tensor]:
        """The words' directions."""
        return {"directions": self.directions.cpu().contiguous()}

    @classmethod
    def _restore(cls, specs: Sequence[ErasureSpec], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        calibrations = {word: Calibration(**{**c, "n": tuple(c["n"])}) for word, c in config["calibrations"].items()}
        return cls(
            specs,
            tensors["directions"],
            config["thresholds"],
            config["sharpness"],
            score=config["score"],
            active_from=config["active_from"],
            calibrations=calibrations,
        )


register(
    Method(
        name=SemanticSurgery.method,
        kind="diffusion",
        paper="OpenReview 3FTVceZQrh",
        summary="subtract the concept's direction from prompts in which it is found",
        fitter=SemanticSurgery,
        eraser=SemanticSurgery,
        needs=("text",),
    )
)
