"""Changing what the denoiser predicts, step by step, while a pipeline samples: what erasers by guidance stand on.

What it is given can be changed too, step by step.
"""

from __future__ import annotations

import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

from efface._errors import InputError, NotReachedWarning
from efface.core.hooks import edit_call, look_before
from efface.pipelines.calling import caller_of, calling
from efface.pipelines.components import forward_parameters
from efface.pipelines.denoiser_call import substitute
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.prompts import PromptEncoder
from efface.pipelines.text_edits import active_edits, listeners


@dataclass(frozen=True)
class Step:
    """One denoising step of n samples.

    Attributes:
        index: Which step of the sampling it is, from 0.
        timestep: The timestep as the denoiser is given it.
        latents: (n, ...) as the denoiser is given them.
        embedding: The prompts, with their negative branch.
        cond: (n, ...) prediction for the prompts.
        uncond: The prediction for the negative prompts; None where the pipeline has not made it (no guidance; Wan
            makes it afterwards): `step.predict(step.embedding.negative)` makes it.
    """

    index: int
    timestep: Any
    latents: Tensor
    embedding: PromptEmbedding
    cond: Tensor
    uncond: Tensor | None
    predict: Callable[[PromptEmbedding], Tensor] = field(repr=False)
    """One more pass of the denoiser, at the same latents and time, for other prompts."""


Rule: TypeAlias = Callable[[Step], "Tensor | None"]
"""Takes a step; what it returns replaces `cond`, unless that is None."""

Swap: TypeAlias = Callable[[int, PromptEmbedding, Tensor], "Tensor | None"]
"""Takes the index of a step, the prompts and their rows of text as the denoiser is about to be given them, `(n, rows,
width)`; what it returns replaces these, unless that is None."""

_ROWS = "encoder_hidden_states"

_PAUSED: ContextVar[bool] = ContextVar("paused", default=False)


@contextmanager
def unguided() -> Iterator[None]:
    """No rule is applied within the block: predictions are the denoiser's own."""
    token = _PAUSED.set(True)
    try:
        yield
    finally:
        _PAUSED.reset(token)


class _Progress(threading.local):
    """Where one thread's sampling is.

    Attributes:
        embedding: What was encoded for it; None before.
        index: The step.
        fresh: Encoded, and not a step made since.
        lists: Lists that the denoiser is being given, by keyword.
    """

    embedding: PromptEmbedding | None = None
    index: int = 0
    fresh: bool = False
    lists: Mapping[str, list[Any]] = MappingProxyType({})


