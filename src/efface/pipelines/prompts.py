"""The text side of a pipeline: its tokens, and prompts as its denoiser gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_type
from efface.core.doors import fits
from efface.core.edits import check_base
from efface.core.subjects import unwrapped
from efface.pipelines.components import Components
from efface.pipelines.embedding import TENSORS, PromptEmbedding, Slot
from efface.pipelines.encoding import LAYERS, Encoding, check_texts
from efface.pipelines.restoring import lock_of
from efface.pipelines.text_edits import TextEdit, active_edits, install_edit, listeners, options_of, skipping
from efface.pipelines.tokenization import Tokenization


class PromptEncoder:
    """What turns prompts into what the denoiser gets.

    Attributes:
        pipe: The pipeline.
        components: Its parts by role.
        encoding: Its own way to encode prompts.
    """

    def __init__(self, pipe: Any, components: Components) -> None:
        self.pipe, self.components = pipe, components
        self.encoding = Encoding(pipe)

    @cached_property
    def tokenization(self) -> Tokenization:
        """Its tokens, and where they go; measured at first use, by one pass of the text encoders."""
        return Tokenization(self.pipe, self.components, self.encoding)

    @property
    def layout(self) -> tuple[Slot, ...]:
        """Where each text encoder's output lies in an embedding."""
        return tuple(self.tokenization.slots.values())

    def check(self, prompts: Sequence[str], *, truncate: bool, allow_unknown: bool, **options: Any) -> None:
        """Refuse prompts that the pipeline would silently cut off or not understand."""
        prompts = listed(prompts, "prompts")
        check_texts(prompts, "a prompt")
        if not prompts or (truncate and allow_unknown):
            return
        for prompt, encoders in zip(prompts, self.tokenization(prompts, **options), strict=True):
            for tokens in encoders:
                if tokens.truncated and not truncate:
                    raise InputError(
                        f"the prompt {_short(prompt)} is {tokens.length} tokens long, {tokens.encoder} reads "
                        f"{tokens.window}: shorten it, or pass truncate=True to lose its end"
                    )
                if tokens.unknown and not allow_unknown:
                    raise InputError(
                        f"{tokens.tokenizer} does not know {', '.join(map(repr, tokens.unknown))} in the prompt "
                        f"{_short(prompt)}: write other words, or pass allow_unknown=True"
                    )

    def encode(self, prompts: Sequence[str], negatives: Sequence[str] | None, **options: Any) -> PromptEmbedding:
        """Prompts, with a negative prompt each, as the pipeline's call encodes them; what only listens is not told."""
        with lock_of(self.pipe), skipping(self.pipe, listeners(self.pipe)):
            found = self.encoding(prompts, negatives, self.layout, **options)
            return found.replace(edits=active_edits(self.pipe))

    def check_embedding(self, embedding: PromptEmbedding) -> None:
        """Refuse an embedding that this pipeline cannot have made.

        Raises:
            InputError: If a tensor is missing or of another width.
        """
        name, example = type(self.pipe).__name__, self.tokenization.example
        branches = [("", embedding)] + ([("negative.", embedding.negative)] if embedding.negative is not None else [])
        for sign, branch in branches:
            for role in TENSORS:
                want, got = getattr(example, role), getattr(branch, role)
                if (want is None) != (got is None):
                    verb = "has no" if want is None else "needs a"
                    raise InputError(f"{name} {verb} tensor {sign}{role}: use view.encode(prompts)")
                if want is not None and role != "mask" and want.shape[-1] != got.shape[-1]:
                    raise InputError(
                        f"{sign}{role} is {got.shape[-1]} wide, {name} takes {want.shape[-1]}: "
                        "it was made by another pipeline; use view.encode(prompts)"
                    )

    def check_fit(self, marks: Mapping[str, str]) -> None:
        """Refuse what an erasure was not fitted to; as `PipelineView.check_fit`."""
        usual, given = self.encoding.fixed(), options_of(self.pipe)
        for name in LAYERS:
            if name in given and given[name] != usual.get(name):
                raise InputError(
                    f"{name}={given[name]!r} takes another layer of the text encoder than that which the erasure was "
                    f"fitted to: leave {name} out, or choose a method that reads its words in each call (sld, "
                    "negative-prompt)"
                )
        for name, mark in marks.items():
            check_type(name, str, "the name of a part")
            if isinstance(part := getattr(self.pipe, name, None), nn.Module):
                check_base(unwrapped(part), mark)

    @cached_property
    def reference(self) -> PromptEmbedding:
        """A prompt of one word."""
        # Edits that are on are not run: an erasure counts what it was shown.
        done = active_edits(self.pipe) | listeners(self.pipe)
        with lock_of(self.pipe), torch.no_grad(), skipping(self.pipe, done):
            return self.encoding(["a"], None, self.layout)

    def install_edit(self, edit: TextEdit, *, once: bool = True) -> Callable[[], None]:
        """Edit every prompt that is encoded until the function that is returned is called."""
        return install_edit(self.pipe, self.encoding, self.layout, self.components, edit, once)


def paired(prompts: str | Sequence[str], negative: str | Sequence[str] | None) -> tuple[list[str], list[str] | None]:
    """A list of prompts, and a negative prompt for each.

    Raises:
        InputError: If there are no prompts, or negative prompts of another number.

    >>> paired(["a", "b"], "c")
    (['a', 'b'], ['c', 'c'])
    """
    prompts = [prompts] if isinstance(prompts, str) else listed(prompts, "prompts")
    if not prompts:
        raise InputError("there are no prompts: give at least one, which may be ''")
    if negative is None:
        return prompts, None
    negatives = [negative] * len(prompts) if isinstance(negative, str) else listed(negative, "negative")
    if len(negatives) != len(prompts):
        raise InputError(f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one, or one for each")
    return prompts, negatives


def listed(texts: Any, name: str) -> list[Any]:
    """Several texts as a list.

    Raises:
        InputError: If they are no list, or another sort of thing that is gone through.
    """
    if not fits(texts, Iterable[Any]):
        raise InputError(f"{name} is {shown(texts)}: write a string, or a list of strings")
    return [*texts]


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else prompt[:57] + "...")
