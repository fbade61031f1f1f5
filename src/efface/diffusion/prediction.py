"""Changing what the denoiser predicts, step by step, while a pipeline samples: what erasers by guidance stand on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.diffusion.calls import substitute
from efface.diffusion.components import forward_parameters
from efface.diffusion.embedding import PromptEmbedding

if TYPE_CHECKING:
    from efface.diffusion.denoising import DenoiserView


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


_PAUSED: ContextVar[bool] = ContextVar("paused", default=False)


@contextmanager
def unguided() -> Iterator[None]:
    """No rule is applied within the block: predictions are the denoiser's own."""
    token = _PAUSED.set(True)
    try:
        yield
    finally:
        _PAUSED.reset(token)


class _Watch:
    """Follows one pipeline's sampling and applies a rule to the prediction for the prompts."""

    def __init__(self, rule: Rule, both: bool) -> None:
        self.rule = rule
        self.both = both  # whether both branches are encoded at once
        self.embedding: PromptEmbedding | None = None
        self.index = 0
        self.fresh = False  # encoded, and not a step made since
        self.busy = False

    def encoded(self, embedding: PromptEmbedding) -> None:
        # With two passes in a distilled pipeline, the second text before the first step is the negative prompt.
        if self.fresh and not self.both and self.embedding is not None and self.embedding.negative is None:
            self.embedding = self.embedding.replace(negative=embedding)
        else:
            self.embedding, self.index, self.fresh = embedding, 0, True

    def predicted(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Any:
        if _PAUSED.get() or self.busy or self.embedding is None:
            return None
        self.fresh = False
        arguments = inspect.Signature(list(forward_parameters(module).values())).bind(*args, **kwargs).arguments
        value = out[0] if isinstance(out, tuple) else out.sample
        n, batch = len(self.embedding), len(value)
        if batch not in (n, 2 * n):
            raise InputError(f"the denoiser was given {batch} samples for {n} prompts: expected {n} or {2 * n}")
        if batch == n and self._is_negative(self.embedding, arguments["encoder_hidden_states"]):
            return None
        parts = value.chunk(batch // n)
        first = next(iter(arguments))
        latents = arguments[first].chunk(batch // n)[-1]
        uncond = parts[0] if len(parts) == 2 else None

        def predict(embedding: PromptEmbedding) -> Tensor:
            self.busy = True
            try:
                again = module(**substitute(arguments, latents, embedding, batch))
            finally:
                self.busy = False
            return again[0] if isinstance(again, tuple) else again.sample

        changed = self.rule(
            Step(self.index, arguments["timestep"], latents, self.embedding, parts[-1], uncond, predict)
        )
        self.index += 1
        if changed is None:
            return None
        if changed.shape != parts[-1].shape:
            raise InputError(f"a rule must keep the shape {tuple(parts[-1].shape)}, it returned {tuple(changed.shape)}")
        value = torch.cat([*parts[:-1], changed.to(value.dtype)])
        return (value, *out[1:]) if isinstance(out, tuple) else type(out)(sample=value)

    @staticmethod
    def _is_negative(embedding: PromptEmbedding, given: Tensor) -> bool:
        negative = embedding.negative
        if negative is None or negative.sequence.shape != given.shape:
            return False
        is_prompt = torch.equal(given, embedding.sequence.to(given.dtype))
        return not is_prompt and torch.equal(given, negative.sequence.to(given.dtype))


def install_rule(view: DenoiserView, rule: Rule) -> Callable[[], None]:
    """Apply a rule to every prediction for prompts, until the function that is returned is called."""
    watch = _Watch(rule, view.encoding.both_branches)
    with ExitStack() as stack:
        for denoiser in view.components.denoisers.values():
            stack.callback(denoiser.register_forward_hook(watch.predicted, with_kwargs=True).remove)
        stack.callback(view.install_edit(watch.encoded, once=False))
        return stack.pop_all().close
