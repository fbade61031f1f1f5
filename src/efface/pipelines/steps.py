"""Changing what the denoiser predicts, step by step, while a pipeline samples: what erasers by guidance stand on.

What it is given can be changed too, step by step, and states inside it.
"""

from __future__ import annotations

import copy
import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from efface._errors import InputError, NotReachedWarning
from efface._text import brief
from efface.core.hooks import Where, edit_call, edit_value
from efface.core.site import Site
from efface.core.subjects import module_at, unwrapped
from efface.pipelines.components import forward_parameters
from efface.pipelines.denoiser_call import substitute, substitute_branches
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.following import ROWS, Following, Given, following_of, paused, unguided
from efface.pipelines.prompts import PromptEncoder


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

    __repr__ = brief


Rule: TypeAlias = Callable[[Step], "Tensor | None"]
"""Takes a step; what it returns replaces `cond`, unless that is None."""

Swap: TypeAlias = Callable[[int, PromptEmbedding, Tensor], "Tensor | None"]
"""Takes the index of a step, the prompts and their rows of text as the denoiser is about to be given them, `(n, rows,
width)`; what it returns replaces these, unless that is None."""


Inside: TypeAlias = Callable[[Tensor, Given], "Tensor | None"]
"""Takes states inside a denoiser, of all branches of the batch, and what the denoiser is given; what it returns
replaces them, unless that is None."""


class _Progress(threading.local):
    """Where one thread's sampling is.

    Attributes:
        index: The step.
        lists: Lists that the denoiser is being given, by keyword.
        reached: Sites that this pass of the denoiser has come through.
    """

    index: int = 0
    lists: Mapping[str, list[Any]] = MappingProxyType({})
    reached: frozenset[Site] = frozenset()


class _Watch:
    """Acts on the steps of one pipeline's sampling."""

    following: Following

    def __init__(self) -> None:
        self.now = _Progress()
        self.on = True

    def __deepcopy__(self, memo: Any) -> Self:
        following = copy.deepcopy(self.following, memo)
        if following is self.following:
            return self  # a denoiser is copied with its hooks; what is taken off is off for the copy, too
        twin = memo[id(self)] = object.__new__(type(self))
        vars(twin).update(vars(self) | {"following": following, "now": _Progress()})
        return twin

    def encoded(self, _embedding: PromptEmbedding) -> None:
        """A sampling begins."""
        if self.following.calling():
            self.now.index = 0

    def given(self) -> Given | None:
        """What the denoiser is given for the prompts of the pipeline's own call, if it is."""
        found = None if paused() or not self.on else self.following.now.given
        return found if found is not None and found.prompts else None

    def end(self) -> None:
        """It is taken off."""
        self.on = False
        self.following.rules -= 1

    def next_step(self) -> int:
        """The index of the step that this thread is at; the next time it is one more."""
        self.now.index += 1
        return self.now.index - 1


