"""Whether a model is still the one that was fitted on: a checksum of a sample of its weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_SAMPLE = 4096


def fingerprint(model: nn.Module) -> str:
    """A checksum of names, shapes and evenly spaced values of all parameters, rounded to bfloat16.

    The rounding makes it the same for a float32 model and its bfloat16 copy. Milliseconds even for large models.

    Does not guarantee: that a model with the same checksum is the same; values between the sampled ones, and changes
    under bfloat16's rounding (0.4 %), may differ. A float16 copy may be taken for another model.

    >>> layer = nn.Linear(2, 2)
    >>> mark = fingerprint(layer)
    >>> mark == fingerprint(layer.bfloat16()), mark == fingerprint(nn.Linear(2, 2))
    (True, False)
    """
    return fingerprint_of(model.named_parameters())


def fingerprint_of(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of a model that has these parameters, in this order."""
    total = 0
    for name, parameter in parameters:
        total = zlib.crc32(f"{name} {tuple(parameter.shape)}".encode(), total)
        if parameter.device.type != "meta":
            total = zlib.crc32(_sample(parameter.detach()), total)
    return f"{total:08x}"


def _sample(x: Tensor) -> bytes:
    flat = x.reshape(-1)
    step = max(1, len(flat) // _SAMPLE)
    rounded = flat[::step].to(torch.bfloat16).cpu().contiguous()
    return rounded.view(torch.uint8).numpy().tobytes()
