"""What an erasure is fitted to or put on: rows, a model, a pipeline or a classifier, and how efface reads it.

A room that knows a kind of subject registers an `Adapter`; everybody else asks `as_subject`, so that a view of a
subject is made once and passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

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
    """The module inside wrappers that pass its forward on: `torch.compile`, DataParallel, DDP, PEFT.

    >>> layer = nn.Linear(2, 2)
    >>> unwrapped(nn.DataParallel(layer)) is layer
    True
    """
    for inner in _layers(module):
        module = inner
    return module


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The module, and what each wrapper around the next is about."""
    while True:
        yield module
        inner = _inner(module)
        if inner is None:
            return
        module = inner


def _inner(module: nn.Module) -> nn.Module | None:
    names = {base.__name__ for base in type(module).__mro__}
    if "OptimizedModule" in names:
        found = getattr(module, "_orig_mod", None)
    elif names & {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"}:
        found = getattr(module, "module", None)
    elif "PeftModel" in names:
        found = module.get_base_model()  # type: ignore[operator]
    else:
        return None
    return found if isinstance(found, nn.Module) else None
