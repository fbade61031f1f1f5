"""What efface has put on a thing, noted on the thing itself: it goes when the thing goes; copies have none of it."""

from __future__ import annotations

import threading
from typing import Any

_NAME = "_efface"
_LOCK = threading.Lock()


class Ledger:
    """Notes about one thing.

    Attributes:
        handles: Erasures that are on it, the first first.
        written: Of a module: name of a parameter or buffer -> the edits that were written into it, the first first.
        patches: Name of an attribute -> what is over it.
        lock: Held while something goes on or comes off.
    """

    def __init__(self, owner: Any) -> None:
        self.owner = id(owner)
        self.handles: list[Any] = []
        self.written: dict[str, list[Any]] = {}
        self.patches: dict[str, list[Any]] = {}
        self.lock = threading.RLock()

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __copy__(self) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def ledger_of(thing: Any) -> Ledger:
    """The ledger of a thing; a copy of the thing gets one of its own."""
    own = vars(thing)
    with _LOCK:
        found = own.get(_NAME)
        if not isinstance(found, Ledger) or found.owner != id(thing):
            found = own[_NAME] = Ledger(thing)
        return found


def has_ledger(thing: Any) -> bool:
    """Whether anything was ever noted about a thing."""
    return isinstance(getattr(thing, "__dict__", {}).get(_NAME), Ledger)
