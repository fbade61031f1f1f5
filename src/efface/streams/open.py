"""The format follows from the file's suffix: `open_source` to read, `open_sink` to write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from efface._errors import InputError
from efface._io import as_path
from efface.streams.csv import open_csv, write_csv
from efface.streams.npy import open_npy, write_npy
from efface.streams.npz import open_npz, write_npz
from efface.streams.parquet import open_parquet, write_parquet
from efface.streams.safetensors import open_safetensors, write_safetensors
from efface.streams.source import Sink, Source, check_columns, column_names

_MANY = {".npz": open_npz, ".safetensors": open_safetensors}
_ONE = {".npy": open_npy, ".csv": open_csv, ".parquet": open_parquet}
_SINKS = {
    ".npy": write_npy,
    ".npz": write_npz,
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".safetensors": write_safetensors,
}
SUFFIXES = tuple(_SINKS)
TABLES = (".csv", ".parquet")


def split_spec(spec: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The file and the name of what is meant inside it.

    >>> [str(part) for part in split_spec("data.npz:X")], split_spec("X.npy")[1]
    (['data.npz', 'X'], None)
    """
    text = os.fspath(as_path(spec))
    file, colon, name = text.rpartition(":")
    if colon and name and Path(file).suffix.lower() in SUFFIXES and not Path(text).exists():
        return Path(file), name
    return Path(text), None


def open_source(spec: str | os.PathLike[str]) -> Source:
    """Open a file, or one array of it, to be read in chunks.

    Args:
        spec: `X.npy`, `X.csv`, `X.parquet`, `data.npz:X`, `data.safetensors:X`.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If the format is unknown or the content cannot be used.
        FormatError: If the file is truncated or foreign.
    """
    path, name = split_spec(spec)
    suffix = check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes): expected at least one row")
    if suffix in _MANY:
        return _MANY[suffix](path, name)
    if name is not None and suffix not in TABLES:
        raise InputError(f"{path} holds one array only: write {path} without ':{name}'")
    source = _ONE[suffix](path)
    if name is not None:
        check_columns([name], column_names(source), str(path))
    return source


def open_sink(path: str | os.PathLike[str], *, like: Source, features: Sequence[str]) -> AbstractContextManager[Sink]:
    """A context in which chunks are written to a file; the file appears when it ends without an error.

    Args:
        path: The file; its suffix gives the format.
        like: The source of the chunks; what else its file holds is copied where the format is the same.
        features: The columns that an array file keeps of a table.
    """
    path = as_path(path)
    return _SINKS[check_suffix(path)](path, like, features)


def check_suffix(path: Path) -> str:
    """The lower-case suffix of a path if efface knows the format.

    >>> check_suffix(Path("X.txt"))
    Traceback (most recent call last):
    ...
    efface._errors.InputError: 'X.txt' has the suffix '.txt': expected .npy .npz .csv .parquet .safetensors
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{str(path)!r} has the suffix {suffix!r}: expected {' '.join(SUFFIXES)}")
    return suffix
