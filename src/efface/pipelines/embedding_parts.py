"""The parts of an embedded prompt that are read one by one: a text encoder's rows, or its pooled vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from efface._errors import InputError
from efface.pipelines.embedding import PromptEmbedding, Slot
from efface.pipelines.tokens import Tokens

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

    def of(self, embedding: PromptEmbedding) -> Tensor:
        """This part of n prompts, `(n, rows, width)`; a view."""
        whole = embedding.pooled if self.pooled else embedding.sequence
        if whole is None:
            raise InputError("these prompts have no pooled vector, and the erasure was fitted on some: fit it on this")
        if self.pooled:
            return whole[:, None, slice(*self.columns)]
        return whole[:, slice(*self.rows), slice(*self.columns)]

    def keep(self, embedding: PromptEmbedding, first: int) -> Tensor:
        """Rows that say something, `(n, rows)` booleans.

        Those before `first`, rows of zeros, and those that the mask leaves out do not; a prompt of no others keeps all.
        """
        x = self.of(embedding)
        keep = (x != 0).any(-1)
        keep[:, :first] = False
        if embedding.mask is not None and not self.pooled:
            keep = keep & embedding.mask[:, slice(*self.rows)].to(keep.device).bool()
        return keep | ~keep.any(1, keepdim=True)


def parts_of(layout: Sequence[Slot], embedding: PromptEmbedding, reads: Reads, pooled: bool) -> tuple[Part, ...]:
    """The parts of a pipeline's embeddings.

    Args:
        layout: Where its text encoders' outputs lie.
        embedding: Any of its prompts.
        reads: Whether text encoders are told apart.
        pooled: Whether pooled vectors are read, where there are any.
    """
    if reads not in get_args(Reads):
        raise InputError(f"reads={reads!r}: choose one of {', '.join(map(repr, get_args(Reads)))}")
    found: list[Part] = []
    if reads == "joint":
        found.append(Part("sequence", (0, embedding.sequence.shape[1]), (0, embedding.sequence.shape[2])))
    else:
        found += [Part(f"sequence.{slot.encoder}", slot.rows, slot.columns) for slot in layout if slot.in_sequence]
    if pooled and embedding.pooled is not None:
        apart = [Part(f"pooled.{slot.encoder}", (0, 1), slot.pooled) for slot in layout if slot.in_pooled]
        found += apart if reads == "encoder" else [Part("pooled", (0, 1), (0, embedding.pooled.shape[1]))]
    return tuple(found)


def check_parts(parts: Sequence[Part], embedding: PromptEmbedding) -> None:
    """Refuse prompts of another make than those that parts were taken from; fewer rows are fine.

    Raises:
        InputError: If widths differ, or there are rows that no part has.
    """
    rows, width = (max(getattr(p, field)[1] for p in parts if not p.pooled) for field in ("rows", "columns"))
    vector = max((p.columns[1] for p in parts if p.pooled), default=None)
    here = embedding.sequence.shape[2], None if embedding.pooled is None else embedding.pooled.shape[1]
    if here[0] != width or (vector is not None and here[1] != vector):
        raise InputError(
            f"prompts are {here[0]} wide here, pooled vectors {here[1]}, and the erasure was fitted on {width} and "
            f"{vector}: fit it on this pipeline"
        )
    if embedding.sequence.shape[1] > rows:
        raise InputError(
            f"prompts are {embedding.sequence.shape[1]} rows long, and the erasure was fitted on {rows}: leave "
            "max_sequence_length at its default or make it smaller, or rows would not be read"
        )


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
        raise InputError("a text encoder gives the same rows for all prompts: choose others")
    return int(varies[0])


class Tokenizes(Protocol):
    """Tells the tokens of a prompt, as `PipelineView` does."""

    def tokens(self, prompt: str) -> Mapping[str, Tokens]:
        """Text encoder -> tokens."""
        ...


def concept_rows(view: Tokenizes, word: str, part: Part, embedding: PromptEmbedding, first: int) -> Tensor:
    """Rows of a word's own tokens and of the end of text in a part of its embedding, `(k, width)`.

    Args:
        view: The pipeline.
        word: The word.
        part: Which part.
        embedding: The word as a prompt.
        first: Rows before this one are left out.
    """
    x = part.of(embedding)[0]
    if part.pooled:
        return x
    rows: set[int] = set()
    for tokens in view.tokens(word).values():
        if part.name in ("sequence", f"sequence.{tokens.encoder}"):
            rows.update(r - part.rows[0] for r in tokens.sequence_rows(range(*tokens.content)))
    chosen = sorted(r for r in rows if first <= r < len(x))
    return x[chosen] if chosen else x[part.keep(embedding, first)[0]]


def written(embedding: PromptEmbedding, parts: Mapping[Part, tuple[Tensor, Tensor]]) -> PromptEmbedding:
    """An embedding with parts of some prompts replaced; all else stays bit for bit.

    Args:
        embedding: n prompts.
        parts: Part -> which prompts, `(m,)` indices, and what they become, `(m, rows, width)`.
    """
    changed: dict[str, Tensor] = {}
    for part, (index, value) in parts.items():
        role = "pooled" if part.pooled else "sequence"
        if role not in changed:
            changed[role] = getattr(embedding, role).clone()
        whole = changed[role]
        if part.pooled:
            whole[index, slice(*part.columns)] = value[:, 0].to(whole.dtype)
        else:
            place = whole[index]
            place[:, slice(*part.rows), slice(*part.columns)] = value.to(whole.dtype)
            whole[index] = place
    return embedding.replace(**changed)
