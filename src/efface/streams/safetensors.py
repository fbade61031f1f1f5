"""Tensors of `.safetensors` files in chunks, bfloat16 included.

They are written by hand, because the library wants whole tensors. The format: eight bytes with the length
of a JSON header (little-endian), the header (name -> dtype, shape and byte offsets), then the bytes of all
tensors one after the other.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from efface._errors import FormatError, InputError
from efface._io import atomic_path
from efface.streams.array import ArraySource, check_shape, rows_of
from efface.streams.npy import read_into
from efface.streams.npz import choose
from efface.streams.source import Chunk, Sink, Source, check_rows
from efface.streams.steady import Stamp

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL", torch.complex64: "C64",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()} | {"U16": torch.uint16, "U32": torch.uint32}
_MOST_ROWS = 10**15
_LENGTH = struct.Struct("<Q")
_COPY_BYTES = 1 << 18
_METADATA = "__metadata__"


@dataclass(frozen=True)
class SafetensorsSource(ArraySource):
    """One tensor of a `.safetensors` file.

    Attributes:
        tensor: Name of the tensor.
        offset: Bytes before its first entry.
    """

    tensor: str = ""
    offset: int = 0

    def pieces(self, rows: int, start: int) -> Iterator[Tensor]:
        """Pieces read one after the other: of a file in memory every page that was read would stay."""
        dtype, width = _DTYPES[self.type], self.shape[1:]
        with self.path.open("rb") as file:
            file.seek(self.offset + start * math.prod(width) * dtype.itemsize)
            for first in range(start, self.rows, rows):
                shape = (min(rows, self.rows - first), *width)
                # From numpy, which asks for huge pages.
                memory = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
                read_into(file, memory, self.where, self.rows)
                piece = torch.from_numpy(memory).view(dtype).reshape(shape)
                yield piece.to(torch.int64) if dtype in (torch.uint16, torch.uint32) else piece


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise FormatError(f"{where} cannot be read, the file may be truncated: {error}") from error


def open_safetensors(path: Path, tensor: str | None = None) -> SafetensorsSource:
    """Open one tensor of a `.safetensors` file as a source; the name may be left out if there is only one.

    Raises:
        FormatError: If the file is truncated or foreign.
        InputError: If there is no such tensor (the text lists those there are), or it cannot be used.
    """
    stamp = Stamp.of(path)
    with _readable(str(path)), safe_open(path, framework="pt") as file:
        tensor = choose(list(file.keys()), tensor, path)
        view = file.get_slice(tensor)
        shape, dtype = view.get_shape(), str(view.get_dtype())
    header, start = _header_of(path)
    where = f"{path}:{tensor}"
    if dtype not in _DTYPES:
        raise InputError(f"{where} holds {dtype}: convert it first, e.g. tensor.to(torch.bfloat16)")
    offset = start + header[tensor]["data_offsets"][0]
    return SafetensorsSource(path, where, check_shape(shape, where), dtype, False, stamp, tensor, offset)


class SafetensorsWriter:
    """Writes a tensor of which the number of rows is known only at the end, among copies of others.

    Tensors lie in order of falling item size, as the library does it, so that each is aligned.
    """

    def __init__(self, file: IO[bytes], tensor: str, features: Sequence[str], like: Source) -> None:
        self._file, self._tensor, self._features, self._like = file, tensor, features, like
        self._before: list[_Other] = []
        self._after: list[_Other] = []
        self._room = self._rows = 0
        self._width, self._dtype = (), torch.float32

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        data = rows_of(chunk, self._features)
        if not isinstance(data, Tensor):
            raise InputError(f"{self._like.where} holds text, which .safetensors files cannot: write -o to a .npy file")
        if not self._rows:
            self._begin(data)
        self._file.write(data.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self._rows += len(data)

    def finish(self) -> None:
        """Write what comes after the tensor, and the header into the room left for it."""
        check_rows(self._rows, self._like.where)
        self._copy(self._after)
        header = self._header(self._rows)
        self._file.seek(0)
        self._file.write(_LENGTH.pack(self._room) + header.ljust(self._room))

    def _begin(self, data: Tensor) -> None:
        self._width, self._dtype = data.shape[1:], data.dtype
        if self._dtype not in _NAMES:
            raise InputError(f".safetensors files have no {self._dtype}: write -o to a .npy file")
        others = _others(self._like) if isinstance(self._like, SafetensorsSource) else []
        self._before = [other for other in others if other.itemsize >= self._dtype.itemsize]
        self._after = [other for other in others if other.itemsize < self._dtype.itemsize]
        self._room = -(-len(self._header(_MOST_ROWS)) // 8) * 8
        self._file.write(b" " * (_LENGTH.size + self._room))
        self._copy(self._before)

    def _header(self, rows: int) -> bytes:
        shape = (rows, *self._width)
        own = _Other(self._tensor, _NAMES[self._dtype], shape, 0, math.prod(shape) * self._dtype.itemsize)
        header: dict[str, Any] = _metadata(self._like)
        begin = 0
        for tensor in (*self._before, own, *self._after):
            end = begin + tensor.size
            header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
            begin = end
        return json.dumps(header).encode()

    def _copy(self, others: Sequence[_Other]) -> None:
        for other in others:
            with self._like.path.open("rb") as source:
                source.seek(other.offset)
                _copy_bytes(source, self._file, other.size)


@dataclass(frozen=True)
class _Other:
    """A tensor that is copied: where its bytes are in the old file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def itemsize(self) -> int:
        return self.size // max(1, math.prod(self.shape))


def _header_of(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file that was opened before, and where its data starts."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        return json.loads(file.read(length)), _LENGTH.size + length


def _metadata(like: Source) -> dict[str, Any]:
    header = _header_of(like.path)[0] if isinstance(like, SafetensorsSource) else {}
    return {_METADATA: header[_METADATA]} if _METADATA in header else {}


def _others(source: SafetensorsSource) -> list[_Other]:
    """All tensors but the one of the source, by falling item size."""
    header, start = _header_of(source.path)
    found = []
    for name in header.keys() - {_METADATA, source.tensor}:
        begin, end = header[name]["data_offsets"]
        found.append(_Other(name, header[name]["dtype"], tuple(header[name]["shape"]), start + begin, end - begin))
    return sorted(found, key=lambda other: (-other.itemsize, other.name))


def _copy_bytes(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size > 0:
        block = source.read(min(size, _COPY_BYTES))
        if not block:
            raise FormatError("the file became shorter while it was read")
        target.write(block)
        size -= len(block)


@contextmanager
def write_safetensors(path: Path, like: Source, features: Sequence[str]) -> Iterator[Sink]:
    """A sink for a `.safetensors` file; the other tensors of a `.safetensors` source are copied along."""
    tensor = like.tensor if isinstance(like, SafetensorsSource) else "X"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sink = SafetensorsWriter(file, tensor, features, like)
        yield sink
        sink.finish()
