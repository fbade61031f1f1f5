"""Leaving `torch.inference_mode()` at a door: what is made in it can be in no gradient.

Functions that take gradients of a model, or make what others may take gradients through, are `@outside_inference`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
T = TypeVar("T")
_DEEPEST = 20


def outside_inference(function: Callable[P, T]) -> Callable[P, T]:
    """A function that runs outside inference mode, on arguments that may be in a gradient.

    Tensors that were made in inference mode are copied; a model whose weights were has copies of them meanwhile.

    >>> with torch.inference_mode():
    ...     x = torch.ones(2)
    ...     made = outside_inference(lambda x: x.view(2))(x)
    >>> x.is_inference(), made.is_inference()
    (True, False)
    """
    call: Callable[..., T] = function

    @functools.wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(False), ExitStack() as stack:
            for value in (*args, *kwargs.values()):
                if isinstance(value, nn.Module):
                    stack.enter_context(ordinary_weights(value))
            return call(*ordinary(args), **ordinary(kwargs))

    return outside


def ordinary(value: Any) -> Any:
    """A tensor, or those in tuples, lists and mappings, with copies of what was made in inference mode."""
    return _ordinary(value, 0)


def _ordinary(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor):
        return _copied(value) if value.is_inference() else value
    if depth > _DEEPEST:  # a list in itself, say
        return value
    if type(value) in (tuple, list):
        return type(value)(_ordinary(each, depth + 1) for each in value)
    return {key: _ordinary(each, depth + 1) for key, each in value.items()} if type(value) is dict else value


@contextmanager
def ordinary_weights(model: nn.Module) -> Iterator[None]:
    """A model with copies of the parameters and buffers that were made in inference mode; they come back at the end."""
    copies: dict[int, Tensor] = {}
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    for module in model.modules():
        own: Mapping[str, Any]
        for own in (module._parameters, module._buffers):
            replaced += [(own, name, x) for name, x in own.items() if x is not None and x.is_inference()]  # type: ignore[misc]
    try:
        for own, name, x in replaced:
            own[name] = copies.setdefault(id(x), _copied(x))
        yield
    finally:
        for own, name, x in replaced:
            own[name] = x


def _copied(x: Tensor) -> Tensor:
    with torch.inference_mode(False):
        made = x.detach().clone()
        return nn.Parameter(made, requires_grad=x.requires_grad) if isinstance(x, nn.Parameter) else made
