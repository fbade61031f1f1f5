"""What audits of pipelines ask of an erasure: to be put on and taken off, and of one with a gate what it reads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from efface.audit.subjects import PipelineSubject
from efface.core.concept import Concept


class ErasureLike(Protocol):
    """What can be put on a pipeline: `with erasure.on(view):`."""

    def on(self, subject: Any, /) -> AbstractContextManager[Any]:
        """Put it on, until the context ends."""
        ...


@runtime_checkable
class Gated(Protocol):
    """An erasure that acts on some prompts and leaves others alone."""

    def reading(self, embedding: Any, /) -> Tensor:
        """What its gate reads of each concept in each prompt, `(n, concepts)`; above 0 it acts."""
        ...


def switched_on(erasure: Any, view: PipelineSubject) -> AbstractContextManager[Any]:
    """An erasure on a view's pipeline for a while."""
    # Erasures of pipelines that are no core erasures yet are put on by another name.
    return erasure.on(view) if hasattr(erasure, "on") else erasure.applied(view)


def names_of(erasure: Any) -> tuple[str, ...]:
    """Names of the concepts of an erasure."""
    return tuple(erasure.names if hasattr(erasure, "names") else erasure.targets)


def as_concept(concept: Any) -> Concept:
    """A word, a concept or plain data of one as a concept."""
    if not hasattr(concept, "target"):
        return Concept.of(concept)
    # A spec of erasures that are no core erasures yet.
    names = ("synonyms", "anchor", "preserve", "templates", "neutral")
    return Concept(concept.target, **{name: getattr(concept, name) for name in names})
