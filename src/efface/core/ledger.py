"""What efface has put on a thing, noted on the thing itself: it goes when the thing goes; copies have none of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_NAME = "_efface"
_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_LOCK = threading.RLock()  # what is collected within may ask for a ledger, too, as it comes off


class Ledger:
    """Notes about one thing.

    Attributes:
        handles: Erasures that are on it, the first first.
        written: Of a module: name of a parameter or buffer -> the edits that were written into it, the first first.
        patches: Name of an attribute -> what is over it.
    """

    def __init__(self, owner: Any) -> None:
        self.owner = id(owner)
        self.handles: list[Any] = []
        self.written: dict[str, list[Any]] = {}
        self.patches: dict[str, list[Any]] = {}

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __copy__(self) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


@contextmanager
def ledger_of(thing: Any) -> Iterator[Ledger]:
    """The ledger of a thing, for one thread at a time; one in which nothing is left is taken away again.

    A copy of the thing gets a ledger of its own.
    """
    with _LOCK:
        lock = _LOCKS.setdefault(thing, threading.RLock())
    with lock:
        own = vars(thing)
        ledger = own.get(_NAME)
        if not isinstance(ledger, Ledger) or ledger.owner != id(thing):
            ledger = own[_NAME] = Ledger(thing)
        try:
            yield ledger
        finally:
            if not (ledger.handles or ledger.written or ledger.patches) and own.get(_NAME) is ledger:
                del own[_NAME]
