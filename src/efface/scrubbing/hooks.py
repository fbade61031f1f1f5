"""Reading and replacing the hidden states at a site, by hooks that are always taken off again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

from efface._errors import InputError
from efface.scrubbing.sites import Site

Edit: TypeAlias = Callable[[Tensor], "Tensor | None"]
"""Takes hidden states; what it returns replaces them, unless that is None."""


def install(model: nn.Module, edits: Mapping[Site, Edit]) -> ExitStack:
    """Call `edits[site]` with the hidden states of every site in each forward pass, until the stack is closed.

    If anything goes wrong on the way, no hook stays.
    """
    with ExitStack() as stack:
        for site, edit in edits.items():
            stack.callback(_hook(model.get_submodule(site.path), site, edit).remove)
        return stack.pop_all()


@contextmanager
def hooked(model: nn.Module, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """`install` for the length of a `with` block."""
    with install(model, edits):
        yield


def _hook(module: nn.Module, site: Site, edit: Edit) -> Any:
    if site.where == "input":
        return module.register_forward_pre_hook(partial(_on_input, site, edit), with_kwargs=True)
    return module.register_forward_hook(partial(_on_output, site, edit))


def _on_output(site: Site, edit: Edit, _module: nn.Module, _args: Any, output: Any) -> Any:
    return edit_value(output, edit, site.index, site)


def _on_input(site: Site, edit: Edit, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return edit_inputs(args, kwargs, edit, site.index, site)


def edit_inputs(
    args: tuple[Any, ...], kwargs: dict[str, Any], edit: Edit, index: int | str | None = None, site: Any = None
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


def edit_value(value: Any, edit: Edit, index: int | str | None = None, site: Any = None) -> Any:
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


def _edit_mapping(value: Any, edit: Edit, index: int | str | None, site: Any) -> Any:
    keys = [key for key, item in value.items() if item is not None]
    key = index if isinstance(index, str) else keys[index or 0] if (index or 0) < len(keys) else None
    if key not in keys:
        raise InputError(f"{site} gives no field {index!r}: it gives {', '.join(map(repr, keys))}")
    changed = copy.copy(value)
    changed[key] = edit_value(value[key], edit, None, site)
    return changed


def _edit_sequence(value: Any, edit: Edit, index: int | str | None, site: Any) -> Any:
    if isinstance(index, str) or (index or 0) >= len(value):
        raise InputError(f"{site} gives {len(value)} values: there is none at index {index!r}")
    items = list(value)
    items[index or 0] = edit_value(value[index or 0], edit, None, site)
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _first_tensor(kwargs: Mapping[str, Any]) -> str | None:
    return next((name for name, value in kwargs.items() if isinstance(value, Tensor)), None)
