"""What a model says of inputs, as probabilities, and the checks on models, inputs, maps and masks of this room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from efface._errors import EffaceError, EffaceWarning, InputError
from efface._validate import check_finite, check_positive_int
from efface.core.subjects import device_of as core_device_of

Outputs = Literal["logits", "probabilities"]
"""What the last layer of a model gives."""

_SUM = 1e-3
_LONGEST = 240
_NOT_THEIRS = (EffaceError, OSError, MemoryError, Warning)
"""Errors that say enough by themselves, or are of the machine."""
_CUT = (
    "no gradient comes from the output to the images, as where a part of the model runs under torch.no_grad() or "
    "detaches; occlusion needs none"
)
_HINTS = {
    "does not require grad": _CUT,
    "doesn't require gradient": _CUT,
    "used more than once": "give each place an activation module of its own, or choose another method",
}
"""What others say -> what it means here, and what to do."""


class OutputsWarning(EffaceWarning):
    """What a model returns is taken for logits, and hardly can be logits."""


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, *, outputs: Outputs = "logits", batch_size: int = 256) -> Tensor:
    """Probabilities `(n, classes)` of a model that is in eval mode.

    Args:
        model: Takes `(n, ...)`, returns `(n, classes)`.
        x: Inputs `(n, ...)`, on any device.
        outputs: Whether the model returns `"logits"` or `"probabilities"`.
        batch_size: Inputs a forward pass.

    Returns:
        Probabilities on the model's device, in its dtype, in float32 at least.

    Raises:
        InputError: If the model is in training mode, or returns something else than what `outputs` says.
    """
    check_model(model)
    check_positive_int(batch_size, "batch_size")
    batches = (as_read_by(model, chunk) for chunk in x.split(batch_size))
    return torch.cat([to_probabilities(answer(model, chunk), len(chunk), outputs) for chunk in batches])


def answer(model: Any, x: Tensor) -> Any:
    """What a model says of inputs.

    Raises:
        InputError: If it fails on them, as one with several inputs does; the text says what it was given.
    """
    try:
        return model(x)
    except _NOT_THEIRS:
        raise
    except Exception as error:
        raise InputError(
            f"the model fails on x alone, {x.dtype} {tuple(x.shape)}: {_said(error)}. Give inputs that it reads, and "
            "wrap one that takes more than these in a module that adds the rest"
        ) from error


@contextmanager
def explaining(method: str) -> Iterator[None]:
    """Within, an error of the model or of a library becomes ours, with the method's name and what it means.

    Raises:
        InputError: If there was one.
    """
    try:
        yield
    except _NOT_THEIRS:
        raise
    except Exception as error:
        raise InputError(f"{method} cannot explain this model: {_said(error)}") from error


def _said(error: Exception) -> str:
    """An error in one line, with what it means where that is known."""
    text = " ".join(str(error).split())
    hints = [hint for words, hint in _HINTS.items() if words in text]
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"{type(error).__name__}: {short}" + "".join(f" ({hint})" for hint in hints)


def as_read_by(model: Any, x: Tensor) -> Tensor:
    """Inputs on the model's device, floats in its dtype."""
    return x.to(device_of(model, x), parameter_dtype(model) if x.is_floating_point() else x.dtype)


def parameter_dtype(model: Any) -> torch.dtype:
    """Of the model's first floating parameter; float32 if it has none."""
    return next((p.dtype for p in parameters_of(model) if p.is_floating_point()), torch.float32)


def device_of(model: Any, x: Tensor) -> torch.device:
    """Where the model takes its inputs; where `x` is if it has no parameters."""
    return core_device_of(model) or x.device


def parameters_of(model: Any) -> Iterator[nn.Parameter]:
    """Parameters of a module; a function has none."""
    return model.parameters() if isinstance(model, nn.Module) else iter(())


def to_probabilities(values: Tensor, n: int, outputs: Outputs) -> Tensor:
    """Outputs of a model as probabilities, once they are what the caller says.

    Raises:
        InputError: If they are not; it says what to write instead.
    """
    if outputs not in ("logits", "probabilities"):
        raise InputError(f"outputs={outputs!r}: write 'logits' or 'probabilities', whichever the model returns")
    if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != n or values.shape[1] < 2:
        given = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"the model returned {given} for {n} inputs: expected a tensor ({n}, classes) with two classes or more; "
            "wrap it in a module that returns that"
        )
    check_finite(values, "the model's output")
    # Probabilities that were rounded to 8 or 11 bits do not sum to 1 any nearer.
    room = max(_SUM, torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0)
    values = exact(values)
    plain = values.detach()
    low, high = float(plain.min()), float(plain.max())
    summed = bool(((plain.sum(1) - 1).abs() < room).all())
    if outputs == "logits":
        if low >= 0 and high <= 1 and summed:
            raise InputError("the model returns rows in [0, 1] that sum to 1: write outputs='probabilities'")
        return values.softmax(1)
    if low < -room or high > 1 + room or not summed:
        raise InputError(
            f"the model returns values between {low:.3g} and {high:.3g} whose rows do not all sum to 1: write "
            "outputs='logits', or end the model in a softmax"
        )
    return values


