"""Calling a pipeline's own `encode_prompt`, and telling its outputs apart without knowing their order."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import is_whole, shown
from efface.pipelines.embedding import TENSORS, PromptEmbedding, Slot

ARGUMENTS = {"sequence": "prompt_embeds", "pooled": "pooled_prompt_embeds", "mask": "prompt_attention_mask"}
"""Role of a tensor -> what diffusers' pipelines call it."""

LAYERS = ("clip_skip", "hidden_state_skip_layer", "text_encoder_out_layers")
"""Options of calls that choose which layer of a text encoder is read."""

_NEGATIVE = "negative_"
_TEXT_TENSOR = re.compile("prompt_(embeds|attention_mask)")
_SHAPES = {"sequence": (1, 2, 3), "pooled": (1, 3), "mask": (1, 2)}


class Encoding:
    """A pipeline's `encode_prompt` and the arguments of its call, by role.

    Attributes:
        call: Parameters of the pipeline's call.
        parameters: Parameters of `encode_prompt`.
        outputs: For each output of `encode_prompt`, `(is it of the negative branch, role)`, or None if it is neither.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.call = dict(inspect.signature(type(pipe).__call__).parameters)
        self.parameters = _parameters(pipe)
        for name, where in (("prompt_embeds", self.call), ("prompt", self.parameters)):
            if name not in where:
                raise InputError(
                    f"{type(pipe).__name__} has no prompt encoding (its {_where(where, self)} takes no {name!r}): "
                    "efface needs a pipeline with a method encode_prompt whose results its call takes as "
                    "prompt_embeds; derive one from it that has them"
                )
        if other := [name for name in self.call if _TEXT_TENSOR.search(name) and name not in _TEXT_ARGUMENTS]:
            raise InputError(
                f"{type(pipe).__name__} takes text as {', '.join(other)} too, which efface does not know: it knows "
                f"{', '.join(ARGUMENTS.values())} and their negatives; derive a pipeline whose call takes these alone"
            )
        self.outputs = self._outputs()

    def fixed(self) -> dict[str, Any]:
        """Arguments that are the same in every call: the device, one sample a prompt, the defaults of the call."""
        fixed: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if name.startswith("num_") and name.endswith("_per_prompt"):
                fixed[name] = 1
            elif name == "device":
                fixed[name] = self.pipe._execution_device
            elif name == "do_classifier_free_guidance":
                fixed[name] = True
            elif name == "clean_caption" and not _can_clean():
                fixed[name] = False  # what the pipeline falls back to, with a warning every time
            elif name in self.call and name not in _TEXT_ARGUMENTS:
                fixed[name] = self.call[name].default
            elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
                fixed[name] = None
        return fixed

    @property
    def more_texts(self) -> tuple[str, ...]:
        """Arguments of the call with texts for some text encoders alone: `prompt_2`, `negative_prompt_2`."""
        return tuple(name for name in self.call if name in _TEXT_ARGUMENTS and name[-1].isdigit())

    @property
    def options(self) -> tuple[str, ...]:
        """Parameters of `encode_prompt` that are not text, such as `max_sequence_length`."""
        others = (*_TEXT_ARGUMENTS, "device", "do_classifier_free_guidance", "kwargs")
        return tuple(name for name in self.parameters if name not in others and not name.endswith("_per_prompt"))

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that `encode_prompt` does not have."""
        if unknown := sorted(set(options) - {*self.options, *self.more_texts}):
            known = ", ".join((*self.options, *self.more_texts)) or "none"
            raise InputError(f"{type(self.pipe).__name__}.encode_prompt has no option {unknown[0]!r}; it has: {known}")

    def _outputs(self) -> tuple[tuple[bool, str] | None, ...]:
        """Send tensors of distinct values through `encode_prompt`, which passes them on, and see where they end."""
        marks: dict[int, tuple[bool, str]] = {}
        given: dict[str, Any] = {}
        for negative in (False, True):
            for role in TENSORS:
                if (name := argument(role, negative)) in self.parameters:
                    value = len(marks) + 1
                    marks[value] = (negative, role)
                    given[name] = torch.full(_SHAPES[role], value, device=self.pipe._execution_device)
                    given[name] = given[name] if role == "mask" else given[name].float()
        with torch.no_grad():
            out = original(self.pipe)(**{**self.fixed(), **given})
        found = tuple(marks.get(_constant(value)) for value in (out if isinstance(out, tuple) else (out,)))
        if (False, "sequence") not in found:
            raise InputError(f"{type(self.pipe).__name__}.encode_prompt does not return the prompt_embeds it is given")
        return found

    @property
    def both_branches(self) -> bool:
        """Whether one call of `encode_prompt` gives the negative branch too."""
        return (True, "sequence") in self.outputs

    def accepts_negative(self) -> bool:
        """Whether the pipeline's call takes a negative branch."""
        return argument("sequence", True) in self.call

    def __call__(
        self,
        prompts: Sequence[str],
        negative: Sequence[str] | None,
        layout: tuple[Slot, ...] = (),
        **options: Any,
    ) -> PromptEmbedding:
        """Encode a batch of prompts as the pipeline's call would.

        Args:
            prompts: The prompts.
            negative: Negative prompts, one for each; None for the pipeline's own default.
            layout: Goes into the result.
            **options: Further arguments of `encode_prompt`, e.g. `max_sequence_length`; of `more_texts`, a text for
                each prompt.

        Raises:
            InputError: If `encode_prompt` has no such option, or there is no negative branch.
        """
        self.check_options(options)
        check_texts(prompts, "a prompt")
        check_texts(() if negative is None else negative, "a negative prompt")
        if negative is not None and not self.accepts_negative():
            raise InputError(f"{type(self.pipe).__name__} takes no negative prompt: leave negative out")
        more = {name: list(options.pop(name)) for name in self.more_texts if options.get(name) is not None}
        for name, texts in more.items():
            check_texts(texts, name)
        away = {name.removeprefix(_NEGATIVE): more.pop(name) for name in [*more] if name.startswith(_NEGATIVE)}
        given = {**self.fixed(), **options, "prompt": list(prompts), **more}
        if self.both_branches:
            given |= {_NEGATIVE + name: texts for name, texts in away.items()}
        if self.both_branches and "negative_prompt" in self.parameters:
            own = self.call["negative_prompt"].default if "negative_prompt" in self.call else None
            given["negative_prompt"] = own if negative is None else list(negative)
        embedding = self.read(self.pipe.encode_prompt(**given), tuple(prompts), layout)
        if negative is not None and not self.both_branches:
            own = {name: None for name in more} | away
            out = self.pipe.encode_prompt(**{**given, "prompt": list(negative), **own})
            embedding = embedding.replace(negative=self.read(out, tuple(negative), layout))
        texts = {slot.encoder: tuple(more[slot.argument]) for slot in layout if slot.argument in more}
        embedding = embedding.replace(texts=texts)
        if embedding.negative is not None and negative is not None:
            texts = {slot.encoder: tuple(away[slot.argument]) for slot in layout if slot.argument in away}
            embedding = embedding.replace(negative=embedding.negative.replace(prompts=tuple(negative), texts=texts))
        return embedding

    def read(self, out: Any, prompts: tuple[str, ...], layout: tuple[Slot, ...]) -> PromptEmbedding:
        """What `encode_prompt` returned as a value."""
        values = out if isinstance(out, tuple) else (out,)
        branches: dict[bool, dict[str, Any]] = {False: {}, True: {}}
        for place, value in zip(self.outputs, values, strict=True):
            if place is not None and value is not None:
                branches[place[0]][place[1]] = value
        negative = PromptEmbedding(**branches[True], layout=layout) if "sequence" in branches[True] else None
        return PromptEmbedding(**branches[False], negative=negative, layout=layout, prompts=prompts)

    def write(self, out: Any, embedding: PromptEmbedding) -> Any:
        """What `encode_prompt` would have returned for this embedding."""
        values = out if isinstance(out, tuple) else (out,)
        changed = []
        for place, value in zip(self.outputs, values, strict=True):
            branch = embedding.negative if place and place[0] else embedding
            known = place is not None and value is not None and branch is not None
            changed.append(getattr(branch, place[1]) if place and known else value)
        return tuple(changed) if isinstance(out, tuple) else changed[0]

    def arguments(self, embedding: PromptEmbedding, *, negative: bool = True) -> dict[str, Any]:
        """The embedding as arguments of the pipeline's call."""
        given: dict[str, Any] = {"prompt": None}
        if "negative_prompt" in self.call:
            given["negative_prompt"] = None
        branches: list[tuple[bool, PromptEmbedding | None]] = [(False, embedding)]
        branches += [(True, embedding.negative)] if negative else []
        for is_negative, branch in branches:
            if branch is not None:
                tensors = {argument(role, is_negative): value for role, value in branch.tensors().items()}
                given |= {name: value for name, value in tensors.items() if name in self.call}
        return given


