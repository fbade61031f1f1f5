"""Arrays of `.npz` files in chunks: the zip member is decompressed as it is read."""

from __future__ import annotations

import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from efface._errors import FormatError, InputError
from efface._io import atomic_path
from efface._temporary import temporary_folder
from efface.streams.array import ArraySource
from efface.streams.npy import Header, NpySource, NpyWriter, read_header, read_rows
from efface.streams.source import Sink, Source
from efface.streams.steady import Stamp

_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)
_SUFFIX = ".npy"
_COPY_BYTES = 1 << 18


@dataclass(frozen=True)
class NpzSource(ArraySource):
    """One array of a `.npz` file.

    Attributes:
        member: Name of the array.
    """

    member: str = ""

    def pieces(self, rows: int, start: int) -> Iterator[Tensor | np.ndarray]:
        """Pieces read one after the other; a start is reached by reading up to it."""
        with _readable(self.where), zipfile.ZipFile(self.path) as archive:
            with archive.open(self.member + _SUFFIX) as file:
                header = read_header(file, self.where)
                if not header.fortran:
                    yield from self._sequential(file, header, rows, start)
                    return
            yield from self._by_columns(archive, rows, start)

    def _sequential(self, file: IO[bytes], header: Header, rows: int, start: int) -> Iterator[Tensor | np.ndarray]:
        for first in range(0, start, rows):
            read_rows(file, header, min(rows, start - first), self.where)
        for first in range(start, self.rows, rows):
            yield read_rows(file, header, min(rows, self.rows - first), self.where)

    def _by_columns(self, archive: zipfile.ZipFile, rows: int, start: int) -> Iterator[Tensor | np.ndarray]:
        # Rows of an array stored by columns lie all over the stream: it is unpacked to disk and mapped.
        with temporary_folder() as folder:
            path = folder / "array.npy"  # and not what the archive calls it
            with archive.open(self.member + _SUFFIX) as packed, path.open("wb") as file:
                shutil.copyfileobj(packed, file, _COPY_BYTES)
            yield from NpySource(path, self.where, self.shape, self.type, self.text).pieces(rows, start)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise FormatError(f"{where} cannot be read, the .npz file may be truncated: {error}") from error


def open_npz(path: Path, member: str | None = None) -> NpzSource:
    """Open one array of a `.npz` file as a source; the name may be left out if there is only one.

    Raises:
        FormatError: If the file is truncated or no zip file.
        InputError: If there is no such array (the text lists those there are), or it cannot be used.
    """
    stamp = Stamp.of(path)
    with _readable(str(path)), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(_SUFFIX) for name in archive.namelist() if name.endswith(_SUFFIX)]
        member = choose(names, member, path)
        where = f"{path}:{member}"
        with archive.open(member + _SUFFIX) as file:
            header = read_header(file, where)
    text = header.dtype.kind in "US"
    return NpzSource(path, where, header.shape, str(header.dtype), text, stamp, member=member)


def choose(names: Sequence[str], wanted: str | None, path: Path) -> str:
    """The array to read from a file that may hold several.

    >>> choose(["X", "y"], None, Path("data.npz"))
    Traceback (most recent call last):
    ...
    efface._errors.InputError: data.npz holds several arrays (X, y): choose one, e.g. data.npz:X
    """
    if not names:
        raise InputError(f"{path} holds no arrays: expected at least one")
    if wanted is None and len(names) > 1:
        raise InputError(f"{path} holds several arrays ({', '.join(names)}): choose one, e.g. {path}:{names[0]}")
    if wanted is not None and wanted not in names:
        raise InputError(f"{path} has no array {wanted!r}: it has {', '.join(names)}")
    return wanted or names[0]


@contextmanager
def write_npz(path: Path, like: Source, features: Sequence[str]) -> Iterator[Sink]:
    """A sink for a `.npz` file; the other arrays of a `.npz` source are copied along.

    The array is written to a temporary file first, because zip members need their size in advance.
    """
    member = like.member if isinstance(like, NpzSource) else "X"
    with (
        atomic_path(path) as temporary,
        tempfile.TemporaryFile(prefix=f".{path.stem}-", dir=path.parent) as file,
    ):
        sink = NpyWriter(file, features, like.where)
        yield sink
        sink.finish()
        file.seek(0)
        _pack(temporary, file, member + _SUFFIX, like.path if isinstance(like, NpzSource) else None)


def _pack(target: Path, array: IO[bytes], member: str, old: Path | None) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        method = _copy_others(archive, old, member) if old else zipfile.ZIP_STORED
        info = zipfile.ZipInfo(member)
        info.compress_type = method
        with archive.open(info, "w", force_zip64=True) as file:
            shutil.copyfileobj(array, file, _COPY_BYTES)


def _copy_others(archive: zipfile.ZipFile, old: Path, member: str) -> int:
    """Copy all members but one; returns how that one was compressed."""
    with _readable(str(old)), zipfile.ZipFile(old) as source:
        for info in source.infolist():
            if info.filename != member:
                with source.open(info) as read, archive.open(_like(info), "w", force_zip64=True) as write:
                    shutil.copyfileobj(read, write, _COPY_BYTES)
        return source.getinfo(member).compress_type


def _like(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    new = zipfile.ZipInfo(info.filename, info.date_time)
    new.compress_type = info.compress_type
    return new
