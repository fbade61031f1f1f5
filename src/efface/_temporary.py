"""Temporary files and folders, which the next run sweeps where a process was killed before it could.

A name says whose it is: `.NAME-efface_HOST_PID_START_RANDOM.SUFFIX`; as long as its process lives there is a lock on
it. What is swept has such a name, lies where this process writes, is the user's own, of this host, of a process that is
no more (a number that was given to another since has another start), and without a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is swept: a process cannot be asked whether it lives without harm to it
    fcntl = None

_NAME = re.compile(r"\..*-efface_(?P<host>[0-9a-f]{8})_(?P<pid>[0-9]{1,10})_(?P<start>[0-9]{1,20})_[^.]*(\.[^.]*)?")
_MOST_OF_A_NAME = 40
_MACHINE = Path("/etc/machine-id")
_swept: set[str] = set()


@contextmanager
def temporary_file(folder: Path, name: str, suffix: str) -> Iterator[Path]:
    """An empty file of the user's alone, removed at the end if it is still there.

    Args:
        folder: Where.
        name: What its name begins with.
        suffix: What it ends with, so that writers that look at the suffix are not confused.
    """
    sweep(folder)
    handle, made = tempfile.mkstemp(prefix=_prefix(name), suffix=suffix, dir=folder)
    try:
        with _locked(handle):
            yield Path(made)
    finally:
        Path(made).unlink(missing_ok=True)


@contextmanager
def temporary_folder(folder: Path | None = None, name: str = "") -> Iterator[Path]:
    """An empty folder of the user's alone, removed at the end if it is still there.

    Args:
        folder: Where; None takes the system's folder for such.
        name: What its name begins with.
    """
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    sweep(folder)
    made = Path(tempfile.mkdtemp(prefix=_prefix(name), dir=folder))
    try:
        with _locked(None if fcntl is None else os.open(made, os.O_RDONLY)):
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sweep(folder: Path, *, again: bool = False) -> None:
    """Remove what processes of this user left in a folder when they were killed; once a process and folder.

    Args:
        folder: The folder.
        again: Whether to look once more, as processes may have been killed meanwhile.
    """
    if fcntl is None or ((where := os.path.abspath(folder)) in _swept and not again):
        return
    _swept.add(where)
    with contextlib.suppress(OSError):
        for entry in [*os.scandir(folder)]:
            if (found := _NAME.fullmatch(entry.name)) is not None and found["host"] == _host():
                _sweep_one(entry, int(found["pid"]), int(found["start"]))


def _sweep_one(entry: os.DirEntry[str], pid: int, start: int) -> None:
    with contextlib.suppress(OSError):
        about = entry.stat(follow_symlinks=False)
        ours = about.st_uid == os.geteuid() and (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode))
        if not ours or _lives(pid, start):
            return
        handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            assert fcntl is not None
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError if another process holds it
            if stat.S_ISDIR(about.st_mode):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
        finally:
            os.close(handle)


@contextmanager
def _locked(handle: int | None) -> Iterator[None]:
    """Hold a lock on an open file or folder, where the file system has locks; it is closed at the end."""
    if fcntl is None or handle is None:
        if handle is not None:
            os.close(handle)
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _prefix(name: str) -> str:
    return f".{name[:_MOST_OF_A_NAME]}-efface_{_host()}_{os.getpid()}_{_start(os.getpid()) or 0}_"


@cache
def _host() -> str:
    """A mark of this machine: its name, and the number that it was given when it was set up."""
    number = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        number = _MACHINE.read_text()
    return hashlib.sha256(f"{platform.node()} {number}".encode()).hexdigest()[:8]


def _lives(pid: int, start: int) -> bool:
    """Whether the process of that number is there, and is the one that began then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    now = _start(pid)
    return now is None or now == start


def _start(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; 0 if it is dead and not buried, None if nobody says."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
