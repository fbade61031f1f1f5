"""Is a concept to be seen in what a pipeline generates, and with an erasure, what else went?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from efface._errors import InputError
from efface._text import shown
from efface.audit.audit import Audit
from efface.audit.pipelines.erasures import ErasureLike
from efface.audit.pipelines.presence import Judge, Sampler, presence
from efface.audit.subjects import PipelineSubject
from efface.core.concept import Concept, ConceptLike
from efface.core.provenance import called, provenance
from efface.core.subjects import as_subject

_FILM = 5


def pipeline(
    subject: Any,
    concept: ConceptLike,
    *,
    judge: Judge,
    erasure: ErasureLike | None = None,
    paraphrases: Sequence[str] = (),
    others: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    seeds: int | Sequence[int] = 8,
    batch_size: int = 8,
    title: str = "",
    **sampling: Any,
) -> Audit:
    """Sample prompts that ask for a concept and let a judge say whether it is to be seen; with an erasure, both ways.

    The prompts are the concept's templates with its name and synonyms; of a film the middle frame is judged.

    Args:
        subject: A diffusers pipeline, with or without erasures on it, or a view of one.
        concept: A word, or a concept.
        judge: Called with images `(n, 3, h, w)` in [0, 1] and the name of a concept; gives for each image whether it is
            there, `(n,)` booleans or probabilities, NaN where it cannot say: these images are counted apart. For the
            world of shapes `efface_worlds.shapes.load_judge()`.
        erasure: Measured before and after, at equal seeds. It must not be on the pipeline yet.
        paraphrases: Prompts that ask for the concept in words that the erasure was not fitted on.
        others: Concepts that should stay: names, which go into the concept's templates, or names with prompts of their
            own. None takes the concept's `preserve`.
        seeds: How many seeds a prompt, or which.
        batch_size: Images at a time.
        title: Title of the audit.
        **sampling: Further arguments of `PipelineView.sample`: `steps`, `guidance`, `height`, ...

    Raises:
        InputError: If a prompt or an argument does not suit the pipeline, or the judge returns something else.

    Does not guarantee: what `efface.audit.presence` does not.
    """
    call = called("efface.audit.pipeline", {**locals(), **sampling, "sampling": None})
    view, asked = as_view(subject), Concept.of(concept)
    view.check_concept(asked)
    audit = presence(
        _sampler(view, None, batch_size, sampling),
        judge,
        asked.name,
        prompts=asked.prompts(),
        paraphrases=paraphrases,
        others=_others(asked, others),
        erased=None if erasure is None else _sampler(view, erasure, batch_size, sampling),
        seeds=seeds,
        batch_size=batch_size,
        title=title,
    )
    return replace(audit, provenance=provenance(subject=[view.pipe, erasure], call=call))


def as_view(subject: Any) -> PipelineSubject:
    """The view of a pipeline; what is a view already is taken as it is.

    Raises:
        InputError: If it is no pipeline.
    """
    if isinstance(subject, PipelineSubject):
        return subject
    found = as_subject(subject)
    if found.kind != "pipeline":
        raise InputError(f"this audit is of a pipeline, and got a {found!r}: use efface.audit.rows or .sites for those")
    return found.view


def _others(
    concept: Concept, others: Sequence[str] | Mapping[str, Sequence[str]] | None
) -> Mapping[str, Sequence[str]]:
    """Names -> prompts of what should stay."""
    if isinstance(others, str):
        raise InputError(f"others is one string: write a list, others=[{others!r}]")
    if others is not None and not isinstance(others, Iterable):
        raise InputError(f"others is {shown(others)}: write a list of words, or a mapping from words to prompts")
    if isinstance(others, Mapping):
        return others
    return {name: concept.prompts(name) for name in (concept.preserve if others is None else others)}


def _sampler(
    view: PipelineSubject, erasure: ErasureLike | None, batch_size: int, sampling: Mapping[str, Any]
) -> Sampler:
    def sample(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        with nullcontext() if erasure is None else erasure.on(view):
            images = view.sample(list(prompts), list(seeds), batch_size=batch_size, **sampling)
        return images[:, images.shape[1] // 2] if images.ndim == _FILM else images

    return sample
