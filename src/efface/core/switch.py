"""What is so within a block, for the thread or task that runs it, and as before behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


@contextmanager
def switched_on(switch: ContextVar[bool]) -> Iterator[None]:
    """The switch is on within the block, also where it is left by an error.

    >>> quiet = ContextVar("quiet", default=False)
    >>> with switched_on(quiet):
    ...     quiet.get()
    True
    >>> quiet.get()
    False
    """
    token = switch.set(True)
    try:
        yield
    finally:
        switch.reset(token)
