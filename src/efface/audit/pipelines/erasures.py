"""What audits of pipelines ask of an erasure: to be put on and taken off, and of one with a gate what it reads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class ErasureLike(Protocol):
    """What can be put on a pipeline: `with erasure.on(view):`."""

    def on(self, subject: Any, /) -> AbstractContextManager[Any]:
        """Put it on, until the context ends."""
        ...


@runtime_checkable
class Gated(Protocol):
    """An erasure that acts on some prompts and leaves others alone."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its concepts."""
        ...

    def reading(self, embedding: Any, /) -> Tensor:
        """What its gate reads of each concept in each prompt, `(n, concepts)`; above 0 it acts."""
        ...
