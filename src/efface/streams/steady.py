"""Whether a file is still the one that was opened, while it is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from efface._errors import InputError


@dataclass(frozen=True)
class Stamp:
    """What a file was like when it was opened.

    Attributes:
        size: Bytes.
        changed: When it was last written to, in nanoseconds since 1970.
        inode: Which file it is, whatever it is called.
    """

    size: int
    changed: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """That of a file as it is now."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@contextmanager
def steady(path: Path, stamp: Stamp | None, where: str) -> Iterator[None]:
    """Within, a file is read that was looked at before: columns, rows and labels would not go together if it changed.

    Args:
        path: The file.
        stamp: What it was like; None if nobody knows.
        where: What to call it.

    Raises:
        InputError: If it is another one at the start or at the end, also in the place of the error that comes of it.
    """
    _check(path, stamp, where)
    try:
        yield
    except Exception as error:
        _check(path, stamp, where, error)
        raise
    _check(path, stamp, where)


def _check(path: Path, stamp: Stamp | None, where: str, error: Exception | None = None) -> None:
    try:
        now = None if stamp is None else Stamp.of(path)
    except FileNotFoundError as gone:
        raise InputError(f"{where} was removed while it was read: put it back and start again") from (error or gone)
    if stamp is None or now is None or now == stamp:
        return
    how = f"it had {stamp.size:,} bytes and has {now.size:,} now" if now.size != stamp.size else "it was written anew"
    raise InputError(f"{where} changed while it was read, {how}: start again when nobody writes to it") from error
