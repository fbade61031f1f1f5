"""AGE's search for an anchor (arXiv:2501.18950): the mixture of words that an erasure does most harm to, by gradients.

What is ours: AGE changes the weights by one step of gradient descent after each step of the search, towards the
mixture; here the erasure is fitted anew each round, in closed form say, towards the one word that is first so far.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._progress import progress
from efface.core.concept import Concept, ConceptLike
from efface.core.config import Config, option
from efface.core.doors import check_call
from efface.core.edits import OnWeights
from efface.core.erasure import Erasure
from efface.diffusion.anchors.anchors import Anchors, Candidate
from efface.diffusion.anchors.candidates import ruled_out
from efface.diffusion.anchors.selection import Selector, Source
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.steps import Step
from efface.pipelines.view import PipelineView
from efface.training.seeds import seeds_of

_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class SoftAnchorConfig(Config):
    """Options of the search."""

    words: int = option(32, "how many candidates are mixed: the nearest by word vectors", least=1)
    rounds: int = option(3, "how often the erasure is fitted anew, towards the word that is first", least=1)
    steps: int = option(10, "steps of the search in each round", least=1)
    learning_rate: float = option(0.1, "of Adam, on the logits of the mixture", above=0)
    temperature: float = option(2.0, "of the Gumbel softmax", above=0)
    top: int = option(3, "how many words a mixture has", least=1)
    weight: float = option(1.0, "of harm to the anchor itself, next to that of what the concept becomes", least=0)
    template: str = option("a photo of a {}", "the prompt, with {} for the word")
    samples: int = option(2, "noisy pictures in each step", least=1)
    sampling_steps: int = option(8, "steps of the sampling that they are taken from", least=2)
    seed: int = option(0, "of pictures and mixtures", least=0)


def soft_anchor(
    pipe: Any,
    concept: ConceptLike,
    fit: Callable[[Concept], Erasure],
    candidates: Source | Sequence[str] = "vocabulary",
    *,
    parent: str | None = None,
    synset: str | None = None,
    wordnet: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Anchors:
    """Search the anchor against which an erasure does worst, as AGE (arXiv:2501.18950) does.

    With the mixture `c_t = sum_i G(pi)_i E(v_i)` of candidates' prompts, G the Gumbel softmax (cut to its `top`
    largest), e the denoiser and e' the same with the erasure on, both predicting the clean picture x:

        max over pi of |x'(z_e, c_e) - x(z_e, c_t)|^2 + weight |x'(z_t, c_t) - x(z_t, c_t)|^2

    z_e and z_t are pictures of the concept and of the first word, noisy from a step of a sampling at random. The
    erasure is fitted anew each round with the word that is first in pi as the concept's anchor.

    Does not guarantee: that the word is a good anchor: it is the one that an erasure has most to learn from. The
    search is random; another seed may find another word.

    Args:
        pipe: A pipeline, or a view of it; it is left as it was.
        concept: The concept.
        fit: Concept with an anchor -> an erasure of weights: `lambda c: efface.erase(pipe, c, "uce")`.
        candidates: As in `select_anchors`.
        parent: As in `select_anchors`.
        synset: As in `select_anchors`.
        wordnet: As in `select_anchors`.
        **options: Of `SoftAnchorConfig`.

    Raises:
        InputError: If no candidate is left, or the erasure is not one of weights.
    """
    check_call(soft_anchor, locals())
    config = SoftAnchorConfig.of(options, method="age")
    single, selector = Concept.of(concept), Selector.of(pipe, {"shortlist": options.get("words", config.words)})
    view = selector.encoder.view
    view.check_concept(replace(single, anchor=None))
    pool = selector.pool(single, candidates, parent, synset, wordnet)
    out = ruled_out(pool, single, single.words, selector.vocabulary, selector.config.pieces)
    left = sorted(word for word in pool.words if word not in out)
    if not left:
        said = "; ".join(f"{word!r} {why}" for word, why in out.items())
        raise InputError(f"no candidate for an anchor of {single.name!r} is left: {said}")
    near = selector.vocabulary.nearness(left, single.name)
    order = sorted(range(len(left)), key=lambda i: (-round(near[i], _DIGITS), left[i]))
    words = [left[i] for i in order[: config.words]]
    shares = Search(view, single, words, config).run(fit)
    best = min(range(len(words)), key=lambda i: (-shares[i], words[i]))
    out |= {left[i]: f"not among the {config.words} nearest word vectors" for i in order[config.words :]}
    rows = [
        Candidate(word, pool.words[word], "anchor" if i == best else "kept", "share of the mixture", score=shares[i])
        for i, word in enumerate(words)
    ]
    rows.sort(key=lambda each: (each.role != "anchor", -(each.score or 0.0), each.word))
    rows += [Candidate(word, pool.words[word], "dropped", why) for word, why in sorted(out.items())]
    how = f"AGE's search, {config.rounds} rounds of {config.steps} steps"
    return Anchors(single.name, words[best], (), tuple(rows), how, pool.sense)


@dataclass(frozen=True)
class Search:
    """The search over a mixture of words."""

    view: PipelineView
    concept: Concept
    words: Sequence[str]
    config: SoftAnchorConfig

    def _prompt(self, word: str) -> str:
        return " ".join(self.config.template.replace("{}", word).split())

    def run(self, fit: Callable[[Concept], Erasure]) -> list[float]:
        """The share of each word in the mixture at the end."""
        words = self.view.encode([self._prompt(word) for word in self.words], allow_unknown=True)
        words = words.replace(negative=None)
        target = self.view.encode(self._prompt(self.concept.name), allow_unknown=True).replace(negative=None)
        logits = torch.zeros(len(self.words), device=words.sequence.device, requires_grad=True)
        chance = torch.Generator().manual_seed(self.config.seed)
        optimiser = torch.optim.Adam([logits], lr=self.config.learning_rate, maximize=True)
        with progress("searching", self.config.rounds * self.config.steps, unit="steps") as bar:
            for _ in range(self.config.rounds):
                first = self.words[int(logits.argmax())]
                erasure = fit(replace(self.concept, anchor=first))
                _check(erasure)
                harm = Harm(self.view, erasure, target, self.config.weight)
                at = int(torch.randint(1, self.config.sampling_steps, (), generator=chance))
                of_target, of_word = (self._noisy(word, at, chance) for word in (self.concept.name, first))
                for _ in range(self.config.steps):
                    optimiser.zero_grad()
                    shares = mixture(logits, self.config.temperature, self.config.top, chance)
                    harm.backward(mixed(words, shares), of_target, of_word)
                    optimiser.step()
                    bar.update(1)
        return [round(share, _DIGITS) for share in logits.detach().softmax(0).tolist()]

    def _noisy(self, word: str, at: int, chance: torch.Generator) -> tuple[Tensor, Any]:
        """Latents of a word's pictures before step `at` of a sampling, and their timestep."""
        seeds = seeds_of(self.config.samples, chance)
        found: list[tuple[Tensor, Any]] = []

        def rule(step: Step) -> None:
            if step.index == at:
                time = torch.as_tensor(step.timestep).flatten()[:1]
                found.append((step.latents.detach().clone(), time))

        steps = self.config.sampling_steps
        with self.view.guided(rule):
            prompt = self._prompt(word)
            self.view.sample(prompt, seeds, batch_size=len(seeds), steps=steps, latent=True, allow_unknown=True)
        latents, time = found[0]
        return latents, time[0]


