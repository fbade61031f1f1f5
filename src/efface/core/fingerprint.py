"""Whether a model is still the one that was fitted on: checksums of a sample of its weights."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from efface.core.adapters import is_dressed, plain_name
from efface.core.subjects import base_path

_SAMPLE = 4096
_ROWS = 32
_NOTHING = [b"", b""]
_QUANTISERS = ("quantized", "quanto", "bitsandbytes", "torchao", "gptq", "awq", "hqq", "aqlm", "eetq", "fbgemm")
_NUMBERED = re.compile(r"(?:[^.]*\.)*?\d+(?=\.|$)")
_NO_LETTERS = re.compile(r"[\s=;]")

Likeness = Literal["same", "quantised", "other"]
Under = Callable[[nn.Module, str, "Tensor | None"], "Tensor | None"]


def fingerprint(model: nn.Module, under: Under | None = None, *, parts: bool = True) -> str:
    """Checksums of names, shapes and evenly spaced values of all parameters, rounded to bfloat16.

    There are two, the second of values that were rounded to float16 before, and one where they are equal: a float32
    model and its bfloat16 and float16 copies have one in common, which is what `agrees` asks. Behind them, the same of
    each block and part by itself, by which `likeness` knows a model with another head, with tokens added, or
    quantised. Weights that accelerate has moved elsewhere are read there; adapters of PEFT that are off, or change
    nothing yet, do not count. Milliseconds even for large models that are in memory.

    Args:
        model: The model.
        under: Another value to take in place of a module's parameter of some name; None leaves it out.
        parts: Whether blocks and parts are told apart; without, it is the quicker one that `agrees` asks.

    Does not guarantee: that a model with the same checksum is the same; values between the sampled ones, and changes
    under bfloat16's rounding (0.4 %), may differ. Of quantised weights that cannot be read, names and shapes count.

    >>> layer = nn.Linear(2, 2)
    >>> mark, other = fingerprint(layer), fingerprint(nn.Linear(2, 2))
    >>> agrees(mark, fingerprint(layer.half())), agrees(mark, other)
    (True, False)
    """
    whole, found, quantised = _Sum(), dict[str, _Part](), False
    base = base_path(model)
    for name, module, parameter in _parameters(model, under):
        read = _samples(parameter)
        if not parts:
            whole.add(f"{name} {tuple(parameter.shape)}", read or _NOTHING)
            continue
        closed = read is None or _is_quantised(module, parameter)
        whole.add(f"{name} {tuple(parameter.shape)}", read or _NOTHING)
        group, rest = _group(name, base)
        if group not in found:
            found[group] = _Part()
        found[group].add(rest, module, parameter, closed, read or _NOTHING)
        quantised |= closed
    if not parts:
        return f"{whole};;"
    quantised |= any(_is_quantised(module, None) for module in model.modules())
    each = " ".join(f"{_NO_LETTERS.sub('_', group)}={part}" for group, part in found.items())
    return f"{whole};{'q' * quantised};{each}"


def agrees(a: str, b: str) -> bool:
    """Whether two fingerprints may be of the same weights, in whatever floating dtype.

    >>> agrees("01-02;;0=a", "02;;"), agrees("01", "02")
    (True, False)
    """
    return _share(a.partition(";")[0], b.partition(";")[0])


def likeness(fit: str, now: str, paths: Collection[str] = ("",)) -> Likeness:
    """Whether hidden states at some places are those of the model of a fit.

    What both models have must be the same, but that embeddings may have got rows; if all places lie inside the base
    model, its head does not count. Of a quantised copy only what quantisers leave alone is compared: norms.

    Args:
        fit: Fingerprint of the model of the fit.
        now: That of this one.
        paths: Modules of this model, by their paths below its base model, or with `/` in front outside of it; their
            blocks must be in both.
    """
    if agrees(fit, now):
        return "same"
    (fit_quantised, theirs), (now_quantised, ours) = _parsed(fit), _parsed(now)
    inside = not any(path.startswith("/") or not path for path in paths)
    common = [group for group in theirs.keys() & ours.keys() if not (inside and group.startswith("/"))]
    if not common or not all(_group_of(path) in common for path in paths if path):
        return "other"
    quantised = fit_quantised or now_quantised
    pairs = [(theirs[group].split("."), ours[group].split(".")) for group in common]
    compared = [(a[quantised], b[quantised]) for a, b in pairs if a[quantised] or b[quantised]]
    if not compared or not all(_share(a, b) for a, b in compared):
        return "other"
    return "quantised" if quantised else "same"


def below_base(model: nn.Module, path: str) -> str:
    """A path of a model below its base model; outside of that with `/` in front."""
    base = base_path(model)
    if not base or path == base:
        return path if not base else ""
    return path.removeprefix(f"{base}.") if path.startswith(f"{base}.") else f"/{path}"


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


def _parameters(model: nn.Module, under: Under | None) -> list[tuple[str, nn.Module, Tensor]]:
    """Each parameter once: the name that it had without adapters, its module, its value."""
    seen: set[int] = set()
    found: list[tuple[str, nn.Module, Tensor]] = []
    dressed = is_dressed(model)
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            value = parameter if under is None else under(module, name, parameter)
            if value is None or id(value) in seen:
                continue
            seen.add(id(value))
            full = f"{path}.{name}" if path else name
            known = plain_name(model, full) if dressed else full
            if known is not None:
                value = value if value.device.type != "meta" else present(model, full, value)
                found.append((known, module, value.detach()))
    return found


class _Sum:
    """Two running checksums, of values rounded in both ways."""

    def __init__(self) -> None:
        self._totals = [0, 0]

    def add(self, head: str, read: list[bytes]) -> None:
        start, (one, other) = head.encode(), self._totals
        self._totals = [zlib.crc32(read[0], zlib.crc32(start, one)), zlib.crc32(read[1], zlib.crc32(start, other))]

    def __str__(self) -> str:
        return "-".join(dict.fromkeys(f"{total:08x}" for total in self._totals))


@dataclass
class _Part:
    """The checksums of one block or part: of all of it, and of what quantisers leave alone."""

    all: _Sum = field(default_factory=_Sum)
    norms: _Sum = field(default_factory=_Sum)
    has_norms: bool = False

    def add(self, name: str, module: nn.Module, value: Tensor, closed: bool, read: list[bytes]) -> None:
        grows = isinstance(module, nn.Embedding) and value.ndim == 2 and not closed
        shape = ("rows", value.shape[1]) if grows else tuple(value.shape)
        read = (_samples(value[:_ROWS]) or _NOTHING) if grows else read
        self.all.add(f"{name} {shape}", read)
        if value.ndim <= 1 and not closed and all(p is None or p.ndim <= 1 for p in module._parameters.values()):
            self.norms.add(f"{name} {shape}", read)
            self.has_norms = True

    def __str__(self) -> str:
        return f"{self.all}.{self.norms if self.has_norms else ''}"


def _group(name: str, base: str) -> tuple[str, str]:
    """The block or part that a parameter is of, and its name in there."""
    path = name.removeprefix(f"{base}.") if base and name.startswith(f"{base}.") else f"/{name}" if base else name
    group = _group_of(path)
    return group, path[len(group) :]


def _group_of(path: str) -> str:
    """A path up to its first number, or else its first step.

    >>> _group_of("encoder.layer.3.output.dense"), _group_of("embeddings.word"), _group_of("/lm_head")
    ('encoder.layer.3', 'embeddings', '/lm_head')
    """
    found = _NUMBERED.match(path)
    return found[0] if found else path.partition(".")[0]


def _parsed(mark: str) -> tuple[bool, dict[str, str]]:
    """Whether it is of a quantised model, and the checksums of its parts; none in those of older files."""
    _, _, rest = mark.partition(";")
    flag, _, each = rest.partition(";")
    return flag == "q", dict(part.rsplit("=", 1) for part in each.split())  # type: ignore[misc]


def _share(a: str, b: str) -> bool:
    return not {*a.split("-")}.isdisjoint(b.split("-"))


def _is_quantised(module: nn.Module, value: Tensor | None) -> bool:
    """Whether a module's weights are quantised: by where its class comes from, or what its weight is."""
    if "qweight" in module._buffers or _quantises(type(module)):
        return True
    return value is not None and (value.itemsize == 1 or not (value.is_floating_point() or value.is_complex()))


