"""The format follows from the file's suffix: `open_source` to read, `open_sink` to write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import as_path
from efface.core.data_sets import is_dataset
from efface.core.doors import check_call
from efface.streams.csv import open_csv, write_csv
from efface.streams.hugging_face import open_dataset
from efface.streams.many import joined_source, whole
from efface.streams.matching import is_several, matched
from efface.streams.npy import open_npy, write_npy
from efface.streams.npz import open_npz, write_npz
from efface.streams.parquet import open_parquet, write_parquet
from efface.streams.safetensors import open_safetensors, write_safetensors
from efface.streams.source import Chunk, Sink, Source, check_columns, column_names

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


def open_source(spec: Any) -> Source:
    """Open a file, or one array of it, or several files as if they were one, or a data set, to be read in chunks.

    Args:
        spec: `X.npy`, `X.csv`, `X.parquet`, `data.npz:X`, `data.safetensors:X`; a folder of files of one format, or a
            pattern (`parts/*.parquet`), in order of their names; or a list of any of these, in its order; or a
            `datasets.Dataset` or `IterableDataset` of Hugging Face.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If the format is unknown, the content cannot be used, or files do not go together.
        FormatError: If a file is truncated or foreign.
    """
    if is_dataset(spec):
        return open_dataset(spec)
    specs: list[Any] = [*spec] if isinstance(spec, list | tuple) else [spec]
    if not specs:
        raise InputError("there are no files: name at least one")
    found = [each for one in specs for each in _meant(one)]
    formats = {check_suffix(path): path for path, _ in reversed(found)}
    if len(formats) > 1:
        listed = " and ".join(f"{path} ({suffix})" for suffix, path in reversed(formats.items()))
        raise InputError(f"{listed} are of several formats: give files of one")
    several = len(found) > 1
    sources = [_open(path, name, several=several) for path, name in found]
    shown = os.fspath(specs[0]) if len(specs) == 1 else f"{sources[0].where} and {len(found) - 1} more files"
    return joined_source(sources, shown) if several else sources[0]


def named_files(specs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files that are meant by what a user typed for `open_source`; of what is not there the name itself.

    >>> [str(path) for path in named_files(["data.npz:X", "no-such-folder/*.csv"])]
    ['data.npz', 'no-such-folder/*.csv']
    """
    check_call(named_files, locals())
    found = []
    for spec in specs:
        try:
            found += [path for path, _ in _meant(spec)]
        except (FileNotFoundError, InputError):
            found.append(split_spec(spec)[0])
    return found


def _meant(spec: str | os.PathLike[str]) -> list[tuple[Path, str | None]]:
    path, name = split_spec(spec)
    return [(file, name) for file in matched(path, SUFFIXES)] if is_several(path) else [(path, name)]


def _open(path: Path, name: str | None, *, several: bool) -> Source:
    suffix = check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes): expected at least one row")
    if suffix in _MANY:
        return _MANY[suffix](path, name)
    if name is not None and suffix not in TABLES:
        raise InputError(f"{path} holds one array only: write {path} without ':{name}'")
    source = open_parquet(path, empty=True) if several and suffix == ".parquet" else _ONE[suffix](path)
    if name is not None:
        check_columns([name], column_names(source), str(path))
    return source


@contextmanager
def open_sink(path: str | os.PathLike[str], *, like: Source, features: Sequence[str]) -> Iterator[Sink]:
    """A context in which chunks are written to a file; the file appears when it ends without an error.

    Args:
        path: The file; its suffix gives the format.
        like: The source of the chunks; what else its file holds is copied where the format is the same.
        features: The columns that an array file keeps of a table.
    """
    path = as_path(path)
    with _SINKS[check_suffix(path)](path, like, features) as sink:
        yield _Joining(sink)


class _Joining:
    """A sink that takes chunks of several files, too."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        self._sink.write(whole(chunk))


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
