"""Running a pipeline without leaving anything behind in it, also when it fails."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_KEPT = ("hook", "offload")  # accelerate's own bookkeeping, which a call renews


@contextmanager
def preserved(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Put attributes of a pipeline and of its scheduler back as they were, when the block ends or fails.

    A call leaves its scale, its step and its progress bar in the pipeline and its timesteps and past outputs in the
    scheduler.
    """
    before = dict(vars(pipe))
    steps = {k: v if k == "_internal_dict" else copy.deepcopy(v) for k, v in vars(scheduler).items()}
    try:
        yield
    finally:
        now = vars(pipe)
        for name in [n for n in now if not _kept(n)]:
            if name not in before:
                del now[name]
            elif now[name] is not before[name]:
                now[name] = before[name]
        vars(scheduler).clear()
        vars(scheduler).update(steps)


def _kept(name: str) -> bool:
    return any(part in name for part in _KEPT)


@contextmanager
def replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of one object, put past its `__setattr__`, for the length of a block."""
    own = vars(thing)
    missing = object()
    before = own.get(name, missing)
    own[name] = value
    try:
        yield
    finally:
        if before is missing:
            own.pop(name, None)
        else:
            own[name] = before
