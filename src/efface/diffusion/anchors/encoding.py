"""Many short prompts, encoded in the window that they need and not in the whole of the pipeline's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from efface._errors import InputError
from efface.core.doors import check_call
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.encoding import original
from efface.pipelines.restoring import StandIn, lock_of, standing_in
from efface.pipelines.view import PipelineView

_AT_ONCE = 32
_SAME = 1e-4


class ShortEncoder:
    """Encodes prompts as the pipeline does, but without rows of padding that no other row reads.

    A causal text encoder, or one that is given a mask, makes the same rows of a prompt whatever stands behind it: ten
    rows are read for a prompt of ten tokens, not 77. Whether that is so is measured, on the first prompts that are
    asked for; where it is not (T5 without a mask, templates that are cut off), prompts are encoded in full.

    Does not guarantee: the same rounding as the pipeline's own; rows agree to 1e-4 of the largest.

    Attributes:
        view: The pipeline.
        short: Whether short windows give the same rows; None until that was measured.
    """

    def __init__(self, view: PipelineView) -> None:
        check_call(ShortEncoder.__init__, locals())
        self.view = view
        slots = [slot for slot in view.layout if slot.in_sequence]
        plain = all(slot.rows[0] == slot.shift == 0 for slot in slots) and len({s.rows for s in slots}) == 1
        self.short: bool | None = None if plain else False

    def __call__(self, prompts: Sequence[str], lengths: Sequence[int]) -> PromptEmbedding:
        """The prompts' embeddings, with as many rows as the longest has, or more.

        Args:
            prompts: The prompts.
            lengths: How many tokens each has.
        """
        if self.short is None:
            self.short = self._agrees(prompts, lengths)
        order = sorted(range(len(prompts)), key=lambda i: lengths[i])
        rows = max(lengths)
        found: list[PromptEmbedding] = []
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            texts = [prompts[i] for i in part]
            found.append(self._short(texts, rows) if self.short else self._whole(texts))
        together = PromptEmbedding.cat(found)
        back = torch.tensor(sorted(range(len(order)), key=order.__getitem__))
        tensors: dict[str, Any] = {name: value[back.to(value.device)] for name, value in together.tensors().items()}
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise InputError(f"the {name} of prompts is not finite: convert the text encoder to float32")
        return dataclasses.replace(together, **tensors, prompts=tuple(prompts))

    def _whole(self, texts: Sequence[str]) -> PromptEmbedding:
        return self.view.encode(texts, allow_unknown=True).replace(negative=None)

    def _short(self, texts: Sequence[str], rows: int) -> PromptEmbedding:
        pipe, encoding = self.view.pipe, self.view.encoding
        alone = {"do_classifier_free_guidance": False}
        known = {name: value for name, value in alone.items() if name in encoding.parameters}
        parts = {name: StandIn(each, _within(each, rows)) for name, each in self.view.tokenizers.items()}
        with lock_of(pipe), torch.no_grad(), standing_in(pipe, original(pipe), parts) as encode:
            out = encode(**{**encoding.fixed(), **known, "prompt": list(texts)})
        return encoding.read(out, tuple(texts), self.view.layout).replace(negative=None)

    def _agrees(self, prompts: Sequence[str], lengths: Sequence[int]) -> bool:
        """Whether short windows give the rows of whole ones, for the shortest and the longest prompt."""
        rows = max(lengths)
        ends = [prompts[f(range(len(prompts)), key=lengths.__getitem__)] for f in (min, max)]
        whole = self._whole(ends)
        if rows >= whole.sequence.shape[1]:
            return False
        try:
            short = self._short(ends, rows)
        except (InputError, RuntimeError, ValueError, TypeError):
            return False  # a pipeline that counts on its window
        if short.sequence.shape[1] != rows or set(short.tensors()) != set(whole.tensors()):
            return False
        own = [range(lengths[prompts.index(text)]) for text in ends]
        pairs = [(short.sequence[i, : len(r)], whole.sequence[i, : len(r)]) for i, r in enumerate(own)]
        if short.pooled is not None and whole.pooled is not None:
            pairs.append((short.pooled, whole.pooled))
        return all(float((a - b).abs().max()) <= _SAME * float(b.abs().max()) for a, b in pairs)


def _within(tokenizer: Any, rows: int) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("max_length") is not None:
            kwargs["max_length"] = min(rows, kwargs["max_length"])
        return tokenizer(*args, **kwargs)

    return call
