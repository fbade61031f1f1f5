"""Hooks that the room puts on modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn


def look_before(module: nn.Module, hook: Callable[..., Any]) -> Callable[[], None]:
    """Call `hook(module, args)` whenever a module is called, until the function that is returned is called."""
    return module.register_forward_pre_hook(hook).remove


def edit_call(module: nn.Module, where: Literal["input", "output"], change: Callable[..., Any]) -> Callable[[], None]:
    """Change what a module is given or gives, until the function that is returned is called.

    Args:
        module: The module.
        where: Before or after its forward pass.
        change: Before: `(module, args, kwargs) -> (args, kwargs) | None`; after: `(module, args, kwargs, output) ->
            output | None`. None changes nothing.
    """
    if where == "input":
        return module.register_forward_pre_hook(change, with_kwargs=True).remove
    return module.register_forward_hook(change, with_kwargs=True).remove
