"""Ctrl-C that waits until something is whole, and Ctrl-C that is not lost where a library catches it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_watches: list[list[BaseException]] = []
"""What each `insisted` around the code that runs now has seen raised, innermost last."""


def _handler() -> Callable[[int, FrameType | None], object] | None:
    """What SIGINT calls, if this is the thread that gets it."""
    usual = signal.getsignal(signal.SIGINT)
    return usual if threading.current_thread() is threading.main_thread() and callable(usual) else None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within, SIGINT is only noted; at the end it does what it would have done.

    Between putting a hook on and noting that it is there, an interrupt would leave it behind. Python hands signals to
    the main thread alone, so nothing is to be done in others.
    """
    usual = _handler()
    if usual is None:
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    try:
        signal.signal(signal.SIGINT, note)
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def insisted() -> Iterator[None]:
    """Within, what SIGINT raises cannot be swallowed: it is raised again at the end, whatever a library made of it.

    scikit-learn's networks catch a Ctrl-C and return half-trained; others turn it into an error of their own. A
    handler of the caller that raises nothing is taken at its word.
    """
    usual = _handler()
    if usual is None:
        yield
        return
    came: list[BaseException] = []

    def watch(number: int, frame: FrameType | None) -> None:
        try:
            usual(number, frame)
        except BaseException as raised:
            came.append(raised)
            raise

    signal.signal(signal.SIGINT, watch)
    _watches.append(came)
    try:
        yield
    except Exception as error:
        if came:
            raise came[0] from error
        raise
    finally:
        _watches.pop()
        signal.signal(signal.SIGINT, usual)
    if came:
        raise came[0]


def raise_swallowed() -> None:
    """Raise what a library swallowed within `insisted`: to be asked before anything is made final, such as a file.

    Not while that interrupt is on its way out, so that who tidies up behind it still can.
    """
    on_its_way = sys.exc_info()[1]
    for came in _watches:
        if came and on_its_way is None:
            raise came[0]