def _bound(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return inspect.Signature(list(forward_parameters(module).values())).bind(*args, **kwargs).arguments


class _Ruled(_Watch):
    """Applies a rule to the prediction for the prompts."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def keeping(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the denoiser copies of lists, which it empties as it runs (residuals of adapters)."""
        if paused():
            return None
        self.now.lists = {name: value for name, value in kwargs.items() if isinstance(value, list)}
        return (
            (args, {**kwargs, **{name: [*value] for name, value in self.now.lists.items()}}) if self.now.lists else None
        )

    def predicted(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Any:
        """What the denoiser gives instead, or None."""
        given = self.given()
        if given is None:
            return None
        arguments = _bound(module, args, {**kwargs, **self.now.lists})
        value = out[0] if isinstance(out, tuple) else out.sample
        parts, at = [*value.chunk(given.branches)], given.prompts[0]
        latents = arguments[next(iter(arguments))].chunk(given.branches)[at]
        uncond = parts[given.negatives[0]] if given.negatives else None

        def predict(embedding: PromptEmbedding) -> Tensor:
            with unguided():  # no rule is applied to another rule's pass
                if len(given.prompts) == 1:
                    again = module(**substitute(arguments, latents, embedding, len(value), at))
                else:  # layers that treat the branches each in its own way want all of them
                    again = module(**substitute_branches(arguments, embedding, len(value), given.prompts))
            again = again[0] if isinstance(again, tuple) else again.sample
            return again if len(again) == len(embedding) else again.chunk(given.branches)[at]

        step = Step(self.next_step(), arguments["timestep"], latents, given.embedding, parts[at], uncond, predict)
        changed = self.rule(step)
        if changed is None:
            return None
        cond = parts[at]
        if changed.shape != cond.shape:
            raise InputError(f"a rule must keep the shape {tuple(cond.shape)}, it returned {tuple(changed.shape)}")
        for i in given.prompts:  # what guidance takes from the difference of two of them stays as it is
            parts[i] = changed.to(value.dtype) if i == at else (parts[i] + (changed - cond)).to(value.dtype)
        value = torch.cat(parts)
        return (value, *out[1:]) if isinstance(out, tuple) else type(out)(sample=value)


class _Swapped(_Watch):
    """Gives the denoiser other rows of text for the prompts."""

    def __init__(self, swap: Swap) -> None:
        super().__init__()
        self.swap = swap

    def entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the denoiser is given instead, or None."""
        given = self.given()
        if given is None:
            return None
        rows: Tensor = _bound(module, args, kwargs)[ROWS]
        parts = [*rows.chunk(given.branches)]
        own = parts[given.prompts[0]]
        changed = self.swap(self.next_step(), given.embedding, own)
        if changed is None:
            return None
        if changed.shape != own.shape:
            raise InputError(f"a swap must keep the shape {tuple(own.shape)}, it returned {tuple(changed.shape)}")
        for i in given.prompts:
            parts[i] = changed.to(rows.dtype)
        whole = torch.cat(parts)
        if ROWS in kwargs:
            return args, {**kwargs, ROWS: whole}
        place = list(forward_parameters(module)).index(ROWS)
        return (*args[:place], whole, *args[place + 1 :]), kwargs


class _InsideOf(_Watch):
    """Edits states inside a denoiser, where it is asked for the prompts of the pipeline's own call."""

    def __init__(self, edits: Mapping[Site, Inside]) -> None:
        super().__init__()
        self.edits = edits
        self.told = False

    def entering(self, _module: nn.Module, _args: Any, _kwargs: Any) -> None:
        """A pass begins."""
        self.now.reached = frozenset()

    def passing(self, site: Site, _module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """What a module gives instead, or None."""
        given = self.given()
        if given is None:
            return None
        self.now.reached |= {site}
        entered = args[0] if args else kwargs.get("hidden_states", kwargs.get("input"))
        given = replace(given, entered=entered if isinstance(entered, Tensor) else None)
        return edit_value(output, partial(self._changed, site, given), site.index, site)

    def _changed(self, site: Site, given: Given, x: Tensor) -> Tensor | None:
        if len(x) % given.branches:
            raise InputError(f"{site} gives {len(x)} entries for {given.branches} branches of prompts")
        changed = self.edits[site](x, given)
        if changed is not None and changed.shape != x.shape:
            raise InputError(f"an edit must keep the shape {tuple(x.shape)}, it returned {tuple(changed.shape)}")
        return None if changed is None else changed.to(x.dtype)

    def leaving(self, module: nn.Module, _args: Any, _kwargs: Any, _output: Any) -> None:
        """A pass is over: say, once, which sites it has not come through."""
        if self.told or self.given() is None or not (missed := [s for s in self.edits if s not in self.now.reached]):
            return
        self.told = True
        warnings.warn(
            f"{type(module).__name__} was run without {missed[0]} and so without {len(missed)} of {len(self.edits)} "
            "edits that are on it, as where its projections are fused: nothing is erased there; unfuse them, "
            "pipe.unfuse_qkv_projections()",
            NotReachedWarning,
            stacklevel=3,
        )


def install_inside(text: PromptEncoder, part: str, edits: Mapping[Site, Inside]) -> Callable[[], None]:
    """Edit what modules inside a denoiser give in this pipeline's calls, until what is returned is called."""
    watch, denoiser = _InsideOf(edits), text.components.denoiser(part)
    with ExitStack() as stack:
        stack.callback(_install(text, watch, {"input": watch.entering, "output": watch.leaving}, (denoiser,)))
        for site in edits:
            change = partial(watch.passing, site)
            stack.callback(edit_call(module_at(unwrapped(denoiser), site.path), "output", change))
        return stack.pop_all().close


def install_rule(text: PromptEncoder, rule: Rule) -> Callable[[], None]:
    """Apply a rule to every prediction for prompts in this pipeline's calls, until what is returned is called."""
    watch = _Ruled(rule)
    return _install(text, watch, {"input": watch.keeping, "output": watch.predicted})


def install_swap(text: PromptEncoder, swap: Swap) -> Callable[[], None]:
    """Give the denoiser other rows of text at some steps of this pipeline's calls, until what is returned is called.

    It costs no pass, where a rule that returns `step.predict(other)` costs one. The pooled vector stays.
    """
    watch = _Swapped(swap)
    return _install(text, watch, {"input": watch.entering})


def _install(
    text: PromptEncoder,
    watch: _Watch,
    changes: Mapping[Where, Callable[..., Any]],
    denoisers: Iterable[nn.Module] | None = None,
) -> Callable[[], None]:
    with ExitStack() as stack:
        # What follows the pipeline comes first, so that it sees what is given before a swap changes it.
        stack.callback(text.install_edit(watch.encoded, once=False))
        watch.following = following_of(text.pipe)
        watch.following.rules += 1
        stack.callback(watch.end)
        for denoiser in text.components.denoisers.values() if denoisers is None else denoisers:
            for where, change in changes.items():
                stack.callback(edit_call(denoiser, where, change))
        return stack.pop_all().close