def mixture(logits: Tensor, temperature: float, top: int, chance: torch.Generator) -> Tensor:
    """A sample of the Gumbel softmax cut to its `top` largest shares, `(n,)`; gradients flow to the logits.

    >>> shares = mixture(torch.zeros(5), 2.0, 2, torch.Generator().manual_seed(0))
    >>> int((shares > 0).sum()), round(float(shares.sum()), 6)
    (2, 1.0)
    """
    uniform = torch.rand(logits.shape, generator=chance).clamp(1e-9, 1 - 1e-9).to(logits)
    soft = ((logits - torch.log(-torch.log(uniform))) / temperature).softmax(0)
    kept = torch.zeros_like(soft).scatter(0, soft.topk(min(top, len(soft))).indices, 1.0)
    return soft * kept / (soft * kept).sum()


def mixed(words: PromptEmbedding, shares: Tensor) -> PromptEmbedding:
    """One prompt: the mean of n by their shares; a row that one of them is told to read is read."""
    sequence = torch.einsum("n,nrd->rd", shares.to(words.sequence), words.sequence)[None]
    pooled = None if words.pooled is None else (shares.to(words.pooled) @ words.pooled)[None]
    mask = None if words.mask is None else words.mask.amax(0, keepdim=True)
    return replace(words, sequence=sequence, pooled=pooled, mask=mask, prompts=())