class _Watch:
    """Follows one pipeline's sampling, and lets other users of its denoiser alone."""

    def __init__(self, text: PromptEncoder) -> None:
        self.pipe = weakref.ref(text.pipe)  # a denoiser, which may outlive the pipeline, has this in its hooks
        self.both = text.encoding.both_branches  # whether both branches are encoded at once
        self.now = _Progress()
        self.on = True

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a denoiser is copied with its hooks; what is taken off is off for the copy, too

    def encoded(self, embedding: PromptEmbedding) -> None:
        """Take note of the prompts of a call; what is encoded outside of one comes to no step."""
        if not self._calling():
            return
        now = self.now
        # With two passes in a distilled pipeline, the second text before the first step is the negative prompt.
        if now.fresh and not self.both and now.embedding is not None and now.embedding.negative is None:
            now.embedding = now.embedding.replace(negative=embedding)
        else:
            now.embedding, now.index, now.fresh = embedding, 0, True

    def looked(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[PromptEmbedding, dict[str, Any], int] | None:
        """Prompts, the denoiser's arguments and its batch, if the pipeline itself calls it for the prompts."""
        embedding = self.now.embedding
        if _PAUSED.get() or not self.on or embedding is None or not self._calling():
            return None
        self.now.fresh = False
        arguments = inspect.Signature(list(forward_parameters(module).values())).bind(*args, **kwargs).arguments
        n, batch = len(embedding), len(next(iter(arguments.values())))
        if batch not in (n, 2 * n):
            raise InputError(f"the denoiser was given {batch} samples for {n} prompts: expected {n} or {2 * n}")
        if batch == n and _is_negative(embedding, arguments[_ROWS]):
            return None
        return embedding, arguments, batch

    def _calling(self) -> bool:
        pipe = self.pipe()
        return pipe is not None and calling(pipe)

    def next_step(self) -> int:
        """The index of the step that this thread is at; the next time it is one more."""
        self.now.index += 1
        return self.now.index - 1


def _is_negative(embedding: PromptEmbedding, given: Tensor) -> bool:
    negative = embedding.negative
    if negative is None or negative.sequence.shape != given.shape:
        return False
    is_prompt = torch.equal(given, embedding.sequence.to(given.dtype))
    return not is_prompt and torch.equal(given, negative.sequence.to(given.dtype))


class _Ruled(_Watch):
    """Applies a rule to the prediction for the prompts."""

    def __init__(self, text: PromptEncoder, rule: Rule) -> None:
        super().__init__(text)
        self.rule = rule

    def keeping(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the denoiser copies of lists, which it empties as it runs (residuals of adapters)."""
        if _PAUSED.get():
            return None
        self.now.lists = {name: value for name, value in kwargs.items() if isinstance(value, list)}
        return (
            (args, {**kwargs, **{name: [*value] for name, value in self.now.lists.items()}}) if self.now.lists else None
        )

    def predicted(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Any:
        """What the denoiser gives instead, or None."""
        found = self.looked(module, args, {**kwargs, **self.now.lists})
        if found is None:
            return None
        embedding, arguments, batch = found
        value = out[0] if isinstance(out, tuple) else out.sample
        parts = value.chunk(batch // len(embedding))
        latents = arguments[next(iter(arguments))].chunk(len(parts))[-1]
        uncond = parts[0] if len(parts) == 2 else None

        def predict(embedding: PromptEmbedding) -> Tensor:
            with unguided():  # no rule is applied to another rule's pass
                again = module(**substitute(arguments, latents, embedding, batch))
            return again[0] if isinstance(again, tuple) else again.sample

        step = Step(self.next_step(), arguments["timestep"], latents, embedding, parts[-1], uncond, predict)
        changed = self.rule(step)
        if changed is None:
            return None
        if changed.shape != parts[-1].shape:
            raise InputError(f"a rule must keep the shape {tuple(parts[-1].shape)}, it returned {tuple(changed.shape)}")
        value = torch.cat([*parts[:-1], changed.to(value.dtype)])
        return (value, *out[1:]) if isinstance(out, tuple) else type(out)(sample=value)


class _Swapped(_Watch):
    """Gives the denoiser other rows of text for the prompts."""

    def __init__(self, text: PromptEncoder, swap: Swap) -> None:
        super().__init__(text)
        self.swap = swap

    def entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the denoiser is given instead, or None."""
        found = self.looked(module, args, kwargs)
        if found is None:
            return None
        embedding, arguments, _ = found
        rows: Tensor = arguments[_ROWS]
        negative, own = rows[: -len(embedding)], rows[-len(embedding) :]
        changed = self.swap(self.next_step(), embedding, own)
        if changed is None:
            return None
        if changed.shape != own.shape:
            raise InputError(f"a swap must keep the shape {tuple(own.shape)}, it returned {tuple(changed.shape)}")
        changed = torch.cat([negative, changed.to(rows.dtype)])
        if _ROWS in kwargs:
            return args, {**kwargs, _ROWS: changed}
        place = list(forward_parameters(module)).index(_ROWS)
        return (*args[:place], changed, *args[place + 1 :]), kwargs


def install_rule(text: PromptEncoder, rule: Rule) -> Callable[[], None]:
    """Apply a rule to every prediction for prompts in this pipeline's calls, until what is returned is called."""
    watch = _Ruled(text, rule)
    return _install(text, watch, {"input": watch.keeping, "output": watch.predicted})


def install_swap(text: PromptEncoder, swap: Swap) -> Callable[[], None]:
    """Give the denoiser other rows of text at some steps of this pipeline's calls, until what is returned is called.

    It costs no pass, where a rule that returns `step.predict(other)` costs one. The pooled vector stays.
    """
    watch = _Swapped(text, swap)
    return _install(text, watch, {"input": watch.entering})


def watch_others(text: PromptEncoder, name: str) -> Callable[[], None]:
    """Warn, once, when another pipeline that shares this one's denoiser draws with nothing on it.

    Args:
        text: The pipeline's text side.
        name: What is on it.
    """
    own = weakref.ref(text.pipe)  # a denoiser, which may outlive the pipeline, has this in its hooks
    told: list[bool] = []

    def entering(module: nn.Module, _args: Any) -> None:
        if told or _PAUSED.get():
            return
        other = caller_of(module)
        if other is None or other is own() or active_edits(other) or listeners(other):
            return
        told.append(True)
        warnings.warn(
            f"a {type(other).__name__} that shares the denoiser of a pipeline is drawing, and {name}, which is on that "
            "pipeline, is not on this one: nothing is erased from it; put it on, too, erasure.on(other)",
            NotReachedWarning,
            stacklevel=2,
        )

    with ExitStack() as stack:
        for denoiser in text.components.denoisers.values():
            stack.callback(look_before(denoiser, entering))
        return stack.pop_all().close


def _install(
    text: PromptEncoder, watch: _Watch, changes: Mapping[Literal["input", "output"], Callable[..., Any]]
) -> Callable[[], None]:
    with ExitStack() as stack:
        for denoiser in text.components.denoisers.values():
            for where, change in changes.items():
                stack.callback(edit_call(denoiser, where, change))
        stack.callback(text.install_edit(watch.encoded, once=False))
        stack.callback(setattr, watch, "on", False)
        return stack.pop_all().close
