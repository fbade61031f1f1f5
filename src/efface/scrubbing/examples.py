"""Small inputs, to see in one forward pass what a model does: made up, or cut from the user's data."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.subjects import device_of
from efface.scrubbing.batches import Batch

_TOKENS = 6
_KEPT = 16
_MEL_FRAMES_A_POSITION = 2
_SAMPLES = 8000


def example_inputs(model: nn.Module) -> dict[str, Any]:
    """Small inputs for a Hugging Face model: six tokens, a blank image, or some sound.

    Raises:
        InputError: If it is not known what the model takes.
    """
    return next(candidates(model))


def candidates(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Small inputs that a Hugging Face model may take, the least first: text alone, then what else it has towers for.

    Raises:
        InputError: If it is not known what the model takes.
    """
    config, name = getattr(model, "config", None), getattr(model, "main_input_name", None)
    made = None if config is None or name is None else _made(model, config, name)
    if made is None:
        raise InputError(
            f"it is not known what {type(model).__name__} takes: pass inputs={{...}}, keyword arguments for one pass"
        )
    if name != "input_ids" and _takes(model, "decoder_input_ids") or getattr(config, "is_encoder_decoder", False):
        made["decoder_input_ids"] = _ids(model, config)
    yield made
    vision = getattr(config, "vision_config", None)
    if name == "input_ids" and vision is not None and (image := _image(model, vision)) is not None:
        yield made | {"pixel_values": image}


def _made(model: nn.Module, config: Any, name: str) -> dict[str, Any] | None:
    device, dtype = device_of(model), next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    if name == "input_ids":
        return {name: _ids(model, config)}
    image = _image(model, getattr(config, "vision_config", config)) if name == "pixel_values" else None
    if image is not None:
        return {name: image}
    bins, positions = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    if name == "input_features" and bins is not None and positions is not None:
        shape = (1, bins, positions * _MEL_FRAMES_A_POSITION)
        return {name: torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)}
    if name == "input_values":
        return {name: torch.rand(1, _SAMPLES, generator=torch.Generator().manual_seed(0)).to(device, dtype)}
    return None


def _ids(model: nn.Module, config: Any) -> Tensor:
    """Token ids that differ and mean nothing special, as an image's placeholder would."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocabulary = getattr(text, "vocab_size", None) or _TOKENS + 1
    special = {v for c in (config, text) for k, v in vars(c).items() if "token" in k and isinstance(v, int)}
    usual = [i for i in range(min(vocabulary, 10 * _TOKENS + len(special))) if i not in special and i > 0]
    chosen = (usual[:: max(1, len(usual) // _TOKENS)] or [0])[:_TOKENS]
    return torch.tensor([chosen], device=device_of(model))


def _image(model: nn.Module, config: Any) -> Tensor | None:
    size = getattr(config, "image_size", None)
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    shape = (1, getattr(config, "num_channels", 3), height, width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device_of(model), dtype)


def _takes(model: nn.Module, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def padded(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Inputs of text as two rows, the first with padding on its left; None for a model that takes no mask of it."""
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.shape[1] < 2 or set(inputs) - {"input_ids", "decoder_input_ids"}:
        return None
    if not _takes(model, "attention_mask"):
        return None
    twice = {name: torch.cat([value, value]) for name, value in inputs.items()}
    mask = torch.ones_like(twice["input_ids"])
    mask[0, : max(1, ids.shape[1] // 3)] = 0
    return twice | {"attention_mask": mask}


def passes(model: nn.Module, inputs: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Inputs on which it is seen who reads what: what runs may depend on there being padding."""
    if inputs is not None:
        return [inputs]
    made = example_inputs(model)
    with_padding = padded(model, made)
    return [made] if with_padding is None else [made, with_padding]


def small_inputs(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
    """Of the first batch one sequence, and at most 16 tokens of it where it is text alone."""
    device = device_of(model)
    batch = next(iter(batches))
    given = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.inputs.items()}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor) and value.ndim}
    if any(len(value) != batch.size for value in tensors.values()):
        return given  # images and the like may be counted otherwise than sequences
    row = _fullest(batch)
    own: dict[str, Any] = given | {name: value[row : row + 1] for name, value in tensors.items()}
    if any(value.ndim != 2 or value.is_floating_point() for value in tensors.values()):
        return own
    for prefix in ("", "decoder_"):
        ids, mask = own.get(f"{prefix}input_ids"), own.get(f"{prefix}attention_mask")
        if isinstance(ids, Tensor):
            first = int(mask[0].bool().int().argmax()) if isinstance(mask, Tensor) else 0
            cut = {n for n in tensors if n.startswith("decoder_") == bool(prefix) and own[n].shape == ids.shape}
            own |= {name: own[name][:, first : first + _KEPT] for name in cut}
    return own


def _fullest(batch: Batch) -> int:
    """Number of the sequence with the least padding."""
    mask = batch.mask()
    return 0 if mask is None else int(mask.sum(1).argmax())
