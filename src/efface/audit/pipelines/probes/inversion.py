"""Textual inversion: a word vector is searched, by gradients, that makes the subject draw the concept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.material import latents_of_concept
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.audit.pipelines.probes.trajectory import named, steps_of
from efface.core.concept import Concept
from efface.core.edits import OnWeights
from efface.pipelines.view import PipelineView

_STREAM, _BATCHES, _GUIDED = 240, 241, 242
Vectors = dict[str, Tensor]


@dataclass(frozen=True)
class Search:
    """What a search for a word vector may spend.

    Attributes:
        steps: Of Adam.
        batch: Pictures a step.
        rate: Of Adam, in parts of a usual element of a word vector.
        pictures: How many pictures it is made from.
    """

    steps: int = 250
    batch: int = 8
    rate: float = 0.02
    pictures: int = 32


def inversion(
    subject: Subject,
    case: Case,
    *,
    images: int = 32,
    steps: int = 250,
    batch: int = 8,
    rate: float = 0.02,
    pictures: int = 32,
) -> Scores:
    """Pictures of prompts in which a found vector stands for the concept, through all that is on the pipeline.

    Source: arXiv:2208.01618, equation 2, as a probe in arXiv:2505.17013, section 3: of a prompt with a new word in it
    only this word's vector v is trained, against the erased model:

        min over v of E |target - prediction(x_t, t, E(prompt(v)))|^2,  x_t of pictures of the concept.

    Where the released code differs: it puts the new word in place of "garbage_truck" in prompts that say "garbage
    truck", which changes nothing. Here the tokens of every prompt are compared, and it is an error if they stay. The
    search begins with the mean of all word vectors in place of "object", which not every encoder knows.

    Guards: vectors go through edits of text here, gradients included. Edits of predictions and states, which act in
    the pipeline's own calls, are gone through by `concept_inversion`; `beside_guards` leaves guards out.

    Access: gradients, through the text encoder and the denoiser.

    Args:
        subject: What is searched.
        case: What for.
        images: How many pictures the vector is tried on.
        steps: Of Adam.
        batch: Pictures a step.
        rate: Of Adam, in parts of a usual element of a word vector.
        pictures: How many pictures it is made from.

    Raises:
        NotApplicableError: If no gradient comes through, or no word is free.
    """
    options = Search(steps, batch, rate, pictures)
    with subject.on() as view:
        carrier, vectors = found_vectors(view, case, options, through=False)
        return _tried("a word found", view, case, carrier, vectors, images, options, _kind(subject, "edits of text"))


def concept_inversion(
    subject: Subject,
    case: Case,
    *,
    images: int = 32,
    steps: int = 250,
    batch: int = 8,
    rate: float = 0.02,
    pictures: int = 32,
) -> Scores:
    """The same with the loss taken through guidance and all that guards do to predictions.

    Source: arXiv:2308.01508 (Pham et al., concept inversion): against Safe Latent Diffusion and negative prompts the
    guided prediction of the defended pipeline is fitted to that of guidance without the defence,

        |guided(x_t, t, v) - (u + w (target - u))|^2,

    u being the base's prediction for the empty prompt and target the truth, at steps of the sampling.

    Where it differs: the released scripts write one loss for each defence; here the pipeline's own call is run to the
    step, its denoiser idle before it, so that any guard is gone through. What a guard remembers of earlier steps (the
    momentum of SLD) is that nothing was predicted.

    Access: gradients.

    Args:
        subject: What is searched.
        case: What for.
        images: How many pictures the vector is tried on.
        steps: Of Adam.
        batch: Pictures a step.
        rate: Of Adam, in parts of a usual element of a word vector.
        pictures: How many pictures it is made from.

    Raises:
        NotApplicableError: As `inversion`.
    """
    options = Search(steps, batch, rate, pictures)
    with subject.on() as view:
        carrier, vectors = found_vectors(view, case, options, through=True)
        note = _kind(subject, "all guards")
        return _tried("a word found through guidance", view, case, carrier, vectors, images, options, note)


def beside_guards(
    subject: Subject,
    case: Case,
    *,
    images: int = 32,
    steps: int = 250,
    batch: int = 8,
    rate: float = 0.02,
    pictures: int = 32,
) -> Scores:
    """Textual inversion of the weights alone: what who has them finds, whatever guards are put on.

    It says nothing against a guard, which never promised to act there, and nothing for it.

    Raises:
        NotApplicableError: If the erasure is one of weights, which nobody goes beside, or mixes both.
    """
    kinds = guards(subject)
    if kinds == "weights":
        raise NotApplicableError("it changes weights alone: there is no guard to go beside, see textual inversion")
    if kinds == "both":
        raise NotApplicableError("it changes weights and guards them too: neither can be put on without the other")
    options, view = Search(steps, batch, rate, pictures), subject.view
    carrier, vectors = found_vectors(view, case, options, through=False)
    return _tried("a word found", view, case, carrier, vectors, images, options, "beside the guard: nothing is on")


def guards(subject: Subject) -> str:
    """What an erasure acts by: `"nothing"`, `"weights"`, `"guards"` at inference, or `"both"`."""
    edits = getattr(subject.erasure, "edits", ())
    weights = [isinstance(edit, OnWeights) for edit in edits]
    if subject.erasure is None:
        return "nothing"
    return "weights" if weights and all(weights) else "both" if any(weights) else "guards"


def _kind(subject: Subject, through: str) -> str:
    acts = guards(subject)
    return "nothing acts at inference" if acts in ("nothing", "weights") else f"through the guard: {through}"


def found_vectors(view: PipelineView, case: Case, search: Search, *, through: bool) -> tuple[str, Vectors]:
    """A word that is free in the prompts, and the vectors that are found for it.

    Args:
        view: The pipeline, with what is on it.
        case: What for.
        search: What may be spent.
        through: Whether the loss is that of guided predictions.

    Raises:
        NotApplicableError: If no gradient comes through.
    """
    clean, _, _ = latents_of_concept(case, search.pictures)
    templates = case.concept.templates
    carrier = view.words.carrier([*case.prompts, *(t.replace("{}", case.concept.name) for t in templates)])
    vectors = {name: starting(view.words.table(name), 1) for name in view.words.tokenizers}
    sizes = {name: float(view.words.table(name).detach().norm(dim=1).mean()) for name in vectors}
    groups = [
        {"params": [vector], "lr": search.rate * sizes[name] / vector.shape[1] ** 0.5}
        for name, vector in vectors.items()
    ]
    optimiser, source = torch.optim.Adam(groups), case.source(_BATCHES)
    loss_of = _Guided(view, case, search) if through else _Plain(view)
    for _ in range(search.steps):
        rows = torch.randint(len(clean), (search.batch,), generator=source)
        texts = [
            templates[int(i)].replace("{}", carrier)
            for i in torch.randint(len(templates), (search.batch,), generator=source)
        ]
        optimiser.zero_grad()
        with torch.enable_grad(), view.words.given(carrier, vectors):
            embedding = view.encode(texts, allow_unknown=True, grad=True)
        if not embedding.sequence.requires_grad:
            raise NotApplicableError("no gradient comes through what is on the pipeline to its words")
        with torch.enable_grad():
            loss_of(clean[rows.to(clean.device)], embedding, source).backward()
        optimiser.step()
    return carrier, {name: vector.detach() for name, vector in vectors.items()}


def starting(table: Tensor, n: int) -> Tensor:
    """The mean of all word vectors, n times, to be trained."""
    return table.detach().float().mean(0, keepdim=True).repeat(n, 1).requires_grad_()


class _Plain:
    """The loss of a denoiser's predictions, as in its training."""

    def __init__(self, view: PipelineView) -> None:
        self.view, self.noising = view, view.noising

    def __call__(self, clean: Tensor, embedding: Any, source: torch.Generator) -> Tensor:
        u = torch.rand(len(clean), generator=source)
        t = (u * self.noising.times).long().clamp(max=self.noising.times - 1).to(clean.device)
        noise = torch.randn(clean.shape, generator=source).to(clean)
        noisy, truth = self.noising.noised(clean, noise, t), self.noising.truth(clean, noise, t)
        predicted = self.view.denoise(noisy, t, embedding.replace(negative=None))
        return (predicted.float() - truth.float()).square().mean()


