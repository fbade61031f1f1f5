"""Every hook and every patched attribute of efface is put on, and taken off, here.

Edits of one module share one hook, a `Station`, which runs before all other hooks of that module, so that whoever
else looks (transformers' own `output_hidden_states`, a user's hook) sees what was erased; among themselves they run in
the order in which they were put on. Hooks that only look come after it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from efface._errors import InputError

Where = Literal["input", "output"]
Index: TypeAlias = int | str | None
"""Which of several values: a position, or the name of a field or keyword; None takes the hidden states."""

StateEdit: TypeAlias = Callable[[Tensor], "Tensor | None"]
"""Takes hidden states; what it returns replaces them, unless that is None."""

Remove: TypeAlias = Callable[[], None]
"""Takes off what was put on; a second call does nothing."""

_LOCK = threading.RLock()


def look(module: nn.Module, hook: Callable[..., Any], *, kwargs: bool = False) -> Remove:
    """A forward hook: called with what a module was given and gives, after all edits of it."""
    return module.register_forward_hook(hook, with_kwargs=kwargs).remove


def look_before(module: nn.Module, hook: Callable[..., Any], *, kwargs: bool = False, first: bool = False) -> Remove:
    """A forward pre-hook: called with what a module is given; `first` puts it before all edits."""
    return module.register_forward_pre_hook(hook, with_kwargs=kwargs, prepend=first).remove


def edit_states(
    module: nn.Module, edit: StateEdit, *, where: Where = "output", index: Index = None, name: Any = None
) -> Remove:
    """Replace the hidden states that a module gives or is given, in every forward pass until it is taken off.

    Args:
        module: The module.
        edit: Takes the hidden states `(..., d)`.
        where: What the module gives, or what it is given.
        index: Which of several values.
        name: What the place is called in errors.
    """
    return edit_call(module, where, _EDITS[where](edit, index, name))


def edit_call(module: nn.Module, where: Where, change: Callable[..., Any]) -> Remove:
    """Change what a module is given or gives as a whole.

    Args:
        module: The module.
        where: Before or after its forward pass.
        change: Before: `(module, args, kwargs) -> (args, kwargs) | None`; after: `(module, args, kwargs, output) ->
            output | None`. None changes nothing.
    """
    with _LOCK:
        stations = _STATIONS.setdefault(module, {})
        if where not in stations:
            stations[where] = Station(module, where)
        return stations[where].add(change, lambda: stations.pop(where, None))


class Station:
    """The one hook that all edits of a module's inputs, or outputs, go through."""

    def __init__(self, module: nn.Module, where: Where) -> None:
        self.changes: dict[int, Callable[..., Any]] = {}
        self._count = 0
        if where == "input":
            handle = module.register_forward_pre_hook(self.entering, with_kwargs=True, prepend=True)
        else:
            handle = module.register_forward_hook(self.leaving, with_kwargs=True, prepend=True)
        self._off = handle.remove

    def add(self, change: Callable[..., Any], emptied: Callable[[], Any]) -> Remove:
        """Put a change behind those that are there; the last one that is taken off takes the hook along."""
        self._count += 1
        number = self._count
        self.changes[number] = change

        def remove() -> None:
            with _LOCK:
                if self.changes.pop(number, None) is not None and not self.changes:
                    self._off()
                    emptied()

        return remove

    def entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The pre-hook."""
        changed = None
        for change in tuple(self.changes.values()):
            found = change(module, args, kwargs)
            if found is not None:
                changed = args, kwargs = found
        return changed

    def leaving(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook."""
        changed = None
        for change in tuple(self.changes.values()):
            found = change(module, args, kwargs, output)
            if found is not None:
                changed = output = found
        return changed


_STATIONS: WeakKeyDictionary[nn.Module, dict[str, Station]] = WeakKeyDictionary()


def edits_on(module: nn.Module) -> int:
    """How many edits a module has on it now, those of its parts included."""
    return sum(len(s.changes) for part in module.modules() for s in _STATIONS.get(part, {}).values())


def _leaving(edit: StateEdit, index: Index, name: Any) -> Callable[..., Any]:
    return lambda _module, _args, _kwargs, output: edit_value(output, edit, index, name)


def _entering(edit: StateEdit, index: Index, name: Any) -> Callable[..., Any]:
    return lambda _module, args, kwargs: edit_inputs(args, kwargs, edit, index, name)


_EDITS: dict[str, Callable[..., Any]] = {"input": _entering, "output": _leaving}


# ------------------------------------------------------------------------------------------------ attributes


_MISSING = object()
_PATCHES: dict[tuple[int, str], _Patches] = {}


