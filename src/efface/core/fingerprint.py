"""Whether a model is still the one that was fitted on: a checksum of a sample of its weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_SAMPLE = 4096


def fingerprint(model: nn.Module) -> str:
    """Checksums of names, shapes and evenly spaced values of all parameters, rounded to bfloat16.

    There are two, the second of values that were rounded to float16 before, and one where they are equal: a float32
    model and its bfloat16 and float16 copies have one in common, which is what `agrees` asks. Weights that accelerate
    has moved elsewhere are read there. Milliseconds even for large models that are in memory.

    Does not guarantee: that a model with the same checksum is the same; values between the sampled ones, and changes
    under bfloat16's rounding (0.4 %), may differ. Of quantised weights that cannot be read, names and shapes count.

    >>> layer = nn.Linear(2, 2)
    >>> mark, other = fingerprint(layer), fingerprint(nn.Linear(2, 2))
    >>> agrees(mark, fingerprint(layer.half())), agrees(mark, other)
    (True, False)
    """
    return fingerprint_of((name, present(model, name, value)) for name, value in model.named_parameters())


def fingerprint_of(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of a model that has these parameters, in this order."""
    totals = [0, 0]
    for name, parameter in parameters:
        parts = [b"", b""] if parameter.device.type == "meta" else _samples(parameter.detach())
        head = f"{name} {tuple(parameter.shape)}".encode()
        totals = [zlib.crc32(part, zlib.crc32(head, total)) for total, part in zip(totals, parts, strict=True)]
    return "-".join(dict.fromkeys(f"{total:08x}" for total in totals))


def agrees(a: str, b: str) -> bool:
    """Whether two fingerprints may be of the same weights, in whatever floating dtype.

    >>> agrees("01-02", "02"), agrees("01", "02")
    (True, False)
    """
    return not {*a.split("-")}.isdisjoint(b.split("-"))


def present(model: nn.Module, name: str, value: Tensor) -> Tensor:
    """A parameter, or what accelerate keeps of it elsewhere (in memory or on disk) while the model does not run."""
    if value.device.type != "meta":
        return value
    for part, inside in _around(model, name):
        for hook in _hooks(part):
            kept = getattr(hook, "weights_map", None)
            try:
                return value if kept is None else kept[inside]
            except KeyError:
                continue
    return value


def _around(model: nn.Module, name: str) -> Iterator[tuple[nn.Module, str]]:
    """The modules around a parameter, the innermost first, and its name inside each."""
    parents = name.split(".")
    for depth in range(len(parents) - 1, -1, -1):
        yield model.get_submodule(".".join(parents[:depth])), ".".join(parents[depth:])


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))


def _samples(x: Tensor) -> list[bytes]:
    """Values of a parameter as bytes, rounded in both ways; those of a tensor that cannot be viewed are left out."""
    try:
        flat = x.reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLE)].cpu()
        rounded = [some.to(torch.bfloat16), some.to(torch.float16).to(torch.bfloat16)]
        return [r.contiguous().view(torch.uint8).numpy().tobytes() for r in rounded]
    except (NotImplementedError, RuntimeError):
        return [b"", b""]
