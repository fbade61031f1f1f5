"""A fit that was interrupted goes on from its last checkpoint, with the same result: one format for every fit.

A checkpoint is a folder: `checkpoint.json` (settings, position, and which folder holds which part) and a folder
`state-<n>` for each part. Parts go to new folders before `checkpoint.json` is pointed to them, so that all agree
whenever the process dies. Nothing read from the file is used as a path unless it is a name that is written here, and
nothing is removed that was in the folder before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from efface._errors import FormatError, InputError
from efface._io import FORMAT_VERSION, as_path, read_json, write_json
from efface.core.codec import fields_of

FILE = "checkpoint.json"
SECONDS = 30.0
"""Least time between two writings, where nothing else is said."""

Save = Callable[[Path], Any]
"""Writes a part into the folder that it is given."""

_STATE = re.compile(r"state-([1-9][0-9]{0,8})")
_TORN = re.compile(r"\.(state-[1-9][0-9]{0,8})-[a-z0-9_]+")  # what `atomic_dir` was at when the process was killed
_ABSENT = object()
_MOST = 10**9
_DAMAGE = (
    *(FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError),
    *(IndexError, OverflowError, RuntimeError),
)
"""What reading data of another form ends in."""


class DamagedError(FormatError, InputError):
    """A checkpoint that cannot be read."""


class Checkpoint:
    """The state of a fit in a folder.

    Args:
        folder: Where to keep it; None keeps nothing.
        settings: What must be the same when the fit goes on; plain data.
        what: What is going on, for errors: `"fit"`, `"recipe"`.
        seconds: Least time between two writings that are `due`; None takes `SECONDS`.
        elsewhere: What to do instead of deleting a checkpoint of another fit.

    Raises:
        InputError: If the folder holds the state of another fit; the text says in which settings it differs.
        DamagedError: If it holds a checkpoint that cannot be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        settings: Mapping[str, Any],
        *,
        what: str = "fit",
        seconds: float | None = None,
        elsewhere: str = "name another folder",
    ) -> None:
        self._folder = None if folder is None else as_path(folder, "checkpoint")
        self._settings = {} if folder is None else json.loads(json.dumps(settings))
        self._seconds, self._last = SECONDS if seconds is None else seconds, time.monotonic()
        self._position: dict[str, Any] | None = None
        self._parts: dict[str, str] = {}
        self._first, self._next = 0, 0  # numbers of folders: the first that is ours, the next to write; 0 before any
        if self._folder is not None and (self._folder / FILE).is_file():
            theirs = self._read(self._folder / FILE)
            if self.found:
                self._check(theirs, what, elsewhere)

    @property
    def found(self) -> bool:
        """Whether there is a state to go on from."""
        return self._position is not None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that are kept."""
        return tuple(self._parts)

    @contextmanager
    def reading(self) -> Iterator[dict[str, Any]]:
        """The position, while it and the parts are read; what goes wrong then is damage.

        Raises:
            DamagedError: If the block meets data that is missing, truncated or of another form.
        """
        with self._guarded():
            yield dict(self._position or {})

    def path(self, part: str) -> Path:
        """The folder of a part.

        Raises:
            KeyError: If the part is not kept.
        """
        return self._at(self._parts[part])

    def due(self) -> bool:
        """Whether it is time to write."""
        return self._folder is not None and time.monotonic() - self._last >= self._seconds

    def write(self, position: Mapping[str, Any], parts: Mapping[str, Save | None]) -> None:
        """Write how far the fit is.

        Args:
            position: Plain data.
            parts: What is written anew, by name; None drops a part. The others stay as they are.
        """
        if self._folder is None:
            return
        self._claim(self._folder)
        named = dict(self._parts)
        for part, save in parts.items():
            named.pop(part, None)
            if save is not None:
                named[part] = name = f"state-{self._next}"
                self._next += 1
                _remove(self._at(name))  # of a process that died here
                save(self._at(name))
        self._position, self._parts = dict(position), named
        self._point(self._folder)
        self._remove(keep=set(named.values()))
        self._last = time.monotonic()

    def clear(self) -> None:
        """The fit is complete: what was written here is removed, and the folder if nothing else is in it."""
        if self._folder is None or not (self._folder / FILE).is_file():
            return
        self._remove(keep=set())
        (self._folder / FILE).unlink()
        if not any(self._folder.iterdir()):
            self._folder.rmdir()
        self._position, self._parts, self._first = None, {}, 0

    def _read(self, path: Path) -> Mapping[str, Any]:
        """Take over what the file says, once it is what is written here; its settings."""
        with self._guarded():
            data = read_json(path)
            if not isinstance(data, dict):
                raise ValueError(f"it is {data!r:.40}")
            version, settings = fields_of(data, format_version=int, settings=dict[str, Any])
        if version > FORMAT_VERSION:
            raise FormatError(
                f"{path} has format {version}, this efface reads up to {FORMAT_VERSION}: "
                "upgrade with  pip install -U efface"
            )
        with self._guarded():
            first, last, parts = fields_of(data, first=int, last=int, parts=dict[str, str])
            numbers = [_number(name) for name in parts.values()]
            if len({*numbers}) < len(numbers) or not all(1 <= first <= n <= last for n in numbers):
                raise ValueError(f"{', '.join(map(str, parts.values()))} are no folders of a checkpoint")
            if not 0 <= last < _MOST:
                raise ValueError(f"{last} is no number of a folder")
            (self._position,) = fields_of(data, position=dict[str, Any] | None)
        self._parts, self._first, self._next = parts, first, last + 1
        return settings

    def _check(self, theirs: Mapping[str, Any], what: str, elsewhere: str) -> None:
        names = dict.fromkeys([*self._settings, *theirs])
        if differ := [n for n in names if theirs.get(n, _ABSENT) != self._settings.get(n, _ABSENT)]:
            raise InputError(
                f"{self._folder} is the checkpoint of another {what}, it differs in {', '.join(differ)}: delete it, or "
                f"{elsewhere}"
            )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except DamagedError:
            raise
        except _DAMAGE as error:
            said = f"it has no {error}" if isinstance(error, KeyError) else error
            raise DamagedError(f"{self._at(FILE)} is damaged ({said}): delete {self._folder}") from error

    def _claim(self, folder: Path) -> None:
        """Write down, before any part, from which number on folders are ours."""
        if not self._first:
            self._first = self._next = 1 + max((_number(path.name) for path in folder.glob("state-*")), default=0)
            self._point(folder)

    def _point(self, folder: Path) -> None:
        data = {
            "format_version": FORMAT_VERSION,
            "settings": self._settings,
            "position": self._position,
            "parts": self._parts,
            "first": self._first,
            "last": self._next - 1,
        }
        write_json(folder / FILE, data)

    def _remove(self, keep: set[str]) -> None:
        assert self._folder is not None
        for path in list(self._folder.iterdir()):
            torn = _TORN.fullmatch(path.name)
            if _number(torn[1] if torn else path.name) >= self._first and path.name not in keep:
                _remove(path)

    def _at(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name


def _remove(path: Path) -> None:
    """Remove a part; a link is removed itself, and never what it leads to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _number(name: Any) -> int:
    """The number in the name of a part's folder; 0 for any other name."""
    found = _STATE.fullmatch(name) if isinstance(name, str) else None
    return 0 if found is None else int(found[1])
