"""Chunks of plain arrays (`.npy .npz .safetensors`): torch tensors, or numpy arrays of strings as labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface.streams.source import Chunk, Column, Index, check_columns, kept_index
from efface.streams.steady import Stamp, steady


@dataclass(frozen=True)
class ArrayChunk:
    """Consecutive rows of an array.

    Attributes:
        first_row: Index of the first row in the whole file.
        data: Rows `(n, d)` or `(n,)`; a numpy array only if it holds strings.
        where: What to call the file in messages.
        kept: Numbers of the rows in the whole file, where some were left out.
    """

    first_row: int
    data: Tensor | np.ndarray
    where: str = "the array"
    kept: NDArray[np.int64] | None = None

    @property
    def index(self) -> Index:
        """Numbers of the rows in the whole file."""
        return self.first_row if self.kept is None else self.kept

    def __len__(self) -> int:
        return len(self.data)

    @property
    def nbytes(self) -> int:
        """How much memory the rows take."""
        return self.data.nbytes

    def numbers(self, columns: Sequence[str], *, gaps: bool = False) -> Tensor:
        """The columns as floating point or complex rows `(n, d)`; what is missing is NaN in the file.

        >>> ArrayChunk(0, torch.tensor([[1, 2, 3]])).numbers(["2", "0"])
        tensor([[3., 1.]], dtype=torch.float64)
        """
        return as_floating(self._pick(columns))

    def gaps(self, numbers: Sequence[str], labels: Sequence[str] = ()) -> NDArray[np.bool_]:
        """Which rows have NaN, or an empty text, in one of these columns, `(n,)`."""
        names = [*numbers, *labels]
        if isinstance(self.data, np.ndarray):
            empty = np.char.str_len(self.data.reshape(len(self), -1)) == 0
            return empty[:, _indices(names)].any(1) if names else np.zeros(len(self), bool)
        return torch.isnan(self._pick(names)).any(1).numpy() if names else np.zeros(len(self), bool)

    def keep(self, rows: NDArray[np.bool_]) -> ArrayChunk:
        """These rows alone."""
        data, kept = self.data, kept_index(self.index, rows)
        return replace(
            self, data=data[rows] if isinstance(data, np.ndarray) else data[torch.from_numpy(rows)], kept=kept
        )

    def labels(self, column: str) -> np.ndarray:
        """One column as a numpy array `(n,)`; bfloat16 becomes float32."""
        data = self.data if self.data.ndim == 1 else self.data[:, int(column)]
        if isinstance(data, np.ndarray):
            return np.char.decode(data, "utf-8") if data.dtype.kind == "S" else data
        return (data.float() if data.dtype == torch.bfloat16 else data).numpy()

    def replace(self, columns: Sequence[str], x: Tensor) -> ArrayChunk:
        """The same rows with new numbers `(n, d)` in these columns; integers become floats."""
        if self._is_all(columns):
            return replace(self, data=x.reshape(len(self), -1))
        whole = as_floating(self._tensor()).clone()
        whole[:, _indices(columns)] = x.to(whole.dtype)
        return replace(self, data=whole)

    def _tensor(self) -> Tensor:
        if isinstance(self.data, np.ndarray):
            raise InputError(
                f"{self.where} holds text ({self.data.dtype}), expected numbers: pass text as --concept only"
            )
        return self.data if self.data.ndim == 2 else self.data[:, None]

    def _pick(self, columns: Sequence[str]) -> Tensor:
        data = self._tensor()
        return data if self._is_all(columns) else data[:, _indices(columns)]

    def _is_all(self, columns: Sequence[str]) -> bool:
        width = self.data.shape[1] if self.data.ndim == 2 else 1
        return len(columns) == width and _are_counted(tuple(columns))


@lru_cache(maxsize=16)
def _are_counted(columns: tuple[str, ...]) -> bool:
    return all(name == str(i) for i, name in enumerate(columns))


def _indices(columns: Sequence[str]) -> list[int]:
    return [int(name) for name in columns]


def as_floating(x: Tensor) -> Tensor:
    """Integers and booleans as floats that hold them: float32 up to 16 bits, else float64; others as is."""
    if x.is_floating_point() or x.is_complex():
        return x
    return x.to(torch.float32 if x.dtype.itemsize <= 2 else torch.float64)


@dataclass(frozen=True)
class ArraySource(ABC):
    """One array of a file; a format adds how pieces of it are read.

    Attributes:
        path: The file.
        where: What the user typed.
        shape: `(n, d)` or `(n,)`.
        type: The dtype, for messages.
        text: Whether it holds strings.
        stamp: What the file was like when it was opened.
    """

    path: Path
    where: str
    shape: tuple[int, ...]
    type: str
    text: bool = False
    stamp: Stamp | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.shape[0]

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """One column for each position of the last axis; a 1-D array has one."""
        width = self.shape[1] if len(self.shape) == 2 else 1
        return tuple(Column(str(i), "other" if self.text else "number", self.type) for i in range(width))

    @abstractmethod
    def pieces(self, rows: int, start: int) -> Iterator[Tensor | np.ndarray]:
        """Consecutive pieces of the array from row `start` on."""

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `rows` at a time; only the last chunk may be shorter.

        Raises:
            FormatError: If the file is damaged.
            InputError: If it has changed since it was opened.
        """
        with steady(self.path, self.stamp, self.where):
            for piece in self.pieces(rows, start):
                yield ArrayChunk(start, piece, self.where)
                start += len(piece)

    def select(self, numbers: Sequence[str], labels: Sequence[str] = (), *, rest: bool = False) -> ArraySource:
        """Itself: an array is always read in full rows."""
        check_columns([*numbers, *labels], [column.name for column in self.columns], self.where)
        return self


def check_shape(shape: Sequence[int], where: str) -> tuple[int, ...]:
    """`shape` if it is `(n, d)` or `(n,)` and not empty.

    >>> check_shape((4, 3, 2), "X.npy")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: X.npy has shape (4, 3, 2), expected (n, d): save array.reshape(-1, 2)
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (1, 2):
        advice = f"save array.reshape(-1, {shape[-1]})" if shape else "save one row per example"
        raise InputError(f"{where} has shape {shape}, expected (n, d): {advice}")
    if 0 in shape:
        raise InputError(f"{where} is empty, its shape is {shape}: expected at least one row and one column")
    return shape


def rows_of(chunk: Chunk, features: Sequence[str]) -> Tensor | np.ndarray:
    """What an array file keeps of a chunk: a whole array, or the features of a table."""
    return chunk.data if isinstance(chunk, ArrayChunk) else chunk.numbers(features)


def to_numpy(data: Tensor | np.ndarray, suffix: str) -> np.ndarray[Any, Any]:
    """A numpy array for files that know numpy's types only.

    Raises:
        InputError: If it is bfloat16, which numpy has not.
    """
    if isinstance(data, Tensor) and data.dtype == torch.bfloat16:
        raise InputError(f"{suffix} files have no bfloat16: write -o to a .safetensors file, or convert first")
    return np.ascontiguousarray(data.numpy() if isinstance(data, Tensor) else data)
