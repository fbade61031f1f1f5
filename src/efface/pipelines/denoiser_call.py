"""What a pipeline passes to its denoiser: caught at the first call, so that no pipeline's preparations are repeated."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_int64, to_tensor
from efface.pipelines.components import Components, forward_parameters
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.restoring import StandIn, copied, twin_of

_TEXT = {"encoder_hidden_states": "sequence", "pooled_projections": "pooled"}
_ADDED = {"text_embeds": "pooled"}
_MASK = "encoder_attention_mask"


@dataclass(frozen=True)
class DenoiserCall:
    """The first call of a pipeline's denoiser.

    Attributes:
        denoiser: The model that is called.
        arguments: All its arguments by name.
        latents: The latents as the pipeline's loop holds them, before any scaling for the model; packed as in FLUX.
        timesteps: All timesteps of the scheduler.
    """

    denoiser: nn.Module
    arguments: Mapping[str, Any]
    latents: Tensor
    timesteps: Tensor

    def with_inputs(self, latents: Tensor, t: Any, embedding: PromptEmbedding) -> dict[str, Any]:
        """The arguments with other latents, time and prompts, and with gradients through all of them."""
        arguments = substitute(self.arguments, latents, embedding, len(latents))
        return arguments | {"timestep": self._timestep(arguments["timestep"], t)}

    def _timestep(self, passed: Any, t: Any) -> Tensor:
        """`t` in the shape and unit in which the pipeline passes its own (FLUX passes thousandths)."""
        start, passed = float(self.timesteps[0]), torch.as_tensor(passed)
        ratio = start / float(passed.flatten()[0]) if float(passed.flatten()[0]) else 1.0
        unit = round(ratio) if abs(ratio - round(ratio)) < 1e-3 * ratio else ratio
        t = check_int64(t, "t") if type(t) is int else t
        value = (torch.as_tensor(t) if type(t) in (int, float) else to_tensor(t, "t")).to(passed.device)
        value = value if unit == 1 else value / unit
        if value.ndim == 1 and passed.ndim == 0:
            passed = passed.expand(len(value))
        value = value.reshape(-1, *[1] * (passed.ndim - 1)) if value.ndim else value
        if value.is_complex() or value.ndim > passed.ndim or len(value.flatten()) not in (1, passed.numel()):
            raise InputError(f"t is {shown(t)}: write one timestep, or {passed.numel()}, one a sample")
        return value.to(passed.dtype).expand(passed.shape)


class _Caught(Exception):
    """Ends a pipeline's call at its first denoising step."""

    def __init__(self, call: DenoiserCall) -> None:
        super().__init__()
        self.call = call


def catch(pipe: Any, components: Components, arguments: Mapping[str, Any]) -> DenoiserCall:
    """Call a pipeline up to its first denoising step and tell what its denoiser was going to be given.

    Nothing is computed by the denoiser. The call is that of a twin with a scheduler of its own, so that nothing happens
    to the pipeline.

    Raises:
        InputError: If the pipeline never calls a denoiser.
    """
    unscaled: list[Tensor] = []
    scheduler = copied(components.scheduler_of(pipe))

    def scale(sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        unscaled.append(sample)
        return type(scheduler).scale_model_input(scheduler, sample, *args, **kwargs)

    def caught(denoiser: nn.Module) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            bound = inspect.Signature(list(forward_parameters(denoiser).values())).bind(*args, **kwargs).arguments
            bound = {**{k: v for k, v in bound.items() if k != "kwargs"}, **bound.get("kwargs", {})}
            latents = unscaled[0] if unscaled else next(iter(bound.values()))
            raise _Caught(DenoiserCall(denoiser, bound, latents, scheduler.timesteps.clone()))

        return call

    if hasattr(scheduler, "scale_model_input"):
        vars(scheduler)["scale_model_input"] = scale
    parts = {name: StandIn(denoiser, caught(denoiser)) for name, denoiser in components.denoisers.items()}
    twin = twin_of(pipe, {**parts, components.scheduler_name: scheduler})
    twin.set_progress_bar_config(disable=True)
    try:
        twin(**arguments)
    except _Caught as end:
        return end.call
    raise InputError(f"{type(pipe).__name__} never called its denoiser, {', '.join(components.denoisers)}")


def substitute(
    arguments: Mapping[str, Any], latents: Tensor, embedding: PromptEmbedding, batch: int, at: int = -1
) -> dict[str, Any]:
    """Arguments of a denoiser with other latents and prompts.

    Args:
        arguments: Its arguments by name, for a batch.
        latents: (n, ...) latents.
        embedding: n prompts.
        batch: Size of the batch.
        at: Which of its branches of n samples is taken; the last one by default.
    """
    n = len(latents)
    branch = slice((at % (batch // n)) * n, (at % (batch // n) + 1) * n)

    def own(value: Any) -> Any:
        if isinstance(value, list | tuple):  # residuals of a ControlNet or an adapter
            return type(value)(map(own, value))
        if isinstance(value, Mapping):
            return {name: own(each) for name, each in value.items()}
        return value[branch] if isinstance(value, Tensor) and value.ndim and len(value) == batch > n else value

    found = {name: own(value) for name, value in arguments.items()}
    first = next(iter(found))
    found[first] = latents.to(found[first].dtype)
    return _with_text(found, lambda old, new: new.to(old.dtype), embedding)


def substitute_branches(
    arguments: Mapping[str, Any], embedding: PromptEmbedding, batch: int, branches: Iterable[int]
) -> dict[str, Any]:
    """Arguments of a denoiser with other prompts in some of the branches of n samples, and all else as it is."""
    n = len(embedding)

    def put(old: Tensor, new: Tensor) -> Tensor:
        changed = old.clone()
        for at in branches:
            changed[at * n : (at + 1) * n] = new.to(old)
        return changed if len(old) == batch else old

    copied = {name: [*value] if isinstance(value, list) else value for name, value in arguments.items()}
    return _with_text(copied, put, embedding)


def _with_text(
    found: dict[str, Any], put: Callable[[Tensor, Tensor], Tensor], embedding: PromptEmbedding
) -> dict[str, Any]:
    """Arguments with the text in them changed by `put(what is there, what the embedding has)`."""
    for name, role in (*_TEXT.items(), (_MASK, "mask")):
        if isinstance(found.get(name), Tensor) and (value := getattr(embedding, role)) is not None:
            found[name] = put(found[name], value)
    if isinstance(added := found.get("added_cond_kwargs"), Mapping):
        texts = {name: getattr(embedding, role) for name, role in _ADDED.items() if name in added}
        found["added_cond_kwargs"] = {**added, **{name: put(added[name], value) for name, value in texts.items()}}
    return found


def pooled_of(arguments: Mapping[str, Any]) -> Tensor | None:
    """The pooled vectors among the arguments of a denoiser."""
    added = arguments.get("added_cond_kwargs")
    places = [arguments.get("pooled_projections"), *(added.get(name) for name in _ADDED if isinstance(added, Mapping))]
    return next((value for value in places if isinstance(value, Tensor)), None)


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """One generator a sample, so that a sample does not depend on its batch; on the CPU, nor on the device."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]
