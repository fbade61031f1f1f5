"""Forward passes that gather what is needed at sites and stop where no more is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.edits import edit_sites
from efface.core.hooks import StateEdit, compiled_frames, look
from efface.core.site import Site
from efface.core.subjects import device_of, unwrapped
from efface.scrubbing.batches import Batch


class Stop(BaseException):
    """Ends a forward pass: all that was wanted of it is there. Not an Exception, so that no model swallows it."""


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; each module's mode comes back whatever happens.

    A model that is compiled runs as it is written: code that was compiled before would not see hooks.
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad(), _as_written():
            yield
    finally:
        for module in training:
            module.training = True


def _as_written() -> Any:
    return torch.compiler.set_stance("force_eager") if compiled_frames() else nullcontext()


def bare(model: nn.Module) -> nn.Module:
    """The model inside what is wrapped around it, which a scrub runs part of.

    Raises:
        InputError: If FSDP 1 is, without whose own call its parameters are not there.
    """
    if any("FullyShardedDataParallel" in (base.__name__ for base in type(m).__mro__) for m in model.modules()):
        raise InputError(
            "the model is wrapped by FullyShardedDataParallel (FSDP 1), whose parameters are there in its own call "
            "alone: shard it by torch.distributed.fsdp.fully_shard (FSDP 2; fsdp_version: 2 of accelerate)"
        )
    return unwrapped(model)


def run(model: nn.Module, batch: Batch) -> Any:
    """One forward pass; inputs are moved to the model's device, and no cache is built."""
    device = device_of(model)
    inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.inputs.items()}
    return model(**uncached(model, inputs | positions(model, inputs)))