@dataclass(frozen=True)
class Harm:
    """What an erasure does to a concept and to a mixture, as the denoiser sees it."""

    view: PipelineView
    erasure: Erasure
    target: PromptEmbedding
    weight: float

    def value(self, mixture: PromptEmbedding, of_target: tuple[Tensor, Any], of_word: tuple[Tensor, Any]) -> Tensor:
        """The objective, without gradients."""
        with torch.no_grad():
            apart, harm = self._differences(mixture, of_target, of_word)
        scale = self._scale(of_target[1])
        return scale * (apart.square().sum() + self.weight * harm.square().sum())

    def backward(self, mixture: PromptEmbedding, of_target: tuple[Tensor, Any], of_word: tuple[Tensor, Any]) -> None:
        """Gradients of the objective, to what the mixture was made of.

        Each denoiser's part is taken while it is on: the weights of the other are not there then.
        """
        leaves = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in mixture.tensors().items()}
        leaf = replace(mixture, **leaves)  # type: ignore[arg-type]
        with torch.no_grad():
            apart, harm = self._differences(mixture, of_target, of_word)
        scale = 2 * self._scale(of_target[1])
        with self._on(True):
            (scale * self.weight * (harm * self._predict(of_word, leaf)).sum()).backward()
        with self._on(False):
            plain = (apart * self._predict(of_target, leaf)).sum()
            plain = plain + self.weight * (harm * self._predict(of_word, leaf)).sum()
            (-scale * plain).backward()
        ends = [(x, leaves[name].grad) for name, x in mixture.tensors().items() if leaves[name].grad is not None]
        torch.autograd.backward([x for x, _ in ends], [grad for _, grad in ends])

    def _differences(
        self, mixture: PromptEmbedding, of_target: tuple[Tensor, Any], of_word: tuple[Tensor, Any]
    ) -> tuple[Tensor, Tensor]:
        with self._on(True):
            concept, erased = self._predict(of_target, self.target), self._predict(of_word, mixture)
        return concept - self._predict(of_target, mixture), erased - self._predict(of_word, mixture)

    def _on(self, on: bool) -> Any:
        return self.erasure.on(self.view.pipe) if on else nullcontext()

    def _predict(self, noisy: tuple[Tensor, Any], embedding: PromptEmbedding) -> Tensor:
        latents, time = noisy
        return self.view.denoise(latents, time, embedding).float()

    def _scale(self, time: Any) -> float:
        """Square of what a difference of predictions is multiplied by in the clean picture."""
        kind, t = self.view.prediction_type, float(time)
        if kind == "sample":
            return 1.0
        if kind == "flow":
            return (t / self.view.scheduler.config.num_train_timesteps if t > 1 else t) ** 2
        signal = float(self.view.scheduler.alphas_cumprod[int(t)])
        return (1 - signal) / signal if kind == "epsilon" else 1 - signal


def _check(erasure: Erasure) -> None:
    edits = erasure.edits
    if not edits or not all(isinstance(edit, OnWeights) for edit in edits):
        raise InputError(
            f"fit gives an erasure of the kind {type(erasure).__name__}, which changes no weights: the search needs "
            "one that does, such as efface.erase(pipe, concept, 'uce')"
        )
