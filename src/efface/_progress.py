"""A progress bar on stderr: only if tqdm is installed and somebody watches."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Bar(Protocol):
    """What is told how many more rows are done."""

    def update(self, n: int) -> Any:
        """So many more rows are done."""
        ...


class _Silent:
    def update(self, n: int) -> None:
        pass


@contextmanager
def progress(label: str, rows: int | None, *, done: int = 0, unit: str = "rows") -> Iterator[Bar]:
    """A bar over rows; silent if stderr is no terminal or tqdm is not installed.

    Args:
        label: What is being done.
        rows: How many rows there are, if known.
        done: How many of them are done already.
        unit: What they are.

    >>> with progress("reading", 10) as bar:
    ...     bar.update(10)
    """
    if not sys.stderr.isatty() or importlib.util.find_spec("tqdm") is None:
        yield _Silent()
        return
    tqdm = importlib.import_module("tqdm").tqdm
    with tqdm(desc=label, total=rows, initial=done, unit=f" {unit}", unit_scale=True, leave=False) as bar:
        yield bar
