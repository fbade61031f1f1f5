"""CGCE: find a concept in a prompt's embedding by a trained classifier, and refine the embedding until it is gone."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from efface._errors import InputError, StillUnsafeWarning
from efface._registry import Method, register
from efface.diffusion.erasure import GatedErasure
from efface.diffusion.spec import Concepts, ErasureSpec
from efface.diffusion.text.classifier_training import Training
from efface.diffusion.text.concept_readers import Reader, fit_readers, starting
from efface.diffusion.text.prompt_pairs import Ask, Pairs, choose_pairs
from efface.diffusion.text.refinement import Normalise, Steps, refine
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import Part, Reads, check_parts, written
from efface.pipelines.view import PipelineView

Pooled = Literal["refine", "keep"]
"""`"refine"`: pooled vectors have classifiers of their own and are refined; `"keep"`: they stay, concept and all."""


class Cgce(GatedErasure):
    """Classifier-guided concept erasure on the prompt's embedding (arXiv:2511.05865), batched over prompts.

    Stage 1, pairs: prompts that are alike, one with the concept and one without (see `prompt_pairs`). Stage 2: a
    classifier of embedded prompts, given the concept's embedding, is trained on them by binary cross-entropy (see
    `classifier_training`). Stage 3: a prompt in which no concept is found is left bit for bit. Where one is, with a
    probability above `threshold`, its embedding goes down the gradient of `sum of BCE(f_c(e), 0)` over the concepts
    that are there, until all of them are gone (see `refinement`). The negative branch is left as it is.

    The source's method section and code were not at hand; we know its stages, its loss, that several classifiers'
    gradients are aggregated, and eta = 1. Everything else is a choice of ours, and an option:

    * layers, sizes, training and calibration of the classifiers (`Training`);
    * `until`: how far to refine. At the threshold a prompt is half way out of the concept, and a denoiser still draws
      it; the default goes on until the prompt reads like the median prompt without the concept;
    * `normalise`, `max_iter`, and what a step of eta is measured in (`refinement.Normalise`);
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
        threshold: Probability of a concept above which a prompt is refined.
        until: `"typical"`, `"threshold"`, or the probability down to which it is.
        steps: How it is refined.
        last: What was found in each prompt of the last batch, and done: plain data.
    """

    method = "cgce"

    def __init__(
        self,
        specs: ErasureSpec | Sequence[ErasureSpec],
        readers: Sequence[Sequence[Reader]],
        *,
        threshold: float = 0.5,
        until: float | Literal["typical", "threshold"] = "typical",
        steps: Steps | None = None,
    ) -> None:
        super().__init__(specs)
        if not 0 < threshold < 1:
            raise InputError(f"threshold={threshold}: write a probability between 0 and 1, e.g. 0.5")
        if isinstance(until, str) and until not in ("typical", "threshold"):
            raise InputError(f"until={until!r}: write 'typical', 'threshold' or a probability")
        if not isinstance(until, str) and not 0 < until <= threshold:
            raise InputError(f"until={until}: write a probability above 0 and up to threshold={threshold}")
        self.readers = tuple(tuple(group) for group in readers)
        self.threshold, self.until = float(threshold), until
        self.steps = Steps() if steps is None else steps
        self.last: list[dict[str, Any]] = []
        self._warned = False

    @classmethod
    def fit(
        cls,
        pipe: Any,
        spec: Concepts,
        *,
        pairs: Pairs | Mapping[str, Pairs] | None = None,
        ask: Ask | None = None,
        n_pairs: int = 400,
        contexts: bool = True,
        truncate: bool = False,
        reads: Reads = "encoder",
        pooled: Pooled = "refine",
        threshold: float = 0.5,
        until: float | Literal["typical", "threshold"] = "typical",
        eta: float = 1.0,
        normalise: Normalise = "l2",
        max_iter: int = 50,
        seed: int = 0,
        **training: Any,
    ) -> Cgce:
        """Make pairs, embed them, train and calibrate a classifier for each concept and part of the embedding.

        The embeddings are kept in memory while it trains: rows x width x number of different prompts.

        Args:
            pipe: Any pipeline driven by text.
            spec: The concept, or several. Without `pairs` and `ask`, `preserve` or `anchor` must name something.
            pairs: `(safe, unsafe)` prompts, or a `.json` or `.csv` file of them; of several concepts, target -> pairs.
                They take the place of the spec's; for both, write `[*pairs_of_spec(spec), *mine]`.
            ask: A language model, `text -> text`, that makes the pairs.
            n_pairs: How many pairs to ask for, or to make of a spec at most. The paper has 1000.
            contexts: Whether pairs of a spec also have the concept beside other words.
            truncate: Allow the ends of pairs' prompts to be lost.
            reads: Whether text encoders are told apart.
            pooled: What becomes of pooled vectors.
            threshold: Probability above which a prompt is refined.
            until: Down to which it is: the median of prompts without the concept, the threshold, or a probability.
            eta: Length of a step, in typical rows; 1.0 in the paper, whose scale is not known.
            normalise: What is made of the gradient.
            max_iter: Steps at most.
            seed: Of the split, weights, order, and rows dropped. The global generator is left alone.
            **training: Fields of `Training`: width, heads, members, keep_rows, learning_rate, ...

        Raises:
            InputError: If the pipeline cannot read a word or prompt, there is nothing to train on, or pairs held out do
                not separate; the text then has the histogram.
        """
        specs, view = ErasureSpec.each(spec), PipelineView.of(pipe)
        for each in specs:
            each.check(view)
        if pooled not in get_args(Pooled):
            raise InputError(f"pooled={pooled!r}: choose one of {', '.join(map(repr, get_args(Pooled)))}")
        steps, how = Steps(eta, normalise, max_iter), Training.of(**training)
        cls(specs, (), threshold=threshold, until=until)  # bad options are told before the work, not after
        readers = []
        for each in specs:
            generator = torch.Generator().manual_seed(seed)
            chosen = choose_pairs(each, pairs, ask, n=n_pairs, contexts=contexts, concepts=len(specs), seed=seed)
            readers.append(
                fit_readers(view, each.target, chosen, how, generator, reads, pooled == "refine", truncate=truncate)
            )
        return cls(specs, readers, threshold=threshold, until=until, steps=steps)

    def tuned(self, **options: Any) -> Cgce:
        """The same classifiers with other options.

        Args:
            **options: `threshold`, `until`, `eta`, `normalise`, `max_iter`.
        """
        gate = {"threshold": self.threshold, "until": self.until}
        gate |= {name: options.pop(name) for name in gate if name in options}
        if unknown := sorted(set(options) - {field.name for field in dataclasses.fields(Steps)}):
            raise InputError(f"there is no option {unknown[0]!r}: write threshold, until, eta, normalise or max_iter")
        return Cgce(self.specs, self.readers, **gate, steps=dataclasses.replace(self.steps, **options))

    @property
    def limit(self) -> float:
        """The logit of the threshold."""
        return math.log(self.threshold / (1 - self.threshold))

    def presence(self, embedding: PromptEmbedding) -> tuple[Tensor, Tensor]:
        """Logits and probabilities of each concept in each prompt, `(n, k)` both; of several parts the highest.

        Gradients pass through.

        Raises:
            InputError: If the prompts were made by another pipeline than the one it was fitted on.
        """
        z = self._logits(embedding).amax(dim=2)
        return z, torch.sigmoid(z)

    def reading(self, embedding: PromptEmbedding) -> Tensor:
        """Logits above that of the threshold, `(n, k)`."""
        return self.presence(embedding)[0] - self.limit

    def _logits(self, embedding: PromptEmbedding) -> Tensor:
        """`(n, concepts, parts)`."""
        check_parts([reader.part for reader in self.readers[0]], embedding)
        return torch.stack([torch.stack([r.logits(embedding) for r in group], 1) for group in self.readers], 1)

    def refined(self, embedding: PromptEmbedding) -> PromptEmbedding:
        """Embeddings in which no concept is found any more; those in which none was stay bit for bit.

        Args:
            embedding: n prompts.

        Warns:
            StillUnsafeWarning: Once, if a prompt needs more than `max_iter` steps.
        """
        with torch.no_grad():
            before = self._logits(embedding)
        fired = before.amax(2) > self.limit
        rows = fired.any(1).nonzero()[:, 0]
        self.count("prompts", len(embedding))
        self.last = [self._note(embedding, i, before[i].amax(1)) for i in range(len(embedding))]
        if not len(rows):
            return embedding
        parts, taken, done = self._refined(embedding, rows, fired[rows])
        after = written(embedding, parts)
        self._tell(embedding, after, rows.tolist(), fired, taken.tolist(), done.tolist())
        return after

    def _refined(
        self, embedding: PromptEmbedding, rows: Tensor, fired: Tensor
    ) -> tuple[dict[Part, tuple[Tensor, Tensor]], Tensor, Tensor]:
        """Part -> the prompts `rows` and what they become; steps taken, `(m,)`; whether each is done."""
        parts, taken, done = {}, torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
        for readers in zip(*self.readers, strict=True):
            part, e = readers[0].part, readers[0].part.of(embedding)[rows]
            keeps = [part.keep(embedding, r.first)[rows] for r in readers]
            stop = torch.tensor([self._stop(r) for r in readers], device=e.device)
            classifiers = [r.on(e.device) for r in readers]
            x, steps, ended = refine(e, keeps, classifiers, fired, stop, self.limit, self.steps)
            parts[part] = (rows, x)
            taken, done = torch.maximum(taken, steps), done & ended
        return parts, taken, done

    def _stop(self, reader: Reader) -> float:
        if self.until == "typical":
            return min(reader.fit.typical, self.limit)
        p = self.threshold if self.until == "threshold" else cast(float, self.until)
        return math.log(p / (1 - p))

    def _note(self, embedding: PromptEmbedding, i: int, z: Tensor) -> dict[str, Any]:
        presence = dict(zip(self.targets, torch.sigmoid(z).tolist(), strict=True))
        prompt = embedding.prompts[i] if i < len(embedding.prompts) else None
        return {"prompt": prompt, "erased": [], "presence": presence, "steps": 0, "moved": 0.0, "safe": True}

    def _tell(
        self,
        before: PromptEmbedding,
        after: PromptEmbedding,
        rows: Sequence[int],
        fired: Tensor,
        taken: Sequence[int],
        done: Sequence[bool],
    ) -> None:
        """Note, count and warn of what was done."""
        for i, steps, safe in zip(rows, taken, done, strict=True):
            old, new = before.sequence[i].float(), after.sequence[i].float()
            erased = [name for name, there in zip(self.targets, fired[i].tolist(), strict=True) if there]
            moved = float((new - old).norm() / old.norm())
            self.last[i] |= {"erased": erased, "steps": steps, "moved": moved, "safe": safe}
        self.count("prompts erased", len(rows))
        self.count("steps", sum(taken))
        if unsafe := [i for i in rows if not self.last[i]["safe"]]:
            self.count("prompts still unsafe", len(unsafe))
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{len(unsafe)} of {len(before)} prompts are not safe after {self.steps.max_iter} steps, e.g. "
                    f"{self.last[unsafe[0]]['prompt']!r}; they go on as they are now: raise max_iter or eta, or refuse "
                    "prompts for which `last` says so",
                    StillUnsafeWarning,
                    stacklevel=2,
                )

    def _install(self, view: PipelineView) -> Callable[[], None]:
        check_parts([reader.part for reader in self.readers[0]], view.encode("", allow_unknown=True))
        return view.install_edit(self.refined)

    @property
    def report(self) -> dict[str, Any]:
        """As of every erasure, with the options, and how each classifier came out on pairs held out."""
        fits = {
            name: {r.part.name: r.fit.to_dict() for r in group}
            for name, group in zip(self.targets, self.readers, strict=True)
        }
        return {**super().report, **self._options(), "classifiers": fits}

    def _options(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "until": self.until, **asdict(self.steps)}

    def config(self) -> dict[str, Any]:
        """Options, and each classifier's part, sizes and figures."""
        return {
            "options": self._options(),
            "readers": [[reader.config() for reader in group] for group in self.readers],
        }

    def tensors(self) -> dict[str, Tensor]:
        """`concept.part.name` -> weights, by their numbers."""
        return {
            f"{i}.{j}.{name}": value.cpu().contiguous()
            for i, group in enumerate(self.readers)
            for j, reader in enumerate(group)
            for name, value in reader.classifier.state_dict().items()
        }

    @classmethod
    def _restore(cls, specs: Sequence[ErasureSpec], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Cgce:
        readers = [
            [Reader.restore(data, starting(tensors, f"{i}.{j}.")) for j, data in enumerate(group)]
            for i, group in enumerate(config["readers"])
        ]
        options = dict(config["options"])
        gate = {name: options.pop(name) for name in ("threshold", "until")}
        return cls(specs, readers, **gate, steps=Steps(**options))


register(
    Method(
        name=Cgce.method,
        kind="diffusion",
        paper="arXiv:2511.05865",
        summary="refine prompts in which a trained classifier finds the concept, along its gradient",
        fitter=Cgce,
        eraser=Cgce,
        needs=("text",),
    )
)