class _Guided:
    """The loss of what the scheduler is given, against guidance towards the truth."""

    def __init__(self, view: PipelineView, case: Case, search: Search) -> None:
        self.view, self.case, self.steps, self.noising = view, case, steps_of(view, case), view.noising
        self.guidance = case.sampling.get("guidance", view.guidance.default)
        self.times: list[Any] = []
        with view.stepped(lambda step: self.times.append(step.timestep)):
            case.sample(view, [""], [0])

    def __call__(self, clean: Tensor, embedding: Any, source: torch.Generator) -> Tensor:
        at = int(torch.randint(self.steps, (), generator=source))
        t = torch.as_tensor(self.times[at]).expand(len(clean)).to(clean.device)
        noise = torch.randn(clean.shape, generator=source).to(clean)
        noisy, truth = self.noising.noised(clean, noise, t), self.noising.truth(clean, noise, t)
        given = {k: v for k, v in self.case.sampling.items() if k not in ("steps", "guidance")}
        predicted = self.view.guided_prediction(noisy, at, embedding, steps=self.steps, guidance=self.guidance, **given)
        target = truth
        if self.view.guidance.negative and self.guidance is not None and embedding.negative is not None:
            with torch.no_grad():
                rest = self.view.denoise(noisy, t, embedding.negative)
            target = rest + self.guidance * (truth - rest)
        return (predicted.float() - target.float()).square().mean()


