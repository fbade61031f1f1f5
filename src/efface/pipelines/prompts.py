"""A pipeline's view of text: its tokens, and prompts as its denoiser gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from efface._errors import InputError
from efface.pipelines.components import Components
from efface.pipelines.editing import TextEdit, active_edits, install_edit, listeners, skipping
from efface.pipelines.embedding import TENSORS, PromptEmbedding, Slot
from efface.pipelines.encoding import Encoding
from efface.pipelines.tokens import Tokenization, Tokens, WordRows


class PromptView:
    """The part of `PipelineView` that has to do with text.

    Attributes:
        pipe: The pipeline.
        components: Its parts by role.
        encoding: Its own way to encode prompts.
    """

    def __init__(self, pipe: Any, components: Components) -> None:
        self.pipe, self.components = pipe, components
        self.encoding = Encoding(pipe)

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        """Name -> text encoder."""
        return self.components.text_encoders

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        """Name -> tokenizer."""
        return self.components.tokenizers

    @cached_property
    def _tokenization(self) -> Tokenization:
        return Tokenization(self.pipe, self.components, self.encoding)

    @property
    def layout(self) -> tuple[Slot, ...]:
        """Where each text encoder's output lies in an embedding."""
        return tuple(self._tokenization.slots.values())

    def tokens(self, prompt: str, **options: Any) -> dict[str, Tokens]:
        """Text encoder -> the tokens of a prompt, exactly as the pipeline makes them.

        Args:
            prompt: The prompt.
            **options: Further arguments of the pipeline's `encode_prompt`.
        """
        return {tokens.encoder: tokens for tokens in self._tokenization([prompt], **options)[0]}

    def token_rows(self, prompt: str, word: str, **options: Any) -> dict[str, WordRows]:
        """Text encoder -> rows of a word or phrase in the encoder and in the sequence.

        Args:
            prompt: The prompt.
            word: A word or phrase of it, whatever its case.
            **options: Further arguments of the pipeline's `encode_prompt`.

        Raises:
            InputError: If the word is not in the prompt, or beyond the window of every text encoder.
        """
        found = {}
        for name, tokens in self.tokens(prompt, **options).items():
            if rows := tokens.rows(word):
                found[name] = WordRows(name, rows, tokens.sequence_rows(rows))
        if not found:
            raise InputError(f"{word!r} is not a word or phrase of the prompt {prompt!r} within the window")
        return found

    def check_prompts(
        self, prompts: Sequence[str], *, truncate: bool = False, allow_unknown: bool = False, **options: Any
    ) -> None:
        """Refuse prompts that the pipeline would silently cut off or not understand.

        Args:
            prompts: The prompts.
            truncate: Allow text encoders to lose the end of a prompt.
            allow_unknown: Allow words that a tokenizer replaces by its unknown token.
            **options: Further arguments of the pipeline's `encode_prompt`.

        Raises:
            InputError: For the first such prompt.
        """
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise InputError(f"a prompt is a string, not {type(prompt).__name__}: {prompt!r}")
        if truncate and allow_unknown:
            return
        for prompt, encoders in zip(prompts, self._tokenization(prompts, **options), strict=True):
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

    def encode(
        self,
        prompts: str | Sequence[str],
        *,
        negative: str | Sequence[str] | None = None,
        truncate: bool = False,
        allow_unknown: bool = False,
        grad: bool = False,
        **options: Any,
    ) -> PromptEmbedding:
        """Encode prompts as the pipeline's call would.

        Args:
            prompts: One or several.
            negative: A negative prompt for all of them or one for each; None for what the pipeline takes by itself.
            truncate: Allow the end of a prompt to be lost.
            allow_unknown: Allow unknown words.
            grad: Keep gradients to the text encoders.
            **options: Further arguments of the pipeline's `encode_prompt`.

        Returns:
            A batch of n prompts; `negative` in it is None if the pipeline's guidance has no negative branch and none
            was given.

        Raises:
            InputError: For a prompt too long or of unknown words, or negative prompts of another number.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise InputError("there are no prompts: give at least one, which may be ''")
        negatives = (
            None if negative is None else [negative] * len(prompts) if isinstance(negative, str) else [*negative]
        )
        if negatives is not None and len(negatives) != len(prompts):
            raise InputError(f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one, or one for each")
        checks = {"truncate": truncate, "allow_unknown": allow_unknown}
        self.check_prompts([*prompts, *(negatives or [])], **checks, **options)
        with torch.set_grad_enabled(grad), skipping(self.pipe, listeners(self.pipe)):
            found = self.encoding(prompts, negatives, self.layout, **options)
        return found.replace(edits=active_edits(self.pipe))

    def check_embedding(self, embedding: PromptEmbedding) -> None:
        """Refuse an embedding that this pipeline cannot have made.

        Raises:
            InputError: If a tensor is missing or of another width.
        """
        reference = self._reference
        branches = [("", embedding)] + ([("negative.", embedding.negative)] if embedding.negative is not None else [])
        for sign, branch in branches:
            for role in TENSORS:
                want, got = getattr(reference, role), getattr(branch, role)
                if (want is None) != (got is None):
                    verb = "has no" if want is None else "needs a"
                    raise InputError(f"{type(self.pipe).__name__} {verb} tensor {sign}{role}: use view.encode(prompts)")
                if want is not None and role != "mask" and want.shape[-1] != got.shape[-1]:
                    raise InputError(
                        f"{sign}{role} is {got.shape[-1]} wide, {type(self.pipe).__name__} takes {want.shape[-1]}: "
                        "it was made by another pipeline; use view.encode(prompts)"
                    )

    @cached_property
    def _reference(self) -> PromptEmbedding:
        # Edits that are on are not run: an erasure counts what it was shown.
        with torch.no_grad(), skipping(self.pipe, active_edits(self.pipe) | listeners(self.pipe)):
            return self.encoding(["a"], None, self.layout)

    @contextmanager
    def edited(self, edit: TextEdit) -> Iterator[None]:
        """Edit every prompt that the pipeline encodes, for the length of a block.

        Args:
            edit: Takes a `PromptEmbedding`, gives what replaces it.
        """
        remove = self.install_edit(edit)
        try:
            yield
        finally:
            remove()

    def install_edit(self, edit: TextEdit, *, once: bool = True) -> Callable[[], None]:
        """The same until the function that is returned is called.

        Args:
            edit: Takes a `PromptEmbedding`, gives what replaces it.
            once: Not again for embeddings that `encode` made while the edit was on.
        """
        return install_edit(self.pipe, self.encoding, self.layout, edit, once)


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else prompt[:57] + "...")
