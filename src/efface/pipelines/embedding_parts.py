"""The parts of an embedded prompt that are read one by one: a text encoder's rows, or its pooled vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from efface._errors import InputError
from efface.pipelines.embedding import PromptEmbedding

Reads = Literal["encoder", "joint"]
"""`"encoder"`: each text encoder's rows, and its pooled vector, apart; `"joint"`: all rows as one, and all vectors."""

_CONSTANT = 1e-4


@dataclass(frozen=True)
class Part:
    """A block of an embedding.

    Attributes:
        name: `"sequence"` or `"pooled"`, with the text encoder after a dot if there is one.
        rows: First row of the sequence, and the one past the last; (0, 1) of a pooled vector.
        columns: First column, and the one past the last.
    """

    name: str
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def pooled(self) -> bool:
        """Whether it is of the pooled vector."""
        return self.name.startswith("pooled")

    @property
    def encoder(self) -> str:
        """The text encoder; empty if it is of all of them."""
        return self.name.partition(".")[2]

    def of(self, embedding: PromptEmbedding) -> Tensor:
        """This part of n prompts, `(n, rows, width)`; a view."""
        whole = embedding.pooled if self.pooled else embedding.sequence
        if whole is None:
            raise InputError("these prompts have no pooled vector, and the erasure was fitted on some: fit it on this")
        if self.pooled:
            return whole[:, None, slice(*self.columns)]
        return whole[:, slice(*self.rows), slice(*self.columns)]

    def put(self, embedding: PromptEmbedding, value: Tensor) -> PromptEmbedding:
        """The embedding with this part replaced by `(n, rows, width)`; all else stays bit for bit."""
        role = "pooled" if self.pooled else "sequence"
        found = embedding.replace(**{role: getattr(embedding, role).clone()})
        self.of(found).copy_(value)
        return found

    def says(self, embedding: PromptEmbedding, first: int) -> Tensor:
        """Rows that say something, `(n, rows)` booleans.

        Those before `first`, rows of zeros (padding in Wan), and those that the mask leaves out do not.
        """
        x = self.of(embedding)
        found = (x != 0).any(-1)
        found[:, :first] = False
        if embedding.mask is not None and not self.pooled:
            found = found & embedding.mask[:, slice(*self.rows)].to(found.device).bool()
        return found

    def keep(self, embedding: PromptEmbedding, first: int) -> Tensor:
        """The same, and all rows of a prompt of which none says something."""
        found = self.says(embedding, first)
        return found | ~found.any(1, keepdim=True)


def parts_of(embedding: PromptEmbedding, reads: Reads = "encoder", *, pooled: bool = True) -> tuple[Part, ...]:
    """The parts of a pipeline's embeddings.

    Args:
        embedding: Any of its prompts.
        reads: Whether text encoders are told apart.
        pooled: Whether pooled vectors are read, where there are any.
    """
    slots = embedding.layout
    if reads == "joint":
        vector = embedding.pooled if pooled else None
        joint = [Part("sequence", *((0, n) for n in embedding.sequence.shape[1:]))]
        return (*joint, *(Part("pooled", (0, 1), (0, n)) for n in (() if vector is None else vector.shape[1:])))
    apart = [Part(f"sequence.{slot.encoder}", slot.rows, slot.columns) for slot in slots if slot.in_sequence]
    if pooled and embedding.pooled is not None:
        apart += [Part(f"pooled.{slot.encoder}", (0, 1), slot.pooled) for slot in slots if slot.in_pooled]
    return tuple(apart)


def check_length(embedding: PromptEmbedding, known: int | None = None) -> None:
    """Refuse prompts with more rows than are known: which row is whose is known of these alone.

    Args:
        embedding: The prompts, of a call that may have an option such as `max_sequence_length`.
        known: Rows of the fit; None for those that the pipeline gives by itself.

    Raises:
        InputError: If there are more rows.
    """
    known = max(slot.rows[1] for slot in embedding.layout) if known is None else known
    if (rows := embedding.sequence.shape[1]) > known:
        raise InputError(
            f"prompts are {rows} rows long, and the erasure was fitted on {known}: leave max_sequence_length at its "
            "default or make it smaller, or rows would be left as they are"
        )


def check_parts(parts: Sequence[Part], embedding: PromptEmbedding) -> None:
    """Refuse prompts of another make than those that parts were taken from; fewer rows are fine.

    Raises:
        InputError: If they have other parts, or rows that no part has.
    """
    reads, pooled = "encoder" if parts[0].encoder else "joint", any(part.pooled for part in parts)
    here, there = (
        {part.name: part.columns for part in found} for found in (parts_of(embedding, reads, pooled=pooled), parts)
    )
    if here != there:
        raise InputError(f"prompts have the parts {here} here, and the erasure was fitted on {there}: fit it on this")
    check_length(embedding, max(part.rows[1] for part in parts))


def first_row(x: Tensor) -> int:
    """How many of the first rows of n prompts `(n, rows, width)` are the same in all of them, up to rounding.

    Raises:
        InputError: If all rows are.

    >>> first_row(torch.tensor([[[1.0], [2.0]], [[1.0], [3.0]]]))
    1
    """
    if x.shape[1] == 1:
        return 0
    low, high = x[0].float().clone(), x[0].float().clone()
    for each in x:  # a prompt at a time, as there may be many
        low, high = torch.minimum(low, each.float()), torch.maximum(high, each.float())
    varies = ((high - low).amax(-1) > _CONSTANT * torch.maximum(high, -low).max()).nonzero()
    if not len(varies):
        raise InputError("a text encoder gives the same rows for all prompts: choose other words")
    return int(varies[0])