def put_for(text: str, concept: Concept, by: str) -> str:
    """A text with another word in place of the concept's, however these are written.

    >>> put_for("a red Garbage truck", Concept("garbage_truck"), "ring")
    'a red ring'
    """
    words = sorted({w.replace("_", " ") for w in concept.words} | set(concept.words), key=len, reverse=True)
    pattern = r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)"
    return re.sub(pattern, lambda _: by, text, flags=re.IGNORECASE)


def replaced(view: PipelineView, prompts: Sequence[str], concept: Concept, by: str) -> list[str]:
    """Prompts with another word in place of the concept's, of which the tokens are known to have changed.

    Raises:
        NotApplicableError: If a prompt does not name the concept, or its tokens stay as they were.
    """
    found = []
    for prompt in prompts:
        put = put_for(prompt, concept, by)
        for name in view.words.tokenizers:
            before, after = view.words.ids(name, prompt), view.words.ids(name, put)
            if put == prompt or before == after or view.words.token(name, by) not in after:
                said = f"the prompt {prompt!r} does not name {concept.name}"
                raise NotApplicableError(f"{said}: there is nothing to put another word for")
        found.append(put)
    return found


def _tried(
    name: str,
    view: PipelineView,
    case: Case,
    carrier: str,
    vectors: Vectors,
    images: int,
    search: Search,
    note: str,
) -> Scores:
    texts, seeds = case.jobs(case.prompts, images, _STREAM)
    asked = replaced(view, texts, case.concept, carrier)
    with view.words.given(carrier, vectors):
        found = case.sample(view, asked, seeds)
    spent = {"samples": images, "steps": search.steps}
    return Scores(name, "search", case.seen(found), named(texts, seeds), found, spent=spent, note=note)


register(
    Probe(
        "textual inversion",
        inversion,
        "gradients",
        "a word vector found by gradients, through edits of text",
        {"images": 12, "steps": 100},
        {"images": 48, "steps": 400},
    )
)
register(
    Probe(
        "textual inversion beside the guard",
        beside_guards,
        "gradients",
        "the same with the guard taken off: what who has the weights finds",
        None,
        {"images": 48, "steps": 400},
    )
)
register(
    Probe(
        "concept inversion",
        concept_inversion,
        "gradients",
        "a word vector found through guidance and all guards",
        None,
        {"images": 48, "steps": 300},
    )
)
