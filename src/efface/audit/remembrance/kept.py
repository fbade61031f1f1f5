"""Random numbers that every part of the rows is to see: drawn once, and kept in memory or in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = tuple[NDArray[Any], ...]
BUDGET = 2**27
"""Bytes that are kept in memory; what is more goes to a file, so that memory does not grow with what was asked."""


class Kept:
    """Blocks of arrays that may be gone through again and again.

    Args:
        blocks: The blocks.
        folder: Where the file is, if there has to be one; None takes the system's folder for such files. It has no
            name, and is gone with the end of the `with`.
    """

    def __init__(self, blocks: Iterable[Block], folder: Path | None) -> None:
        self._inside: list[Block] = []
        self._file: Any = None
        size = self._many = 0
        for block in blocks:
            size += sum(array.nbytes for array in block)
            if size <= BUDGET:
                self._inside.append(block)
                continue
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            for array in block:
                np.save(self._file, array)
            self._many += 1
            self._arrays = len(block)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[Any]:
        yield from self._inside
        if self._file is not None:
            self._file.seek(0)
            for _ in range(self._many):
                yield tuple(np.load(self._file, allow_pickle=False) for _ in range(self._arrays))