def patch(thing: Any, name: str, value: Any) -> Remove:
    """Put an attribute on one object, past its `__setattr__`, until the function that is returned is called.

    Patches of one attribute come off in any order: the last of those that are left is seen, in the end what was there.
    """
    with _LOCK:
        patches = _PATCHES.setdefault((id(thing), name), _Patches(thing, name))
        return patches.add(value)


class _Patches:
    """The values that are put over one attribute of one object."""

    def __init__(self, thing: Any, name: str) -> None:
        self.thing, self.name, self.values = thing, name, []
        self.before = vars(thing).get(name, _MISSING)

    def add(self, value: Any) -> Remove:
        self.values.append(value)
        vars(self.thing)[self.name] = value

        def remove() -> None:
            with _LOCK:
                place = next((i for i, known in enumerate(self.values) if known is value), None)
                if place is not None:
                    del self.values[place]
                    self._show(value)

        return remove

    def _show(self, gone: Any) -> None:
        own = vars(self.thing)
        if own.get(self.name) is gone:  # otherwise it is under another one, or was replaced by somebody else
            left = self.values[-1] if self.values else self.before
            if left is _MISSING:
                del own[self.name]
            else:
                own[self.name] = left
        if not self.values:
            _PATCHES.pop((id(self.thing), self.name), None)


@contextmanager
def patched(thing: Any, name: str, value: Any) -> Iterator[None]:
    """`patch` for the length of a block."""
    remove = patch(thing, name, value)
    try:
        yield
    finally:
        remove()


# -------------------------------------------------------------------------------- values that modules pass on


def edit_inputs(
    args: tuple[Any, ...], kwargs: dict[str, Any], edit: StateEdit, index: Index = None, site: Any = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a module with its hidden states edited.

    They are the first argument, or, as recent transformers pass them, the keyword `hidden_states`, or else the first
    tensor among the keywords.

    Raises:
        InputError: If there are none at `index`.
    """
    if isinstance(index, str) or (index is None and not args):
        name = index or ("hidden_states" if "hidden_states" in kwargs else _first_tensor(kwargs))
        if name is None or name not in kwargs:
            raise InputError(f"{site} is passed no tensor {index or ''} by keyword: it gets {sorted(kwargs)}")
        return args, {**kwargs, name: edit_value(kwargs[name], edit, None, site)}
    position = index or 0
    if position >= len(args):
        raise InputError(f"{site} gets {len(args)} arguments by position: there is none at {position}")
    return (*args[:position], edit_value(args[position], edit, None, site), *args[position + 1 :]), kwargs


def edit_value(value: Any, edit: StateEdit, index: Index = None, site: Any = None) -> Any:
    """An output with its hidden states edited: a tensor, a (named) tuple, a list, or a mapping such as a ModelOutput.

    Args:
        value: What a module gave; not changed.
        edit: Takes the hidden states.
        index: Position or field; None takes the first.
        site: Named in errors.

    Raises:
        InputError: If there is no tensor at `index`.

    >>> import torch
    >>> edit_value((torch.ones(2), "cache"), lambda x: x * 3)
    (tensor([3., 3.]), 'cache')
    """
    if isinstance(value, Tensor):
        if index not in (None, 0):
            raise InputError(f"{site} gives a single tensor, so there is none at index {index!r}: leave the index out")
        edited = edit(value)
        return value if edited is None else edited
    if isinstance(value, Mapping):
        return _edit_mapping(value, edit, index, site)
    if isinstance(value, (tuple, list)):
        return _edit_sequence(value, edit, index, site)
    raise InputError(f"{site} gives a {type(value).__name__}, in which no hidden states are known: choose another site")


def _edit_mapping(value: Any, edit: StateEdit, index: Index, site: Any) -> Any:
    keys = [key for key, item in value.items() if item is not None]
    key = index if isinstance(index, str) else keys[index or 0] if (index or 0) < len(keys) else None
    if key not in keys:
        raise InputError(f"{site} gives no field {index!r}: it gives {', '.join(map(repr, keys))}")
    changed = copy.copy(value)
    changed[key] = edit_value(value[key], edit, None, site)
    return changed


def _edit_sequence(value: Any, edit: StateEdit, index: Index, site: Any) -> Any:
    if isinstance(index, str) or (index or 0) >= len(value):
        raise InputError(f"{site} gives {len(value)} values: there is none at index {index!r}")
    items = list(value)
    items[index or 0] = edit_value(value[index or 0], edit, None, site)
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _first_tensor(kwargs: Mapping[str, Any]) -> str | None:
    return next((name for name, value in kwargs.items() if isinstance(value, Tensor)), None)
