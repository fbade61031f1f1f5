"""What an erasure is fitted to or put on: rows, a model, a pipeline or a classifier, and how efface reads it.

A room that knows a kind of subject registers an `Adapter`; everybody else asks `as_subject`, so that a view of a
subject is made once and passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from efface._errors import InputError
from efface.core.discovery import discover

Kind = Literal["rows", "model", "pipeline", "classifier"]
KINDS: tuple[Kind, ...] = ("rows", "model", "pipeline", "classifier")
"""Rows of an array; a module with sites; a text-to-image or video pipeline; a classifier (a module, too)."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A thing that an erasure is about.

    Attributes:
        kind: What it is.
        thing: What the caller has.
        view: What efface reads it through: the thing itself, or a `PipelineView`.
    """

    kind: Kind
    thing: Any
    view: Any

    def __repr__(self) -> str:
        return f"{self.kind} {type(self.thing).__name__}"


@dataclass(frozen=True)
class Adapter:
    """How one kind of subject is recognised and read.

    Attributes:
        kind: The kind.
        matches: Whether a thing, or a view of one, is such a subject.
        view: A thing, or a view of it, -> the view.
        thing: A view -> the thing.
    """

    kind: Kind
    matches: Callable[[Any], bool]
    view: Callable[[Any], Any]
    thing: Callable[[Any], Any]


_ADAPTERS: list[Adapter] = []


def register_subject(adapter: Adapter) -> Adapter:
    """Let `as_subject` know a kind of subject; those that were registered last are asked first."""
    _ADAPTERS.insert(0, adapter)
    return adapter


def as_subject(thing: Any) -> Subject:
    """A thing as a subject.

    Args:
        thing: An array, an `nn.Module`, a diffusers pipeline, or a view of one, which is taken as it is.

    Raises:
        InputError: If it is none of these.

    >>> as_subject(nn.Linear(2, 2)).kind, as_subject([[1.0, 2.0]]).kind
    ('model', 'rows')
    """
    if isinstance(thing, Subject):
        return thing
    discover()
    for adapter in _ADAPTERS:
        if adapter.matches(thing):
            view = adapter.view(thing)
            return Subject(adapter.kind, adapter.thing(view), view)
    raise InputError(
        f"a {type(thing).__name__} is nothing that efface erases from: give an array of numbers `(n, d)`, a PyTorch "
        "module, or a diffusers pipeline"
    )


def _is_rows(thing: Any) -> bool:
    marks = ("__array__", "__array_interface__", "toarray")  # the last one of sparse matrices
    return isinstance(thing, (list, tuple)) or (
        not isinstance(thing, type) and any(hasattr(thing, mark) for mark in marks)
    )


def _itself(thing: Any) -> Any:
    return thing


register_subject(Adapter("rows", _is_rows, _itself, _itself))
register_subject(Adapter("model", lambda thing: isinstance(thing, nn.Module), _itself, _itself))


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside wrappers that pass its forward on: `torch.compile`, DataParallel, DDP, FSDP, PEFT.

    >>> layer = nn.Linear(2, 2)
    >>> unwrapped(nn.DataParallel(layer)) is layer
    True
    """
    return [*_layers(module)][-1]


def is_spread(model: nn.Module) -> bool:
    """Whether parts of its parameters lie in other processes: `DTensor`s, as of FSDP 2 and of tensor parallel."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def called(module: nn.Module) -> nn.Module:
    """The innermost module that is called when a module is, so that hooks on it run: PEFT only calls `forward`."""
    while (where := wraps(type(module))) not in (None, "base_model"):
        module = getattr(module, where)
    return module


def module_at(model: nn.Module, path: str) -> nn.Module:
    """A module by its path in the bare model, through whatever is wrapped around it and the parts on the way.

    Raises:
        AttributeError: If there is none.

    >>> model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    >>> model[0] = nn.DataParallel(model[0])
    >>> module_at(model, "0.0")
    Linear(in_features=2, out_features=2, bias=True)
    """
    try:
        model = model.get_submodule(path)
    except AttributeError:
        for name in path.split("."):
            model = next((layer for layer in _layers(model) if name in layer._modules), model).get_submodule(name)
    return called(model) if wraps(type(model)) else model


def device_of(model: Any) -> torch.device | None:
    """Where a model takes its inputs; None for one that has no weights in memory, or is no module.

    Of a model that accelerate keeps elsewhere it is where that runs it, not where its empty parameters are.

    >>> device_of(nn.Linear(1, 1)), device_of(nn.Linear(1, 1, device="meta"))
    (device(type='cpu'), None)
    """
    if not isinstance(model, nn.Module):
        return None
    hook: Any = getattr(model, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))
    runs = next((device for h in hooks if (device := getattr(h, "execution_device", None)) is not None), None)
    own = (p.device for p in model.parameters())
    places = (getattr(model, "device", None), None if runs is None else torch.device(runs), *own)
    return next((p for p in places if isinstance(p, torch.device) and p.type != "meta"), None)


def base_path(model: nn.Module) -> str:
    """Path of a model of Hugging Face without its head, such as `"model"`; empty if it has no head."""
    prefix = getattr(model, "base_model_prefix", "")
    return prefix if prefix and isinstance(getattr(model, prefix, None), nn.Module) else ""


def located(model: nn.Module, path: str) -> str:
    """A path of a model with a head, or without one, in the same model without its head, or with one.

    >>> model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(1, 1))})
    >>> model.base_model_prefix = "body"
    >>> located(model, "0"), located(model, "body.0"), located(model.body, "0")
    ('body.0', 'body.0', '0')
    """
    prefix = getattr(model, "base_model_prefix", "")
    ways = (path, f"{base_path(model)}.{path}", path.removeprefix(f"{prefix}."))
    return next((way for way in ways if has_module(model, way)), path)


def has_module(model: nn.Module, path: str) -> bool:
    """Whether a model has a module at a path; see `module_at`."""
    try:
        return module_at(model, path) is not None
    except (AttributeError, RuntimeError):  # what is scripted says that it cannot be asked
        return False


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The module, and what each wrapper around the next is about."""
    yield module
    while where := wraps(type(module)):
        module = module.get_base_model() if where == "base_model" else getattr(module, where)  # type: ignore[operator]
        yield module


_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "PeftModel": "base_model",
}
"""Name of a class -> where it has what it is wrapped around."""


@cache
def wraps(kind: type) -> str | None:
    """Where modules of a class have what they are wrapped around; None if they are no wrappers."""
    return next((_WRAPPERS[base.__name__] for base in kind.__mro__ if base.__name__ in _WRAPPERS), None)
