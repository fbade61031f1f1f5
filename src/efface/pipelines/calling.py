"""Which pipeline is calling: parts are shared between pipelines, and what is on one must not react to another."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def caller_of(part: Any) -> Any:
    """The innermost pipeline in whose call the present thread is, and which has a part; None if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__call__" and code.co_argcount:
            found = frame.f_locals.get(code.co_varnames[0])
            parts = getattr(found, "components", None)
            if isinstance(parts, Mapping) and any(each is part for each in parts.values()):
                return found
        frame = frame.f_back
    return None


def calling(pipe: Any) -> bool:
    """Whether the present thread is inside this pipeline's own call, at whatever depth.

    >>> class Pipe:
    ...     def __call__(self, run):
    ...         return run()
    >>> pipe = Pipe()
    >>> pipe(lambda: calling(pipe)), Pipe()(lambda: calling(pipe)), calling(pipe)
    (True, False, False)
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        # Reading locals costs more than reading names, so names come first.
        if code.co_name == "__call__" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is pipe:
            return True
        frame = frame.f_back
    return False
