"""Every hook and every patched attribute of efface is put on, and taken off, here.

Edits of one module share one hook, a `Station`, which runs before all other hooks of that module, so that whoever
else looks (transformers' own `output_hidden_states`, a user's hook) sees what was erased; among themselves they run in
the order in which they were put on. Hooks that only look come after it.
"""

from __future__ import annotations

import copy
import sys
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from efface._errors import EffaceWarning, InputError
from efface.core.ledger import ledger_of
from efface.core.switch import switched_on

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

    def leaving(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> Any:
        return edit_value(output, edit, index, name)

    def entering(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return edit_inputs(args, kwargs, edit, index, name)

    return edit_call(module, where, entering if where == "input" else leaving)


def edit_call(module: nn.Module, where: Where, change: Callable[..., Any]) -> Remove:
    """Change what a module is given or gives as a whole.

    Args:
        module: The module.
        where: Before or after its forward pass.
        change: Before: `(module, args, kwargs) -> (args, kwargs) | None`; after: `(module, args, kwargs, output) ->
            output | None`. None changes nothing.
    """
    with _LOCK:
        station = _station(module, where) or Station(module, where)
        return station.add(change)


def _station(module: nn.Module, where: str) -> Station | None:
    hooks = module._forward_pre_hooks if where == "input" else module._forward_hooks
    for hook in hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Station):
            return owner
    return None


class Station:
    """The one hook that all edits of a module's inputs, or outputs, go through."""

    def __init__(self, module: nn.Module, where: Where) -> None:
        self.changes: dict[int, Callable[..., Any]] = {}
        self._count = 0
        if where == "input":
            handle = module.register_forward_pre_hook(self.entering, with_kwargs=True, prepend=True)
        else:
            handle = module.register_forward_hook(self.leaving, with_kwargs=True, prepend=True)
        self._offs = (handle.remove, module.register_state_dict_post_hook(tell_saving).remove)

    def __deepcopy__(self, memo: Any) -> Station:
        twin = memo[id(self)] = object.__new__(Station)
        vars(twin).update(changes=copy.deepcopy(self.changes, memo), _count=self._count, _offs=())
        return twin

    def __reduce__(self) -> NoReturn:
        raise not_pickled("model")

    def add(self, change: Callable[..., Any]) -> Remove:
        """Put a change behind those that are there; the last one that is taken off takes the hook along."""
        self._count += 1
        number = self._count
        self.changes[number] = change

        def remove() -> None:
            with _LOCK:
                if self.changes.pop(number, None) is not None and not self.changes:
                    for off in self._offs:
                        off()

        return remove

    def entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The pre-hook."""
        if is_resting():
            return None
        changed = None
        for change in tuple(self.changes.values()):
            found = change(module, args, kwargs)
            if found is not None:
                changed = args, kwargs = found
        return changed

    def leaving(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook."""
        if is_resting():
            return None
        changed = None
        for change in tuple(self.changes.values()):
            found = change(module, args, kwargs, output)
            if found is not None:
                changed = output = found
        return changed


def not_pickled(what: str) -> InputError:
    """The error of who pickles a thing whole, as `torch.save(model)` does, while edits are on it."""
    return InputError(
        f"an erasure is on this {what}, which cannot be pickled with it: undo() its handle first, or save the weights "
        "alone, torch.save(model.state_dict(), file), and the erasure beside them, erasure.save(folder)"
    )


_RESTING: ContextVar[bool] = ContextVar("resting", default=False)


@contextmanager
def resting() -> Iterator[None]:
    """No edit is made in this thread's calls within, and nobody looks for any: models run as they are without."""
    with switched_on(_RESTING):
        yield


def is_resting() -> bool:
    """Whether edits rest in this thread."""
    return not torch.compiler.is_compiling() and _RESTING.get()


_SILENT: ContextVar[bool] = ContextVar("silent", default=False)
_TOLD: ContextVar[Any] = ContextVar("told", default=None)


def tell_saving(module: nn.Module, state: Any, _prefix: str, _more: Any) -> None:
    """A hook on `state_dict`: warn who takes weights of a module, or what it is a part of, that no edit is in them."""
    told = _TOLD.get()
    if _SILENT.get() or (told is not None and told() is state):  # one of its other parts has
        return
    _TOLD.set(weakref.ref(state) if isinstance(state, OrderedDict) else None)
    warnings.warn(
        f"weights are taken of a {type(module).__name__} that an erasure is on, which is not in them: save the "
        "erasure, too, and put it on what is loaded, efface.load(folder).on(loaded)",
        EffaceWarning,
        stacklevel=3,
    )


@contextmanager
def silently() -> Iterator[None]:
    """Nobody is told within that weights are taken without the edits: it has been said, or is meant."""
    with switched_on(_SILENT):
        yield


def edits_on(module: nn.Module) -> int:
    """How many edits a module has on it now, those of its parts included."""
    places = [(part, where) for part in module.modules() for where in ("input", "output")]
    return sum(len(s.changes) for part, where in places if (s := _station(part, where)) is not None)


def compiled_frames() -> dict[str, int]:
    """What `torch.compile` has made code of in this process; hooks that come later are not in that code."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return {} if dynamo is None else dynamo.counters["frames"]


# ------------------------------------------------------------------------------------------------ attributes


_MISSING = object()


def patch(thing: Any, name: str, value: Any) -> Remove:
    """Put an attribute on one object, past its `__setattr__`, until the function that is returned is called.

    Patches of one attribute come off in any order, and what somebody else has put over one of them stays.
    """
    own = vars(thing)
    with ledger_of(thing) as ledger:
        entry = [value, own.get(name, _MISSING)]  # what is put there, and what it lies on
        ledger.patches.setdefault(name, []).append(entry)
        own[name] = value

    def remove() -> None:
        with ledger_of(thing) as ledger:
            left = ledger.patches.get(name, [])
            if not any(each is entry for each in left):
                return
            left[:] = [each for each in left if each is not entry]
            _take_out(own, name, entry, left)
            if not left:
                del ledger.patches[name]

    return remove


def _take_out(own: dict[str, Any], name: str, entry: list[Any], left: list[list[Any]]) -> None:
    """Show what a patch lay on, or let the patch over it lie on that."""
    value, below = entry
    over = next((each for each in left if each[1] is value), None)
    if over is not None:
        over[1] = below
    elif own.get(name) is value:
        if below is _MISSING:
            del own[name]
        else:
            own[name] = below


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
