"""Text encoders that are tuned, before a denoiser that is not, with rows of tokens that an adversary puts in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.hooks import edit_call
from efface.core.subjects import unwrapped
from efface.core.weights import Change
from efface.diffusion.weights.layers import denoiser_of, tunable
from efface.diffusion.weights.passes import Passes, Texts
from efface.diffusion.weights.student import Student, additions, sharing
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.encoding import Encoding, original
from efface.pipelines.restoring import lock_of, twin_of
from efface.pipelines.text_edits import active_edits
from efface.pipelines.view import PipelineView


class TunedEncoders(Student):
    """Text encoders of a pipeline, of which all but the embeddings is trained; the denoiser is the original.

    Prompts are encoded by the pipeline's own `encode_prompt` on a twin that has these text encoders.

    Args:
        view: The pipeline.
        names: Which text encoders.
        blocks: Only the first so many blocks of each; None trains all.
        neutral: The neutral prompt.

    Attributes:
        names: Text encoder -> names of the parameters that are trained.
        before: Text encoder -> these as they were.
        encoders: Text encoder -> what is trained in its place.

    Raises:
        InputError: If edits of text are on the pipeline, or a text encoder cannot be tuned.
    """

    def __init__(self, view: PipelineView, names: Sequence[str], blocks: int | None, neutral: str) -> None:
        self._view, self._neutral = view, neutral
        encode: Any = original(view.pipe)
        if active_edits(view.pipe) or getattr(encode, "__self__", None) is not view.pipe:
            raise InputError(
                f"encode_prompt of this {type(view.pipe).__name__} is edited (an erasure of prompts is on it, or a "
                "function stands in its place): take that off before a text encoder is tuned"
            )
        self.module = sharing(denoiser_of(view))  # whose parameters get no gradients
        self.names = {name: _trained(tunable(unwrapped(view.text_encoders[name])), blocks) for name in names}
        self.before = {
            name: [unwrapped(view.text_encoders[name]).get_parameter(each) for each in own]
            for name, own in self.names.items()
        }
        self.encoders = {
            name: sharing(unwrapped(view.text_encoders[name]), apart=own) for name, own in self.before.items()
        }
        every = [self.encoders[name].get_parameter(each) for name, own in self.names.items() for each in own]
        self.trained = nn.ParameterList(every)
        twin = twin_of(view.pipe, self.encoders)
        vars(twin)["encode_prompt"] = MethodType(encode.__func__, twin)
        self._encoding = Encoding(twin)
        self._rows: dict[tuple[str, tuple[int, ...]], tuple[list[int], Tensor]] = {}
        for name, encoder in self.encoders.items():
            table = self.tokens_of(name)
            for module in encoder.modules():  # T5 has its table in two of them
                if isinstance(module, nn.Embedding) and module.weight is table:
                    edit_call(module, "output", partial(self._embedded, name))

    def tokens_of(self, name: str) -> Tensor:
        """What a text encoder embeds its tokens as, `(tokens, width)`."""
        encoder: Any = self.encoders[name]
        return encoder.get_input_embeddings().weight

    def _embedded(self, name: str, _module: nn.Module, args: tuple[Any, ...], _kwargs: Any, output: Tensor) -> Any:
        if not self._rows:
            return None
        found = output.clone()
        for i, ids in enumerate(args[0].tolist()):
            if (put := self._rows.get((name, tuple(ids)))) is not None:
                found[i, put[0]] = put[1].to(found)
        return found

    @contextmanager
    def putting(self, put: Mapping[tuple[str, tuple[int, ...]], tuple[list[int], Tensor]]) -> Iterator[None]:
        """Within, tokens of some prompts are embedded as rows that are given.

        Args:
            put: Text encoder and ids of a prompt -> numbers of tokens, and `(k, width)` what they are embedded as.
        """
        self._rows = dict(put)
        try:
            yield
        finally:
            self._rows = {}

    def embedding(self, texts: Sequence[str | None]) -> PromptEmbedding:
        """Prompts by the text encoders as they are now; gradients flow. None is what guidance starts from."""
        own = self._neutral == "" and self._view.guidance.negative
        every = list(dict.fromkeys(text for text in texts if text is not None))
        if None in texts and (not own or not every):
            every = list(dict.fromkeys([*every, self._neutral]))
        with lock_of(self._view.pipe):
            found = self._encoding(every, None, self._view.layout)
        rows: dict[str | None, PromptEmbedding] = {
            text: found[i].replace(negative=None) for i, text in enumerate(every)
        }
        if None in texts:
            first = found[0].negative if own else rows[self._neutral]
            assert first is not None
            rows[None] = first.replace(prompts=(self._neutral,), edits=found.edits)
        return PromptEmbedding.cat(rows[text] for text in texts)

    def said(self, passes: Passes, latents: Tensor, t: Tensor, texts: Texts) -> Tensor:
        """What the denoiser says of prompts as these text encoders read them."""
        if not isinstance(texts, PromptEmbedding):
            with passes.computing():
                texts = self.embedding(texts)
        return passes(self.module, latents, t, texts)

    def changes(self, values: Sequence[Tensor]) -> dict[str, dict[str, Change]]:
        """Text encoder -> name of a parameter -> its change, where `trained` has these values."""
        found, start = {}, 0
        for name, own in self.names.items():
            found[name] = additions(own, self.before[name], values[start : start + len(own)])
            start += len(own)
        return found


def _trained(encoder: nn.Module, blocks: int | None) -> list[str]:
    """Names of the parameters that are trained: all but those of embeddings, or of these the first blocks'."""
    embedded = {
        id(value) for module in encoder.modules() if isinstance(module, nn.Embedding) for value in module.parameters()
    }
    names = [name for name, value in encoder.named_parameters() if id(value) not in embedded]
    if blocks is None:
        return names
    lists = {path: module for path, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    path = max(lists, key=lambda each: len(lists[each]), default="")
    if not path or blocks > len(lists[path]):
        raise InputError(
            f"{type(encoder).__name__} has {len(lists[path]) if path else 0} blocks: write blocks up to that, or none"
        )
    return [name for name in names if any(name.startswith(f"{path}.{i}.") for i in range(blocks))]


class Prefixes:
    """Words with tokens before them that an adversary moves, in each of some text encoders.

    A token that the tokenizer writes for "a" stands where each of them goes.

    Args:
        view: The pipeline.
        student: The text encoders.
        words: The words.
        n: How many tokens.

    Raises:
        InputError: If a tokenizer does not write one token for "a", or they do not fit into the window.
    """

    def __init__(self, view: PipelineView, student: TunedEncoders, words: Sequence[str], n: int) -> None:
        self._student, self._n = student, n
        self.text = {word: " ".join([*["a"] * n, word]) for word in words}
        self._places: dict[str, dict[str, tuple[tuple[int, ...], list[int]]]] = {}
        for word, text in self.text.items():
            plain, longer = view.tokens(word), view.tokens(text)
            for name in student.encoders:
                begun, more = longer[name], longer[name].length - plain[name].length
                # Of these rows the first are the placeholders; a word may have an "a" of its own.
                rows = list(begun.rows("a")[:n])
                if more != n or len(rows) != n or begun.truncated:
                    raise InputError(
                        f"{begun.tokenizer} writes {more} tokens for {n} more in {text!r}, in a window of "
                        f"{begun.window}: write fewer attack_tokens, or attack='none'"
                    )
                self._places.setdefault(word, {})[name] = (begun.ids, rows)

    def drawn(self, source: torch.Generator) -> dict[tuple[str, str], Tensor]:
        """Word and text encoder -> `(n, width)` embeddings of tokens drawn from the vocabulary."""
        found = {}
        for word in self.text:
            for name in self._student.encoders:
                table = self._student.tokens_of(name)
                ids = torch.randint(len(table), (self._n,), generator=source)
                found[word, name] = table.detach()[ids.to(table.device)].float().clone()
        return found

    def put(
        self, values: Mapping[tuple[str, str], Tensor]
    ) -> dict[tuple[str, tuple[int, ...]], tuple[list[int], Tensor]]:
        """What `TunedEncoders.putting` takes."""
        found = {}
        for (word, name), value in values.items():
            ids, rows = self._places[word][name]
            found[name, ids] = (rows, value)
        return found
