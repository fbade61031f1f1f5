"""A random sample of the rows of files that are read in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Sample:
    """Keeps a uniform sample of rows, in their order; the same for any size of chunks.

    Each row gets a random key, and those with the smallest keys are kept.

    Args:
        size: Most rows to keep.
        seed: Of the keys.

    >>> sample = Sample(2, seed=0)
    >>> for start in (0, 3):
    ...     sample.update([np.arange(start, start + 3)])
    >>> sample.seen, len(sample.parts()[0])
    (6, 2)
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.seen = 0
        self._size, self._rng = size, np.random.default_rng(seed)
        self._held: list[tuple[np.ndarray, list[Any]]] = []

    def update(self, parts: Sequence[Any]) -> None:
        """Take in arrays or tensors that have one entry for each row of a chunk."""
        keys = self._rng.random(len(parts[0]))
        self.seen += len(keys)
        self._held.append((keys, list(parts)))
        if sum(len(k) for k, _ in self._held) >= 2 * self._size:
            self._held = [self._smallest()]

    def parts(self) -> list[Any]:
        """The sampled rows of each array."""
        return self._smallest()[1]

    def _smallest(self) -> tuple[np.ndarray, list[Any]]:
        keys = np.concatenate([k for k, _ in self._held])
        columns = [_joined(parts) for parts in zip(*(parts for _, parts in self._held), strict=True)]
        if len(keys) <= self._size:
            return keys, columns
        chosen = np.sort(np.argpartition(keys, self._size - 1)[: self._size])
        return keys[chosen], [_rows(column, chosen) for column in columns]


def _joined(parts: Sequence[Any]) -> Any:
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else np.concatenate(parts)


def _rows(column: Any, chosen: np.ndarray) -> Any:
    return column[torch.from_numpy(chosen)] if isinstance(column, Tensor) else column[chosen]