def check_texts(texts: Sequence[Any], name: str) -> None:
    """Refuse what no tokenizer takes.

    Raises:
        InputError: If one is no string, or has half of a sign in it.
    """
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"{name} is a string, not {type(text).__name__}: {shown(text)}")
        if not is_whole(text):
            raise InputError(f"{name} has half of a sign (a lone surrogate) in it: {text!r:.60}")


def argument(role: str, negative: bool) -> str:
    """What diffusers calls a tensor of the embedding.

    >>> argument("pooled", True)
    'negative_pooled_prompt_embeds'
    """
    return (_NEGATIVE if negative else "") + ARGUMENTS[role]


_TEXT_ARGUMENTS = {argument(role, negative) for role in TENSORS for negative in (False, True)} | {
    f"{sign}prompt{number}" for sign in ("", _NEGATIVE) for number in ("", "_2", "_3", "_4")
}


def original(pipe: Any) -> Any:
    """`encode_prompt` without the edits that are on it."""
    encode = pipe.encode_prompt
    while hasattr(encode, "original"):
        encode = encode.original
    return encode


def _can_clean() -> bool:
    return all(importlib.util.find_spec(name) for name in ("bs4", "ftfy"))


def _parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    if not callable(getattr(pipe, "encode_prompt", None)):
        return {}
    return dict(inspect.signature(original(pipe)).parameters)  # which a copy of the pipeline can copy


def _where(where: Any, encoding: Encoding) -> str:
    return "call" if where is encoding.call else "encode_prompt"


def _constant(value: Any) -> int:
    """The value of a constant tensor; 0 if it is none."""
    if not isinstance(value, Tensor) or value.numel() == 0:
        return 0
    low, high = value.float().aminmax()
    return int(low) if low == high else 0
