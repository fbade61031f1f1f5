"""The statistics of the sites of one pass: in memory, or with what is large of them in files, but for one site's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from efface._temporary import temporary_folder
from efface.core.site import Site
from efface.moments.streaming import Moments


class Statistics:
    """Fitters by site. Within `at(site)` one is whole; meanwhile its scatter of x, `(d, d)`, may lie in a file.

    What is in a file is the same float64 number, read and written where it lies: results are the same bits.

    Args:
        folder: Under which to make a temporary folder for the squares; None takes the system's.
        on_disk: Whether squares lie in files.
    """

    def __init__(self, folder: str | Path | None = None, *, on_disk: bool = False) -> None:
        self._fitters: dict[Site, Any] = {}
        self._files: dict[Site, _Square] = {}
        self._stack = ExitStack()
        where = None if folder is None else Path(folder)
        self._folder = self._stack.enter_context(temporary_folder(where, "sums")) if on_disk else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._fitters.clear()
        self._files.clear()
        self._stack.close()

    def __contains__(self, site: object) -> bool:
        return site in self._fitters

    def __iter__(self) -> Iterator[Site]:
        return iter(self._fitters)

    def add(self, site: Site, fitter: Any) -> None:
        """Keep a fitter."""
        self._fitters[site] = fitter
        if self._folder is not None and fitter.moments.s_xx.ndim == 2:
            self._files[site] = _Square(self._folder / f"{len(self._files)}.bin", fitter.moments)
            self._put_away(site)

    @contextmanager
    def at(self, site: Site) -> Iterator[Any]:
        """The fitter of a site, whole."""
        try:
            if site in self._files:
                self._files[site].take_out()
            yield self._fitters[site]
        finally:
            self._put_away(site)

    def pop(self, site: Site) -> Any:
        """The fitter of a site, in memory; it is kept no more."""
        if site in self._files:
            self._files.pop(site).take_out(into_memory=True)
        return self._fitters.pop(site)

    def device(self, site: Site) -> torch.device:
        """Where the sums of a site live."""
        return self._fitters[site].moments.device

    def _put_away(self, site: Site) -> None:
        if site in self._files:
            self._files[site].put_away()


class _Square:
    """The squares of one `Moments`, in a file."""

    def __init__(self, path: Path, moments: Moments) -> None:
        self._path, self._moments = path, moments
        whole = moments.s_xx
        self._shape, self._dtype, self._device = whole.shape, whole.dtype, whole.device
        with open(path, "wb") as file:  # room is taken now: a mapped file that finds none later ends the process
            _allocate(file.fileno(), whole.numel() * whole.itemsize)
        self._mapped: Tensor | None = self._map() if moments.n else None

    def take_out(self, *, into_memory: bool = False) -> None:
        """Where the moments find it."""
        self._mapped = self._map()
        self._moments.s_xx = self._mapped.to(self._device, copy=into_memory)
        if into_memory:
            self._mapped = None
            self._path.unlink()

    def put_away(self) -> None:
        """Into the file. What stands for it meanwhile takes no memory, and cannot be written to."""
        whole, self._mapped, mapped = self._moments.s_xx, None, self._mapped
        if mapped is not None and (whole.device != mapped.device or whole.data_ptr() != mapped.data_ptr()):
            mapped.copy_(whole)
        self._moments.s_xx = torch.zeros((), dtype=self._dtype, device=self._device).expand(self._shape)

    def _map(self) -> Tensor:
        kind = np.complex128 if self._dtype.is_complex else np.float64
        return torch.from_numpy(np.memmap(self._path, kind, "r+", shape=tuple(self._shape)))


def _allocate(handle: int, size: int) -> None:
    """Room for so many bytes, all of them 0."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)
