"""Which files are meant: those of a folder, or those that a pattern matches, in the order of their names."""

from __future__ import annotations

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
