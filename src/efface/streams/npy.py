"""`.npy` files in chunks: sequential reads, so that no more than a chunk is ever in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import FormatError, InputError
from efface._io import atomic_path
from efface._validate import to_tensor
from efface.streams.array import ArraySource, check_shape, rows_of, to_numpy
from efface.streams.source import Chunk, Sink, Source, check_rows
from efface.streams.steady import Stamp

_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


@dataclass(frozen=True)
class Header:
    """What the header of a `.npy` file says, and where the data starts.

    Attributes:
        shape: Of the whole array.
        fortran: Whether it is stored column by column.
        dtype: Of one entry.
        offset: Bytes before the first entry.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))


def read_header(file: IO[bytes], where: str) -> Header:
    """Read the header of a `.npy` file or zip member and check that its array can be used.

    Raises:
        FormatError: If it is no `.npy` file.
        InputError: If it holds objects, records or dates, or is not `(n, d)` or `(n,)`.
    """
    try:
        version = npy_format.read_magic(file)
        shape, fortran, dtype = _READERS.get(version, npy_format.read_array_header_2_0)(file)
    except (ValueError, EOFError) as error:
        raise FormatError(f"{where} is not a readable .npy array, it may be truncated: {error}") from error
    _check_dtype(dtype, where)
    shape = check_shape(shape, where)
    return Header(shape, fortran and len(shape) == 2, dtype, file.tell())


def _check_dtype(dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind == "O":
        raise InputError(
            f"{where} holds Python objects, expected numbers in one (n, d) array: "
            "save numpy.stack(list(array)).astype('float32'), after padding or pooling rows of unequal length"
        )
    if dtype.kind == "V":
        raise InputError(
            f"{where} holds {dtype} records, expected numbers in one (n, d) array: "
            "save the columns side by side, and bfloat16 as .safetensors"
        )
    if dtype.kind in "mM":
        raise InputError(f"{where} holds dates ({dtype}), expected numbers: save array.astype('int64')")


def read_rows(file: IO[bytes], header: Header, rows: int, where: str) -> Tensor | np.ndarray:
    """The next rows of an open file.

    Raises:
        FormatError: If the file ends before they are complete.
    """
    array = np.empty((rows, *header.shape[1:]), header.dtype)
    read_into(file, array.reshape(-1).view(np.uint8), where, header.shape[0])
    return array if array.dtype.kind in "US" else to_tensor(array, where)


def read_into(file: IO[bytes], memory: NDArray[np.uint8], where: str, rows: int) -> None:
    """Fill memory with the next bytes of a file.

    Raises:
        FormatError: If the file ends before, which was to have so many rows.
    """
    view = memory.reshape(-1).data
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise FormatError(f"{where} is truncated: its header promises {rows} rows")
        view = view[count:]


@dataclass(frozen=True)
class NpySource(ArraySource):
    """The array of a `.npy` file."""

    def pieces(self, rows: int, start: int) -> Iterator[Tensor | np.ndarray]:
        """Pieces read one after the other; an array stored by columns is read through a memory map."""
        with self.path.open("rb") as file:
            header = read_header(file, self.where)
            if header.fortran:
                yield from _mapped(self, rows, start)
                return
            file.seek(header.offset + start * header.row_bytes)
            for first in range(start, self.rows, rows):
                yield read_rows(file, header, min(rows, self.rows - first), self.where)


def _mapped(source: NpySource, rows: int, start: int) -> Iterator[Tensor | np.ndarray]:
    array = np.load(source.path, mmap_mode="r")
    for first in range(start, source.rows, rows):
        piece = np.array(array[first : first + rows], order="C")
        yield piece if piece.dtype.kind in "US" else to_tensor(piece, source.where)


def open_npy(path: Path, where: str | None = None) -> NpySource:
    """Open a `.npy` file as a source.

    Raises:
        FormatError: If it is truncated or foreign.
        InputError: If its array cannot be used.
    """
    where, stamp = where or str(path), Stamp.of(path)
    with path.open("rb") as file:
        header = read_header(file, where)
    expected, found = header.offset + header.shape[0] * header.row_bytes, path.stat().st_size
    if found < expected:
        raise FormatError(f"{where} is truncated: it has {found:,} bytes, its header promises {expected:,}")
    return NpySource(path, where, header.shape, str(header.dtype), header.dtype.kind in "US", stamp)


class NpyWriter:
    """Writes a `.npy` array of which the number of rows is known only at the end."""

    def __init__(self, file: IO[bytes], features: Sequence[str], where: str) -> None:
        self._file, self._features, self._where = file, features, where
        self._rows, self._width, self._dtype = 0, (), np.dtype("f4")

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        array = to_numpy(rows_of(chunk, self._features), ".npy and .npz")
        if not self._rows:
            self._width, self._dtype = array.shape[1:], array.dtype
            self._write_header()
        self._file.write(array.reshape(-1).view(np.uint8).data)
        self._rows += len(array)

    def finish(self) -> None:
        """Write the number of rows into the header; numpy leaves room for it to grow."""
        check_rows(self._rows, self._where)
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        shape = (self._rows, *self._width)
        header = {"shape": shape, "fortran_order": False, "descr": npy_format.dtype_to_descr(self._dtype)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            npy_format.write_array_header_1_0(self._file, header)


@contextmanager
def write_npy(path: Path, like: Source, features: Sequence[str]) -> Iterator[Sink]:
    """A sink for a `.npy` file that appears when the block ends without an error."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sink = NpyWriter(file, features, like.where)
        yield sink
        sink.finish()