def exact(values: Tensor) -> Tensor:
    """Outputs in float32 at least, so that no softmax is taken in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_model(model: nn.Module) -> None:
    """Refuse a model in training mode, whose answers depend on the batch and on chance."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}: expected a torch.nn.Module")
    if any(module.training for module in model.modules()):
        raise InputError("the model is in training mode, so its outputs depend on the batch: write model.eval() first")


def check_gradient(said: Tensor) -> None:
    """Refuse outputs of a model through which no gradient comes."""
    if not said.requires_grad:
        raise InputError(
            "the model's output has no gradient: give one that is differentiable, without no_grad, detach or argmax, "
            "or take a method that needs none, such as 'occlusion'"
        )


def check_in_memory(model: nn.Module) -> None:
    """Refuse to tune a copy of a model whose weights accelerate keeps elsewhere."""
    if any(p.device.type == "meta" for p in model.parameters()):
        raise InputError(
            "weights of the model are not in memory (offloaded or on the meta device), so no copy of it can be tuned: "
            "load it without offloading"
        )


def check_inputs(x: Tensor, *, images: bool = False) -> None:
    """Refuse what is no batch: float images `(n, channels, h, w)`, a table `(n, features)`, token ids `(n, tokens)`."""
    tokens = isinstance(x, Tensor) and x.ndim == 2 and x.dtype in (torch.int32, torch.int64) and not images
    if not isinstance(x, Tensor) or not (x.is_floating_point() or tokens):
        given = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x is {given}: expected a tensor of floats; for images of 0 to 255 write x.float() / 255")
    if x.ndim != 4 and (images or x.ndim != 2):
        wanted = "images (n, channels, h, w)" if images else "images (n, channels, h, w) or a table (n, features)"
        raise InputError(f"x has shape {tuple(x.shape)}: expected {wanted}; for one image write x[None]")
    if not x.numel():
        raise InputError(f"x has shape {tuple(x.shape)}: expected at least one input")
    check_finite(x.flatten(1), "x")


def check_maps(maps: Tensor, x: Tensor, name: str = "maps") -> None:
    """Refuse maps or masks that do not lie over the inputs cell by cell."""
    expected = (len(x), *x.shape[2:]) if x.ndim == 4 else tuple(x.shape)
    if tuple(maps.shape) != expected:
        hint = f"; for maps with channels write {name}.sum(1)" if maps.ndim == 4 else ""
        raise InputError(f"{name} have shape {tuple(maps.shape)} and x {tuple(x.shape)}: expected {expected}{hint}")


def check_labels(labels: Tensor, n: int, name: str = "labels") -> None:
    """Refuse labels that are not one class index an input."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (n,):
        given = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"{name} are {given}: expected a tensor of class indices ({n},), int64")


def check_classes(labels: Tensor, n: int, classes: int, name: str = "labels") -> None:
    """Refuse labels that are not one class of the model an input."""
    check_labels(labels, n, name)
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(
            f"{name} lie between {int(labels.min())} and {int(labels.max())}: expected 0 to {classes - 1}, "
            f"the {classes} classes of the model"
        )


def check_masks(masks: Tensor, n: int, *, proper: bool = False) -> None:
    """Refuse ground truth that is not boolean, or empty, or (if `proper`) everywhere."""
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        given = f"a tensor of {masks.dtype}" if isinstance(masks, Tensor) else type(masks).__name__
        raise InputError(f"truth is {given}: expected a boolean tensor (n, h, w); write truth > 0.5")
    if len(masks) != n or masks.ndim < 2:
        raise InputError(f"truth has shape {tuple(masks.shape)} for {n} maps: expected one mask a map")
    inside = masks.flatten(1)
    _refuse(~inside.any(1), "is empty", "leave those images out, e.g. keep = truth.flatten(1).any(1)")
    if proper:
        _refuse(inside.all(1), "covers the whole image", "leave those images out: nothing is outside to rank below it")


def _refuse(bad: Tensor, what: str, advice: str) -> None:
    if bool(bad.any()):
        first = ", ".join(map(str, bad.nonzero().flatten()[:5].tolist()))
        raise InputError(f"truth {what} in {int(bad.sum())} of {len(bad)} images (first: {first}): {advice}")
