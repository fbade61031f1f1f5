"""Words that are no words: vectors in place of a prompt's token embeddings, with gradients to them.

For who attacks an erasure (`benchmarks/gate_attack.py`); no eraser needs it yet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.hooks import edit_call
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView


class SoftTokens:
    """A prompt in which the token embeddings of some words are free, as in textual inversion (arXiv:2208.01618).

    Who may choose token embeddings may say what no word says: prompts found by gradients, and learnt words, are of this
    kind. The text encoders are left as they are; the vectors stand in for the words only in this prompt, and only
    while `encode` runs or within `in_place`.

    Does not guarantee: that any text has these embeddings.

    Attributes:
        prompt: The prompt, with placeholders.
        vectors: Text encoder -> `(k, width)`: the free vectors, which start as the placeholders' own.

    >>> tokens = SoftTokens(pipe, "a picture of thing thing", "thing")  # doctest: +SKIP
    >>> tokens.encode().sequence.sum().backward()  # doctest: +SKIP
    """

    def __init__(self, pipe: Any, prompt: str, placeholder: str) -> None:
        """Free the rows of a word.

        Args:
            pipe: A pipeline driven by text.
            prompt: The prompt; as many vectors are free as the placeholder has tokens in it.
            placeholder: A word of the prompt, as often as it is there.

        Raises:
            InputError: If the word is not in the prompt, or the prompt does not suit the pipeline.
        """
        self.view = PipelineView.of(pipe)
        self.prompt = prompt
        self.vectors: dict[str, Tensor] = {}
        self._ids: dict[str, Tensor] = {}
        self._rows: dict[str, tuple[int, ...]] = {}
        self.view.check_prompts([prompt])
        for name, tokens in self.view.tokens(prompt).items():
            rows = tokens.rows(placeholder)
            if not rows:
                raise InputError(f"{placeholder!r} is not in {prompt!r}: write it where the free tokens are to be")
            table = self._tables(name)[0]
            self._ids[name] = torch.tensor(tokens.ids)
            self._rows[name] = rows
            with torch.no_grad():
                own = table(self._ids[name][list(rows)].to(table.weight.device))
            self.vectors[name] = own.detach().float().clone().requires_grad_()

    def _tables(self, encoder: str) -> list[nn.Embedding]:
        """Modules that look token embeddings up; T5 holds one that it never calls beside the one that it does."""
        model = self.view.components.text_encoders[encoder]
        size = model.get_input_embeddings().weight.shape  # type: ignore[operator]
        return [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight.shape == size]

    def encode(self, n: int = 1, **options: Any) -> PromptEmbedding:
        """The prompt n times, with gradients to `vectors`; options as for `PipelineView.encode`."""
        with self.in_place():
            return self.view.encode([self.prompt] * n, grad=True, **options)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Wherever this thread encodes this very prompt in the block, also by `pipe(...)`, the vectors are in it."""
        with ExitStack() as stack:
            for name in self.vectors:
                for table in self._tables(name):
                    stack.callback(edit_call(table, "output", self._hook(name)))
            yield

    def _hook(self, name: str) -> Any:
        own_thread = threading.get_ident()

        def replaced(module: nn.Module, args: tuple[Any, ...], kwargs: Any, out: Tensor) -> Tensor | None:
            if threading.get_ident() != own_thread:
                return None
            ids, rows = args[0], list(self._rows[name])
            wanted = self._ids[name].to(ids.device)
            # Windows may differ: the padding behind a prompt is cut, or another prompt's is longer.
            width = min(ids.shape[-1], len(wanted))
            own = (ids[..., :width] == wanted[:width]).all(dim=-1)
            if not bool(own.any()) or max(rows) >= width:
                return None
            out = out.clone()
            out[own.nonzero()[:, :1], torch.tensor(rows, device=ids.device)] = self.vectors[name].to(out)
            return out

        return replaced