@cache
def _quantises(kind: type) -> bool:
    origin = kind.__module__.lower()
    return any(name in origin for name in _QUANTISERS)


def _around(model: nn.Module, name: str) -> Iterator[tuple[nn.Module, str]]:
    """The modules around a parameter, the innermost first, and its name inside each."""
    parents = name.split(".")
    for depth in range(len(parents) - 1, -1, -1):
        yield model.get_submodule(".".join(parents[:depth])), ".".join(parents[depth:])


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))


def _samples(x: Tensor) -> list[bytes] | None:
    """Values of a parameter as bytes, rounded in both ways; None where it holds other numbers than it shows.

    Such are tensors of classes of their own, as those of torchao and quanto, and some cannot be viewed at all. A
    parameter of which each process has a part is read whole, one after the other, so that all processes have to ask.
    """
    if x.device.type == "meta":
        return _NOTHING
    whole: Any = getattr(x, "full_tensor", None)  # of a DTensor
    if hasattr(type(x), "__tensor_flatten__") and whole is None:
        return None
    try:
        x = x if whole is None else whole()
        flat = x.reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLE)].cpu()
        one, other = some.to(torch.bfloat16).contiguous(), some.to(torch.float16).to(torch.bfloat16).contiguous()
        return [one.view(torch.uint8).numpy().tobytes(), other.view(torch.uint8).numpy().tobytes()]
    except (NotImplementedError, RuntimeError):
        return None
