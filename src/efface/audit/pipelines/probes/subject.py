"""What a probe works on: a pipeline, with an erasure on it or without, and how far into it the probe may reach."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from efface._errors import InputError, NothingErasedWarning
from efface.audit.pipelines.erasures import ErasureLike
from efface.audit.subjects import ACCESS, Access, access_of
from efface.pipelines.view import PipelineView


class NotApplicableError(Exception):
    """A probe cannot be asked of this subject; the text says why. It is never a pass."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A pipeline as a probe meets it.

    Attributes:
        name: What it is called in tables, e.g. `"base"`, `"erased"`, `"gold"`.
        view: The pipeline.
        erasure: Put on while it is probed; None takes the pipeline as it is.
        reach: The furthest access that a probe may use; None for all that the view offers.
    """

    name: str
    view: PipelineView
    erasure: ErasureLike | None = None
    reach: Access | None = None

    @cached_property
    def access(self) -> tuple[Access, ...]:
        """The levels of access that it grants, from outside to inside."""
        granted = access_of(self.view)
        return granted if self.reach is None else tuple(a for a in granted if ACCESS.index(a) <= _place(self.reach))

    @contextmanager
    def on(self) -> Iterator[PipelineView]:
        """The view with the erasure on, for the length of a block; blocks of one pipeline do not nest.

        Calls of the pipeline (`view.sample`) go through all of the erasure. `view.encode` goes through its edits of
        text, and `view.denoise` beside what it does to guidance and, in the pipeline's own calls, to states: what is
        measured with it is the denoiser with the weights that it has now.
        """
        if self.erasure is None:
            yield self.view
            return
        with warnings.catch_warnings():
            # Passes of the denoiser alone are without guidance, which guards would say of each.
            warnings.simplefilter("ignore", NothingErasedWarning)
            with self.erasure.on(self.view):
                yield self.view

    def reaching(self, access: Access) -> Subject:
        """The same for somebody who has no more access than this."""
        return replace(self, reach=access)


def _place(access: Access) -> int:
    if access not in ACCESS:
        raise InputError(f"access={access!r}: write one of {', '.join(ACCESS)}")
    return ACCESS.index(access)
