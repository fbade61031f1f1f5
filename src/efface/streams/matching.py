"""Which files are meant: those of a folder, or those that a pattern matches, in the order of their names."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from efface._errors import InputError
from efface.streams.source import shortened

_HIDDEN = (".", "_")
"""How names begin that are no data: `_SUCCESS`, `_metadata`, `.part-0.parquet.crc`."""


def is_several(path: Path) -> bool:
    """Whether what was named is a folder, or a pattern and no file of that name.

    >>> is_several(Path("no-such-folder/*.parquet")), is_several(Path("X.npy"))
    (True, False)
    """
    return path.is_dir() or (glob.has_magic(os.fspath(path)) and not path.exists())


def matched(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder, or those that a pattern matches (`**` is folders in any depth), in order of name.

    Args:
        path: The folder or pattern.
        suffixes: Of files that can be read.

    Raises:
        FileNotFoundError: If nothing matches.
        InputError: If a folder has none, or something in it that is neither read nor hidden (`.name`, `_name`).
    """
    if path.is_dir():
        return _of_folder(path, suffixes)
    hidden = path.name.startswith(_HIDDEN)
    named = map(Path, glob.glob(os.fspath(path), recursive=True))
    found = sorted(file for file in named if file.is_file() and (hidden or not file.name.startswith(_HIDDEN)))
    if not found:
        raise FileNotFoundError(f"no file is called like {path}")
    return found


def _of_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if not path.name.startswith(_HIDDEN))
    inner = [path.name for path in found if path.is_dir()]
    keyed = [name for name in inner if "=" in name]
    if keyed:
        raise InputError(
            f"{folder} is partitioned into folders ({shortened(keyed)}), whose names hold a column that its files "
            f"lack: write that into the files, or leave it out and name them, '{folder / '*' / '*.parquet'}'"
        )
    if inner:
        raise InputError(
            f"{folder} has folders in it ({shortened(inner)}): name the files, as in '{folder / '**' / '*.parquet'}'"
        )
    others = [path.name for path in found if path.suffix.lower() not in suffixes]
    if others:
        raise InputError(
            f"{folder} has {shortened(others)} in it, which is none of {' '.join(suffixes)}: name the files that are "
            f"meant, as in '{folder / '*.parquet'}'"
        )
    if not found:
        raise InputError(f"{folder} is an empty folder: expected files, {' '.join(suffixes)}")
    return found


def would_find(spec: str | os.PathLike[str], file: Path) -> bool:
    """Whether what names several files would name that one too, or be spoilt by it, once it is there.

    >>> [would_find("in/**/*.npy", Path(file)) for file in ("in/a.npy", "in/new/deep/a.npy", "in/new/a.csv")]
    [True, True, False]
    """
    path, file = Path(spec), Path(os.path.abspath(file))
    if path.is_dir():
        folder = path.resolve()
        at = file.parent.resolve() / file.name
        return folder in at.parents and not at.relative_to(folder).parts[0].startswith(_HIDDEN)
    return is_several(path) and _matches(Path(os.path.abspath(path)).parts, file.parts)


def _matches(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path is one that a pattern of `glob` matches, part by part; `**` is any number of them."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        deeper = not parts[0].startswith(".") and _matches(pattern, parts[1:])
        return deeper or _matches(pattern[1:], parts)
    hidden = parts[0].startswith(_HIDDEN if len(parts) == 1 else ".") and not pattern[0].startswith(_HIDDEN)
    return not hidden and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(pattern[1:], parts[1:])