def positions(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Positions that begin where the padding on the left ends, as `generate` counts them; nothing where it makes none.

    A model that is called without counts padding, too, so that one with absolute positions gives other hidden states
    than it does in generation.
    """
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or bool(mask[:, 0].all()) or "position_ids" in inputs:
        return {}
    can = getattr(model, "can_generate", None)
    of_text = not getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    takes = "position_ids" in inspect.signature(model.forward).parameters
    if not (takes and of_text and can is not None and can()) or _has_planes(model):
        return {}
    return {"position_ids": (mask.long().cumsum(-1) - 1).clamp_min(0)}


def _has_planes(model: nn.Module) -> bool:
    """Whether positions have several planes, as where there are images among the tokens."""
    return any(hasattr(module, "get_rope_index") for module in model.modules())


def uncached(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with which a model builds no cache, which nobody would read."""
    takes = "use_cache" in inspect.signature(model.forward).parameters
    return {"use_cache": False} | dict(inputs) if takes else dict(inputs)


@contextmanager
def edited(model: nn.Module, edits: Mapping[Site, StateEdit]) -> Iterator[None]:
    """Edits of hidden states for the length of a block."""
    with ExitStack() as stack:
        stack.callback(edit_sites(model, edits))
        yield


def run_to(model: nn.Module, batch: Batch, edits: Mapping[Site, StateEdit]) -> None:
    """A forward pass with edits, one of which may end it by raising `Stop`."""
    with suppress(Stop), edited(model, edits):
        run(model, batch)


@dataclass(frozen=True)
class Passed:
    """What a forward pass shows at a site.

    Attributes:
        calls: How often it comes by.
        rows: Hidden states in a call.
        width: Of each.
        dtype: Theirs.
        device: Where they are.
    """

    calls: int
    rows: int
    width: int
    dtype: torch.dtype
    device: torch.device


def execution_order(model: nn.Module, sites: list[Site], batch: Batch) -> dict[Site, int]:
    """The sites in the order in which a forward pass comes by them -> how often it does; as `passed`."""
    return {site: each.calls for site, each in passed(model, sites, batch).items()}


def passed(model: nn.Module, sites: list[Site], batch: Batch) -> dict[Site, Passed]:
    """The sites in the order in which a forward pass comes by them, and what it shows there.

    Raises:
        InputError: If the pass never comes by a site.
    """
    found: dict[Site, Passed] = {}

    def look_at(site: Site) -> StateEdit:
        def note(x: Tensor) -> None:
            calls = found[site].calls + 1 if site in found else 1
            found[site] = Passed(calls, x.shape[:-1].numel(), x.shape[-1], x.dtype, x.device)

        return note

    with at_rest(model):
        run_to(model, batch, {site: look_at(site) for site in sites})
    if missed := [str(site) for site in sites if site not in found]:
        raise InputError(
            f"the model's forward pass never comes by {', '.join(missed)}: leave that out of sites, or pass the inputs "
            "that make it run"
        )
    return found


Take = Callable[[Tensor, Tensor, Tensor], None]
"""Takes hidden states `(..., d)`, labels `(..., ...)` and the mask `(...)` of rows that count."""


def taking(batch: Batch, site: Site, take: Take, ignore_index: int, *, calls: int = 1, stop: bool = False) -> StateEdit:
    """An edit that changes nothing: it hands hidden states and labels to `take`.

    Args:
        batch: Whose labels.
        site: Named in errors.
        take: What is done with them.
        ignore_index: Label that is left out.
        calls: How often a forward pass comes by.
        stop: End the forward pass after the last call.
    """
    seen = 0

    def edit(x: Tensor) -> None:
        nonlocal seen
        seen += 1
        x, labels, counted = align(x.detach(), batch, site, ignore_index)
        take(x, labels, counted)
        if stop and seen == calls:
            raise Stop

    return edit


def align(x: Tensor, batch: Batch, site: Site, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states with the labels and the mask of their rows, on their device.

    A label of a sequence holds for each of its tokens that is not padding.

    Raises:
        InputError: If there are not as many labels as hidden states.
    """
    name = (
        "decoder_attention_mask" if "decoder" in site.path.split(".") and "decoder_input_ids" in batch.inputs else None
    )
    labels, counted = batch.labels, batch.counted(ignore_index, name or "attention_mask")
    grid = batch.main.shape[:2]
    if x.ndim == 2 and len(x) != len(labels) and len(grid) == 2 and len(x) == grid.numel():
        x = x.reshape(*grid, x.shape[-1])  # some layers see their tokens flattened
    if not batch.per_token and x.ndim > 2:
        x, labels, counted = _spread(x, batch, labels, counted, name or "attention_mask")
    lead = tuple(counted.shape)
    if tuple(x.shape[:-1]) != lead and x.ndim == 2 and len(x) == counted.numel():
        x = x.reshape(*lead, x.shape[-1])  # some layers see their tokens flattened
    if tuple(x.shape[:-1]) != lead:
        raise InputError(
            f"{site} has hidden states of shape {tuple(x.shape)}, but the labels of batch {batch.number} are of shape "
            f"{lead}: give one label a token (or one a sequence), and choose sites that see these tokens"
        )
    return x, labels.to(x.device), counted.to(x.device)


def _spread(x: Tensor, batch: Batch, labels: Tensor, counted: Tensor, mask_name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Labels `(b, ...)` for each of the tokens of hidden states `(b, ..., d)`."""
    lead = tuple(x.shape[:-1])
    if len(labels) != lead[0]:
        return x, labels, counted
    inner = (1,) * (len(lead) - 1)
    spread = labels.reshape(len(labels), *inner, *labels.shape[1:]).expand(*lead, *labels.shape[1:])
    counts = counted.reshape(-1, *inner).expand(lead).clone()
    mask = batch.mask(mask_name)
    if mask is not None and tuple(mask.shape) == lead:
        counts &= mask.to(counts.device)
    return x, spread, counts


def check_states(x: Tensor, counted: Tensor, model: nn.Module, batch: Batch, site: Site, active: Any) -> None:
    """Refuse hidden states that are not finite, naming the module where they first were not.

    Args:
        x: Hidden states at the site.
        counted: Mask of the rows that matter.
        model: To look for the module.
        batch: Whose forward pass it was.
        site: Where it showed.
        active: Edits that were on.

    Raises:
        InputError: If any row that counts holds NaN or infinity.
    """
    total = torch.where(counted.unsqueeze(-1), x, torch.zeros((), dtype=x.dtype, device=x.device)).sum(
        dtype=torch.float32
    )
    if bool(total.isfinite()):
        return
    bad = ~x.isfinite().all(-1) & counted
    if not bool(bad.any()):
        return
    where = tuple(bad.nonzero()[0].tolist())
    raise InputError(
        f"NaN or infinity in the hidden states at {site}, batch {batch.number}, position {where} "
        f"(sequence {batch.first + where[0]}): it first arises in {first_non_finite(model, batch, active)!r}. "
        "Load the model in float32 or bfloat16 (float16 overflows), or leave that sequence out"
    )


def first_non_finite(model: nn.Module, batch: Batch, active: Mapping[Site, StateEdit]) -> str:
    """Path of the first module (in the order of execution, innermost first) that gives a number that is not finite."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def check(_module: nn.Module, _args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            if (
                not found
                and isinstance(first, Tensor)
                and first.is_floating_point()
                and not bool(first.isfinite().all())
            ):
                found.append(name)
                raise Stop

        return check

    with ExitStack() as stack, at_rest(model):
        for name, module in model.named_modules():
            stack.callback(look(module, watch(name)))
        run_to(model, batch, active)
    return found[0] if found else "an attention mask or an earlier edit"
