"""An image classifier from a folder of transformers, as a function of pixels, with its own image processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._lazy import quiet, require
from efface._text import one_line
from efface.explanation.pixels import PixelModel

_PROBE = (40, 56)
_ROUNDING = 2e-3


def load_pretrained(folder: Path) -> tuple[PixelModel, Callable[[Any], Tensor], tuple[str, ...], int]:
    """The classifier, its way from an image to pixels, its classes and its number of channels; no network, no pickle.

    The image processor resizes and crops; what it does to values after that is measured and moved into the model, so
    that pixels lie in [0, 1].

    Raises:
        InputError: If the folder holds no trained image classifier, or no image processor, or one that does more to
            values than scale and shift them.
        MissingExtraError: If transformers is not installed.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: give a folder written by model.save_pretrained of transformers")
    transformers = require("transformers", extra="hf")
    with quiet(transformers):
        model = _load_model(transformers, folder)
        processor = _load_processor(transformers, folder)
    channels = int(getattr(model.config, "num_channels", 3))
    if channels not in (1, 3):
        raise InputError(f"the model of {folder} reads {channels} channels: images here have 1 or 3")
    prepare = _preparing(processor, folder)
    mean, std = _normalisation(processor, prepare, channels, folder)
    flipped = bool(getattr(processor, "do_flip_channel_order", False))
    names = model.config.id2label or {}
    classes = tuple(str(names[k]) for k in sorted(names))
    return PixelModel(_Flipped(model) if flipped else model, mean, std), prepare, classes, channels


def _load_model(transformers: Any, folder: Path) -> Any:
    try:
        model, info = transformers.AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no image classifier that transformers knows: {one_line(error)}") from error
    except OSError as error:
        raise InputError(f"{folder} cannot be loaded (weights must be .safetensors): {one_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{folder} has no trained weights for {', '.join(missing[:3])}: it is no trained classifier")
    return model


def _load_processor(transformers: Any, folder: Path) -> Any:
    try:
        return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(
            f"{folder} has no image processor, so nobody knows what size and scale the model wants: save it there with "
            f"processor.save_pretrained({str(folder)!r}) ({one_line(error)})"
        ) from error


def _preparing(processor: Any, folder: Path) -> Callable[[Any], Tensor]:
    options = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    if hasattr(processor, "do_flip_channel_order"):
        options["do_flip_channel_order"] = False

    def prepare(image: Any) -> Tensor:
        pixels = processor(images=[image], **options)["pixel_values"][0].float() / 255
        if pixels.ndim == 2:
            pixels = pixels[None]
        if pixels.ndim != 3 or float(pixels.max()) > 1 + _ROUNDING or float(pixels.min()) < -_ROUNDING:
            raise InputError(f"the image processor of {folder} gives {tuple(pixels.shape)} that are no pixels")
        return pixels.clamp(0, 1)

    return prepare


def _normalisation(
    processor: Any, prepare: Callable[[Any], Tensor], channels: int, folder: Path
) -> tuple[list[float], list[float]]:
    """Mean and std of each channel, by a line through what the processor does to the pixels of a random image."""
    random = np.random.default_rng(0).integers(0, 256, (*_PROBE, 3), dtype=np.uint8)
    image = require("PIL.Image", extra="report").fromarray(random).convert("RGB" if channels == 3 else "L")
    pixels, full = prepare(image), processor(images=[image], return_tensors="pt")["pixel_values"][0].float()
    full = full[None] if full.ndim == 2 else full
    if getattr(processor, "do_flip_channel_order", False):
        full = full.flip(0)
    if len(pixels) != channels or full.shape != pixels.shape:
        raise InputError(
            f"the image processor of {folder} gives {tuple(full.shape)}, the model reads {channels} channels"
        )
    mean, std = [], []
    for before, after in zip(pixels.flatten(1).double(), full.flatten(1).double(), strict=True):
        columns = torch.stack([before, torch.ones_like(before)], 1)
        slope, shift = torch.linalg.lstsq(columns, after[:, None]).solution[:, 0].tolist()
        if (
            slope <= 0
            or float((columns @ torch.tensor([slope, shift]).double() - after).abs().max()) > _ROUNDING * slope
        ):
            raise InputError(f"the image processor of {folder} does more to values than to scale and shift them")
        mean.append(-shift / slope)
        std.append(1 / slope)
    return mean, std


class _Flipped(nn.Module):
    """A model that reads channels in the opposite order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x.flip(1))
