"""Tokens exactly as a pipeline makes them, with its template, cleaning and windows, and where they come out.

The pipeline's own `encode_prompt` is run on a twin with recorders in place of its tokenizers and with text encoders
that compute nothing, so no rule of any pipeline is repeated here, a prompt costs no forward pass, and the pipeline is
left alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.pipelines.components import Components
from efface.pipelines.embedding import PromptEmbedding, Slot
from efface.pipelines.encoding import Encoding, check_texts, original
from efface.pipelines.restoring import StandIn, lock_of, standing_in
from efface.pipelines.tokens import Tokens


@contextmanager
def _unlogged() -> Iterator[None]:
    """This thread's warnings of texts that are cut are not shown: nothing is drawn of them, and tokens say it."""
    thread = threading.get_ident()

    def shown(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.WARNING

    handlers = [each for name in ("diffusers", "transformers") for each in logging.getLogger(name).handlers]
    for each in handlers:
        each.addFilter(shown)
    try:
        yield
    finally:
        for each in handlers:
            each.removeFilter(shown)


def _recorded(tokenizer: Any, name: str, log: list[dict[str, Any]]) -> StandIn:
    """A tokenizer that notes what it is asked."""

    def call(text: Any, *args: Any, **kwargs: Any) -> Any:
        out = tokenizer(text, *args, **kwargs)
        texts = [text] if isinstance(text, str) else list(text)
        log.append({"tokenizer": name, "texts": texts, "options": kwargs, "out": out})
        return out

    return StandIn(tokenizer, call)


Fill = Callable[[str, str, tuple[int, ...], Tensor], Tensor]
"""(encoder, field, shape, a tensor of the wanted dtype and device) -> a tensor of that shape."""


def _zeros(_encoder: str, _field: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return like.new_zeros(()).expand(shape)


def _one_row(name: str, row: int) -> Fill:
    """Ones in one row of one text encoder, and in all of its vector."""

    def fill(encoder: str, _field: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        value = like.new_zeros(shape)
        if encoder == name and len(shape) == 3:
            value[:, row] = 1
        elif encoder == name:
            value += 1
        return value

    return fill


class Tokenization:
    """Tokens of prompts, and where the text encoders' outputs lie in the embedding.

    Attributes:
        slots: Text encoder -> where its output lies.
        example: An embedding of one prompt in which only the shapes mean something.
    """

    def __init__(self, pipe: Any, components: Components, encoding: Encoding) -> None:
        self.pipe, self.components, self.encoding = pipe, components, encoding
        with lock_of(pipe):
            self._outputs = self._measure_outputs()
            self.slots, self.example = self._measure_slots()

    def __call__(self, prompts: Sequence[str], **options: Any) -> list[tuple[Tokens, ...]]:
        """For each prompt, its tokens in every text encoder.

        Args:
            prompts: The prompts.
            **options: Further arguments of `encode_prompt`.
        """
        self.encoding.check_options(options)
        check_texts(prompts, "a prompt")
        log: list[dict[str, Any]] = []
        with lock_of(self.pipe), _unlogged():  # tokenizers cannot be used by two threads at once
            self._encode(list(prompts), self._dry(log, _zeros), options)
            calls = _pairs(log)
            names = [name for name in self.components.text_encoders if name in calls]
            return [tuple(self._read(n, calls[n], i, prompt) for n in names) for i, prompt in enumerate(prompts)]

    def _encode(
        self, prompts: Sequence[str], parts: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> PromptEmbedding:
        """Prompts as encoded by other parts than the pipeline's own."""
        alone = {"do_classifier_free_guidance": False}
        known = {name: value for name, value in alone.items() if name in self.encoding.parameters}
        given = {**self.encoding.fixed(), **known, **(options or {}), "prompt": prompts}
        with torch.no_grad(), standing_in(self.pipe, original(self.pipe), parts) as encode:
            return self.encoding.read(encode(**given), tuple(prompts), ())

    def _measure_outputs(self) -> dict[str, Any]:
        """What each text encoder returns, from one real prompt."""
        outputs: dict[str, Any] = {}

        def kept(name: str, module: nn.Module) -> StandIn:
            def call(*args: Any, **kwargs: Any) -> Any:
                outputs[name] = out = module(*args, **kwargs)
                return out

            return StandIn(module, call)

        self._encode(["a"], {name: kept(name, module) for name, module in self.components.text_encoders.items()})
        # Only shapes are needed; the tensors are let go.
        return {name: (type(out), {k: _hollow(v) for k, v in out.items()}) for name, out in outputs.items()}

    def _measure_slots(self) -> tuple[dict[str, Slot], PromptEmbedding]:
        """Let one text encoder at a time give ones in the row of the last token, and see where they come out."""
        slots, log = {}, []
        example = self._encode(["a"], self._dry(log, _zeros))
        calls, arguments = _pairs(log), self._measure_arguments()
        for name in self._outputs:
            call = calls.get(name)
            if call is None:
                raise InputError(f"{name} is given ids that no tokenizer made: name its tokenizer by tokenizers=[...]")
            last = int(_mask(call, 0).nonzero().max())
            marked = self._encode(["a"], self._dry([], _one_row(name, last)))
            slots[name] = _slot(name, marked, last, call["ids"].shape[1], arguments.get(name, "prompt"))
        return slots, example

    def _measure_arguments(self) -> dict[str, str]:
        """Text encoder -> the argument whose text it is given, where that is not the prompt."""
        log: list[dict[str, Any]] = []
        texts = {name: f"q{i}q" for i, name in enumerate(self.encoding.more_texts) if not name.startswith("negative")}
        if texts:
            self._encode(["a"], self._dry(log, _zeros), {name: [text] for name, text in texts.items()})
        read = {name: str(call["texts"][0]) for name, call in _pairs(log).items()}
        return {name: key for name, said in read.items() for key, text in texts.items() if text in said}

    def _dry(self, log: list[dict[str, Any]], fill: Fill) -> dict[str, StandIn]:
        """Recorders for tokenizers, and text encoders that return what `fill` makes."""
        parts = {name: _recorded(tokenizer, name, log) for name, tokenizer in self.components.tokenizers.items()}
        for name, module in self.components.text_encoders.items():
            if name in self._outputs:
                parts[name] = StandIn(module, self._stub(name, log, fill))
        return parts

    def _stub(self, name: str, log: list[dict[str, Any]], fill: Fill) -> Callable[..., Any]:
        output, fields = self._outputs[name]

        def forward(*args: Any, **kwargs: Any) -> Any:
            ids = args[0] if args else kwargs["input_ids"]
            log.append({"encoder": name, "ids": ids})

            def shaped(field: str, like: Any) -> Any:
                if isinstance(like, tuple):
                    return tuple(shaped(field, item) for item in like)
                if like is None:
                    return None
                shape = (len(ids), ids.shape[1], like.shape[2]) if like.ndim == 3 else (len(ids), *like.shape[1:])
                return fill(name, field, shape, like)

            return output(**{field: shaped(field, like) for field, like in fields.items()})

        return forward

    def _read(self, encoder: str, call: dict[str, Any], i: int, prompt: str) -> Tokens:
        tokenizer = self.components.tokenizers[call["tokenizer"]]
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(f"{call['tokenizer']} is a slow tokenizer, which does not say what its tokens stand for")
        text, ids, mask = call["texts"][i], call["ids"][i], _mask(call, i)
        special = {"add_special_tokens": call["options"].get("add_special_tokens", True)}
        whole = tokenizer(text, return_offsets_mapping=True, truncation=False, verbose=False, **special)
        kept = mask.nonzero().flatten()
        first, stop = int(kept.min()), int(kept.max()) + 1
        spans = [(0, 0)] * len(ids)
        for row, span in zip(range(first, stop), whole["offset_mapping"], strict=False):
            spans[row] = (int(span[0]), int(span[1]))
        starts = int(ids[first]) in special_ids(tokenizer, "bos_token", "cls_token")
        ends = int(ids[stop - 1]) in special_ids(tokenizer, "eos_token", "sep_token")
        begin = text.lower().rfind(prompt.lower().strip())
        where = (begin, begin + len(prompt.strip())) if begin >= 0 else (0, len(text))
        return Tokens(
            encoder=encoder,
            tokenizer=call["tokenizer"],
            text=text,
            ids=tuple(ids.tolist()),
            content=(first, stop),
            start=first if starts else None,
            eos=stop - 1 if ends else None,
            padding=(0, first) if first else (stop, len(ids)),
            spans=tuple(spans),
            prompt=where,
            length=len(whole["input_ids"]),
            unknown=unknown_words(tokenizer, text[slice(*where)]),
            slot=self.slots[encoder],
        )


def special_ids(tokenizer: Any, *names: str) -> set[int]:
    """Ids of some of a tokenizer's special tokens, as far as it has them: `"eos_token"`, BERT's `"sep_token"`."""
    known = tokenizer.special_tokens_map
    return {int(tokenizer.convert_tokens_to_ids(str(known[name]))) for name in names if known.get(name)}


def unknown_words(tokenizer: Any, text: str) -> tuple[str, ...]:
    """Words that a tokenizer replaces, in whole or in part, by its unknown token; byte-level ones know all words."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return ()
    words = dict.fromkeys(text.split())
    ids = {word: tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"] for word in words}
    special = {str(token) for token in tokenizer.all_special_tokens}
    return tuple(word for word in words if unknown in ids[word] and word not in special)


def _pairs(log: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Text encoder -> the call of a tokenizer whose ids it got."""
    found: dict[str, dict[str, Any]] = {}
    for i, entry in enumerate(log):
        if "encoder" in entry and entry["encoder"] not in found:
            for earlier in reversed(log[:i]):
                ids = earlier["out"]["input_ids"] if "tokenizer" in earlier else None
                if isinstance(ids, Tensor) and torch.equal(ids, entry["ids"].to(ids.device)):
                    found[entry["encoder"]] = {**earlier, "ids": ids}
                    if earlier["options"].get("padding") == "max_length":
                        break
    return found


def _mask(call: Mapping[str, Any], i: int) -> Tensor:
    out = call["out"]
    return out["attention_mask"][i] if "attention_mask" in out else torch.ones_like(call["ids"][i])


def _slot(name: str, marked: PromptEmbedding, row: int, window: int, argument: str) -> Slot:
    at = marked.sequence[0].nonzero()
    rows, columns, shift = (0, 0), (0, 0), 0
    if len(at):
        found, first, last = at[:, 0].unique(), int(at[:, 1].min()), int(at[:, 1].max()) + 1
        if len(found) > 1:
            raise InputError(f"row {row} of {name} comes out in the rows {found.tolist()} of the sequence, not in one")
        shift = int(found[0]) - row
        rows = (max(0, shift), min(window + shift, marked.sequence.shape[1]))
        columns = (first, last)
    pooled = torch.zeros(0) if marked.pooled is None else marked.pooled[0].nonzero().flatten()
    inside = (int(pooled.min()), int(pooled.max()) + 1) if len(pooled) else (0, 0)
    return Slot(name, shift, rows, columns, inside, argument)


def _hollow(value: Any) -> Any:
    """The shape, dtype and device of a tensor without its memory; None for what is no tensor."""
    if isinstance(value, (tuple, list)):
        return tuple(_hollow(item) for item in value)
    return value.new_zeros(()).expand(value.shape) if isinstance(value, Tensor) else None
