"""Prompts as a pipeline's denoiser gets them: a value of named tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import brief
from efface._validate import check_to, check_type
from efface.core.doors import check_call, check_fields

TENSORS = ("sequence", "pooled", "mask")
"""The roles of tensors in a prompt's embedding."""


@dataclass(frozen=True)
class Slot:
    """Where one text encoder's output lies in the embedding.

    Attributes:
        encoder: Name of the text encoder.
        shift: Row of the sequence = row of the token + shift (HunyuanVideo cuts its template off: -95).
        rows: First row in the sequence, and the one past the last; (0, 0) if it gives none (CLIP in FLUX).
        columns: First column in these rows, and the one past the last.
        pooled: First column of the pooled vector, and the one past the last; (0, 0) if it gives none.
        argument: The argument of the call whose text it reads (`"prompt_2"`, which is the prompt if not given).
    """

    encoder: str
    shift: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    pooled: tuple[int, int]
    argument: str = "prompt"

    @property
    def in_sequence(self) -> bool:
        """Whether the encoder gives rows of the sequence."""
        return self.rows[1] > self.rows[0]

    @property
    def in_pooled(self) -> bool:
        """Whether the encoder gives part of the pooled vector."""
        return self.pooled[1] > self.pooled[0]


@dataclass(frozen=True)
class PromptEmbedding:
    """A batch of prompts, encoded; a value that is never changed in place.

    Attributes:
        sequence: (n, rows, width): a vector a token, of all text encoders side by side or below each other.
        pooled: (n, width) or None: a vector a prompt.
        mask: (n, rows) or None: which rows are not padding, where the denoiser is told.
        negative: The other branch of classifier-free guidance, of the same length; None without one.
        layout: Where each text encoder's output lies.
        prompts: What was encoded, if known.
        texts: Text encoder -> what it was given in place of the prompts, if anything else (`prompt_2`).
        edits: Which edits of the pipeline these tensors have been through already (see `text_edits`).

    >>> e = PromptEmbedding(torch.zeros(2, 3, 4))
    >>> len(e), e[1:].sequence.shape, e.replace(sequence=e.sequence + 1).sequence.sum().item()
    (2, torch.Size([1, 3, 4]), 24.0)
    """

    sequence: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    negative: PromptEmbedding | None = None
    layout: tuple[Slot, ...] = ()
    prompts: tuple[str, ...] = ()
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    edits: frozenset[int] = frozenset()

    __repr__ = brief

    def __post_init__(self) -> None:
        check_fields(self)
        if self.sequence.ndim != 3:
            raise InputError(f"sequence must be (n, rows, width), not {_shape(self.sequence)}")
        n, rows, _ = self.sequence.shape
        if self.pooled is not None and (self.pooled.ndim != 2 or len(self.pooled) != n):
            raise InputError(f"pooled must be (n, width) with n = {n}, not {_shape(self.pooled)}")
        if self.mask is not None and tuple(self.mask.shape) != (n, rows):
            raise InputError(f"mask must be (n, rows) = {(n, rows)}, not {_shape(self.mask)}")
        if self.negative is not None and len(self.negative) != n:
            raise InputError(f"negative has {len(self.negative)} prompts, sequence has {n}: give one for each")

    def __len__(self) -> int:
        return self.sequence.shape[0]

    def __getitem__(self, index: int | slice) -> PromptEmbedding:
        """Some of the prompts; a number keeps the batch dimension."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"prompt {index} of {len(self)}")
            index = slice(index, index + 1 or None)
        changed: dict[str, Any] = {name: value[index] for name, value in self.tensors().items()}
        negative = None if self.negative is None else self.negative[index]
        texts = {name: texts[index] for name, texts in self.texts.items()}
        return dataclasses.replace(self, **changed, negative=negative, prompts=self.prompts[index], texts=texts)

    def texts_of(self, encoder: str) -> tuple[str, ...]:
        """What a text encoder was given; empty if that is not known."""
        check_call(PromptEmbedding.texts_of, locals())
        return self.texts.get(encoder, self.prompts)

    def tensors(self) -> dict[str, Tensor]:
        """Role -> tensor, of those there are (not of `negative`)."""
        return {name: value for name in TENSORS if (value := getattr(self, name)) is not None}

    @property
    def sequences(self) -> dict[str, Tensor]:
        """Text encoder -> (n, rows, width): its own part of `sequence`."""
        return {s.encoder: self.sequence[:, slice(*s.rows), slice(*s.columns)] for s in self.layout if s.in_sequence}

    @property
    def pooled_parts(self) -> dict[str, Tensor]:
        """Text encoder -> (n, width): its own part of `pooled`."""
        if self.pooled is None:
            return {}
        return {s.encoder: self.pooled[:, slice(*s.pooled)] for s in self.layout if s.in_pooled}

    def replace(self, **changes: Any) -> PromptEmbedding:
        """The same with some fields replaced.

        Args:
            **changes: Fields by name; also `sequences`, text encoder -> its new part of `sequence`.

        Raises:
            InputError: If a shape is not that of what it replaces.
        """
        parts = changes.pop("sequences", None)
        if parts is not None:
            changes["sequence"] = self._with_parts(changes.get("sequence", self.sequence), parts)
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise InputError(f"a PromptEmbedding has no field {unknown[0]!r}: it has {', '.join(sorted(known))}")
        for name in TENSORS:
            old, new = getattr(self, name), changes.get(name, getattr(self, name))
            if old is not None and new is not None and new.shape != old.shape:
                raise InputError(f"{name} must keep its shape {tuple(old.shape)}, got {_shape(new)}")
        return dataclasses.replace(self, **changes)

    def _with_parts(self, sequence: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        sequence = sequence.clone()
        slots = {s.encoder: s for s in self.layout if s.in_sequence}
        for name, part in parts.items():
            if name not in slots:
                raise InputError(f"no rows of {name!r} are in the sequence: there are rows of {', '.join(slots)}")
            place = sequence[:, slice(*slots[name].rows), slice(*slots[name].columns)]
            if part.shape != place.shape:
                raise InputError(f"the part of {name!r} must keep its shape {tuple(place.shape)}, got {_shape(part)}")
            place.copy_(part)
        return sequence

    def map(self, change: Callable[[Tensor], Tensor]) -> PromptEmbedding:
        """`change(tensor)` for every tensor, those of `negative` too."""
        check_call(PromptEmbedding.map, locals())
        changed: dict[str, Any] = {name: change(value) for name, value in self.tensors().items()}
        negative = None if self.negative is None else self.negative.map(change)
        return dataclasses.replace(self, **changed, negative=negative)

    def to(self, *args: Any, **kwargs: Any) -> PromptEmbedding:
        """The same on another device or in another floating dtype; masks keep their dtype."""
        check_to(args, kwargs)

        def moved(value: Tensor) -> Tensor:
            if value.is_floating_point():
                return value.to(*args, **kwargs)
            device = torch.empty(0).to(*args, **kwargs).device if args or kwargs.get("device") else value.device
            return value.to(device)

        return self.map(moved)

    @staticmethod
    def cat(embeddings: Iterable[PromptEmbedding]) -> PromptEmbedding:
        """Several batches as one.

        Raises:
            InputError: If there are none, or some have tensors or a negative branch that others lack.
        """
        check_call(PromptEmbedding.cat, locals())
        items = [check_type(each, PromptEmbedding, "one of the embeddings") for each in embeddings]
        if not items:
            raise InputError("there is nothing to put together: give at least one embedding")
        first = items[0]
        if any(
            set(e.tensors()) != set(first.tensors()) or (e.negative is None) != (first.negative is None) for e in items
        ):
            raise InputError("the embeddings do not have the same tensors: encode all of them with the same pipeline")
        joined: dict[str, Any] = {name: torch.cat([getattr(e, name) for e in items]) for name in first.tensors()}
        negatives = [e.negative for e in items if e.negative is not None]
        others = dict.fromkeys(name for e in items for name in e.texts)
        return dataclasses.replace(
            first,
            **joined,
            negative=PromptEmbedding.cat(negatives) if negatives else None,
            prompts=tuple(p for e in items for p in e.prompts),
            texts={name: tuple(text for e in items for text in e.texts_of(name)) for name in others},
            edits=frozenset.intersection(*(e.edits for e in items)),
        )


def _shape(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
