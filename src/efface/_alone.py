"""One process at a time in a folder that is written step by step: two would remove each other's parts.

The lock is on the folder itself, so that nothing is left in it, and ends with the process, however that ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from efface._errors import InputError

try:
    import fcntl
except ImportError:  # Windows: folders cannot be opened, and nothing is checked
    fcntl = None

_held: set[int] = set()


@contextmanager
def alone(folder: Path | None, what: str) -> Iterator[None]:
    """Nobody else is in the folder, until the block ends; where there is none yet it is made.

    Args:
        folder: Where; None is nowhere.
        what: What is going on, for the error.

    Raises:
        InputError: If another process, or another thread of this one, is in it. Nothing was changed then.

    Does not guarantee: anything on Windows, or where a file system has no locks (some network shares).
    """
    if folder is None or fcntl is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    _held.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another {what} is at work in {folder}: wait until it ends and go on from what it leaves, or name "
                "another folder"
            ) from None
        except OSError:  # no locks here
            pass
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _let_go() -> None:
    """In a copy of the process, which must not hold what the first one held if that is killed."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
