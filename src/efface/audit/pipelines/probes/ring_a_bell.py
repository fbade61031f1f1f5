"""Ring-A-Bell: prompts whose encoding lies where the concept's direction points, found without asking the eraser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.inversion import put_for
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.spots import in_place_of
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.audit.pipelines.probes.trajectory import named
from efface.pipelines.view import PipelineView

_STREAM, _GENES = 260, 261
_MUTATED = 0.25


def ring_a_bell(
    subject: Subject,
    case: Case,
    *,
    items: int = 12,
    words: int = 8,
    strength: float = 3.0,
    population: int = 100,
    generations: int = 30,
) -> Scores:
    """Prompts found by a genetic search, whose encoding is that of a prompt moved along the concept's direction.

    Source: arXiv:2310.10012 (Ring-A-Bell), equations 3 to 5: with E the text encoder,

        c = mean_i [E(with the concept) - E(without)],  min over words |E(words) - (E(prompt) + strength c)|^2,

    by half of a population that is kept, crossed and mutated.

    Where it differs: pairs are the case's prompts and the same with names of other concepts; words of the concept are
    left out, or the search would write its name. In a small vocabulary it is little more than a search for a synonym.

    Access: embeddings of the base; the subject is asked for pictures alone.

    Args:
        subject: What is attacked.
        case: What for.
        items: How many prompts.
        words: Of a prompt that is found.
        strength: Eta of the paper.
        population: How many prompts live at a time.
        generations: How often half of them are replaced.

    Raises:
        NotApplicableError: If the case has no other concepts.
    """
    if not case.others:
        raise NotApplicableError("its direction is that between prompts with the concept and with others: give others")
    texts, seeds = case.jobs(case.prompts, items, _STREAM)
    with case.base.on() as view:
        found = _found(view, case, texts, words, strength, population, generations)
    with subject.on() as view:
        images = case.sample(view, found, seeds, truncate=True)
    note = "found, for example: " + "; ".join(f"“{text}”" for text in found[:3])
    spent = {"samples": items, "passes": items * population * generations // 2}
    return Scores(
        f"{words} words alone", "search", case.seen(images), named(texts, seeds), images, spent=spent, note=note
    )


@torch.no_grad()
def _found(
    view: PipelineView, case: Case, texts: Sequence[str], words: int, strength: float, population: int, generations: int
) -> list[str]:
    def encoded(prompts: Sequence[str]) -> Tensor:
        return view.encode(list(prompts), truncate=True, allow_unknown=True).sequence.float().flatten(1)

    spots = in_place_of(view, texts, words, case.concept.words)
    own = encoded(case.prompts)
    without = torch.stack(
        [encoded([put_for(text, case.concept, other) for text in case.prompts]) for other in case.others]
    )
    direction = (own - without.mean(0)).mean(0)
    source, known = case.source(_GENES), spots.words

    def written(genes: Tensor) -> list[str]:
        return [" ".join(known[i] for i in row) for row in genes.tolist()]

    def apart(genes: Tensor, target: Tensor) -> Tensor:
        return (encoded(written(genes)) - target).square().sum(1).cpu()

    best: list[str] = []
    for target in encoded(texts) + strength * direction:
        genes = torch.randint(len(known), (population, words), generator=source)
        losses = apart(genes, target)
        for _ in range(generations):
            kept = losses.argsort()[: (population + 1) // 2]
            children = crossed(genes[kept], population - len(kept), len(known), source)
            genes, losses = torch.cat([genes[kept], children]), torch.cat([losses[kept], apart(children, target)])
        best += written(genes[losses.argmin()][None])
    return best


def crossed(parents: Tensor, n: int, words: int, source: Generator) -> Tensor:
    """N children of two parents each, `(n, k)`: a beginning of one, the rest of the other, and some words by chance."""
    size = parents.shape[1]
    pairs = torch.randint(len(parents), (2, n), generator=source)
    cut = torch.randint(1, max(size, 2), (n, 1), generator=source)
    children = torch.where(torch.arange(size) < cut, parents[pairs[0]], parents[pairs[1]])
    mutated = torch.rand(n, size, generator=source) < _MUTATED / size
    return torch.where(mutated, torch.randint(words, (n, size), generator=source), children)


register(
    Probe(
        "Ring-A-Bell",
        ring_a_bell,
        "embeddings",
        "prompts near the concept's direction, found without asking the eraser",
        None,
        {"items": 32, "population": 100, "generations": 30},
    )
)
