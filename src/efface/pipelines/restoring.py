"""Running a pipeline without leaving anything behind in it, also when it fails, and whoever else is using it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

from efface.core.hooks import patched

_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_LOCK = threading.Lock()

# accelerate's own bookkeeping, which a call renews, and what is put on a pipeline from a callback of its call
_KEPT = ("hook", "offload", "encode_prompt", "_efface")


def lock_of(pipe: Any) -> threading.RLock:
    """The lock of a pipeline: whoever holds it has the pipeline's state to itself, among all that goes through efface.

    It can be taken again by the thread that holds it.
    """
    with _LOCK:
        return _LOCKS.setdefault(pipe, threading.RLock())


def twin_of(pipe: Any, parts: Mapping[str, Any]) -> Any:
    """A pipeline of the same parts, but for some: what is run on it sets no attribute of the pipeline itself.

    Args:
        pipe: The pipeline.
        parts: Name -> what stands for this component.
    """
    twin = object.__new__(type(pipe))
    vars(twin).update(vars(pipe))
    vars(twin).update(parts)
    return twin


@contextmanager
def standing_in(pipe: Any, method: Callable[..., Any], parts: Mapping[str, Any]) -> Iterator[Callable[..., Any]]:
    """A method of a pipeline that finds other parts in it, for the length of a block.

    The pipeline itself is left alone. Only where somebody put a function of his own on it in place of the method, which
    knows the pipeline and no twin, are the parts put into the pipeline.

    Args:
        pipe: The pipeline.
        method: The method, as looked up on the pipeline.
        parts: Name -> what stands for this component.
    """
    if getattr(method, "__self__", None) is pipe:
        yield MethodType(method.__func__, twin_of(pipe, parts))  # type: ignore[attr-defined]
        return
    with lock_of(pipe), ExitStack() as stack:
        for name, part in parts.items():
            stack.enter_context(patched(pipe, name, part))
        yield method


def copied(scheduler: Any) -> Any:
    """A scheduler with a state of its own."""
    twin = object.__new__(type(scheduler))
    vars(twin).update(_state(scheduler))
    return twin


def _state(scheduler: Any) -> dict[str, Any]:
    return {k: v if k == "_internal_dict" else copy.deepcopy(v) for k, v in vars(scheduler).items()}


@contextmanager
def preserved(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Put attributes of a pipeline and of its scheduler back as they were, when the block ends or fails.

    A call leaves its scale, its step and its progress bar in the pipeline and its timesteps and past outputs in the
    scheduler. Other threads that would preserve the same pipeline wait.
    """
    with lock_of(pipe):
        before, steps = dict(vars(pipe)), _state(scheduler)
        try:
            yield
        finally:
            _put_back(vars(pipe), before)
            vars(scheduler).clear()
            vars(scheduler).update(steps)


def _put_back(now: dict[str, Any], before: Mapping[str, Any]) -> None:
    for name in [n for n in now if not any(part in n for part in _KEPT)]:
        if name not in before:
            del now[name]
        elif now[name] is not before[name]:
            now[name] = before[name]


class StandIn:
    """Stands for a part of a pipeline and is called in its stead; hooks on the part are not run."""

    def __init__(self, part: Any, call: Callable[..., Any]) -> None:
        self._part, self._call = part, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the call gives instead."""
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)
