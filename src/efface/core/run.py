"""What belongs to one erasure on one subject: what fired, and what an edit keeps from step to step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from efface.core.subjects import Subject

KEPT = 1000
"""How many calls a log keeps; counts go on."""


class Log:
    """What an erasure did while it was on, as plain data.

    Attributes:
        counts: Event -> how often.
        calls: What was noted of each call of an edit, the latest last; the last thousand are kept.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.calls: deque[Any] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    @property
    def last(self) -> Any:
        """What was noted of the last call; None before the first."""
        return self.calls[-1] if self.calls else None

    def count(self, event: str, n: int = 1) -> None:
        """Note that something happened `n` times."""
        with self._lock:
            self.counts[event] = self.counts.get(event, 0) + n

    def note(self, call: Any) -> None:
        """Note what was done in a call; plain data."""
        with self._lock:
            self.calls.append(call)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        with self._lock:
            return {"counts": dict(self.counts), "calls": list(self.calls)}

    def __repr__(self) -> str:
        return f"Log({self.counts}, {len(self.calls)} calls)"


class Run:
    """One erasure on one subject.

    Attributes:
        subject: What it is on.
        log: What it did.
        shared: What edits keep for all threads.
    """

    def __init__(self, subject: Subject, name: str = "", log: Log | None = None) -> None:
        self.subject, self.name, self.log = subject, name, Log() if log is None else log
        self.shared: dict[Any, Any] = {}
        self._local = threading.local()

    @property
    def view(self) -> Any:
        """The subject as efface reads it."""
        return self.subject.view

    @property
    def memory(self) -> dict[Any, Any]:
        """What edits keep from step to step; each thread has its own."""
        if not hasattr(self._local, "memory"):
            self._local.memory = {}
        return self._local.memory

    def count(self, event: str, n: int = 1) -> None:
        """Note that something happened `n` times."""
        self.log.count(event, n)

    def note(self, call: Mapping[str, Any] | list[Any]) -> None:
        """Note what was done in a call; plain data."""
        self.log.note(call)
