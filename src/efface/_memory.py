"""Large memory on the CPU, from numpy, which asks the system for huge pages.

First touch of fresh 4 KiB pages costs more than the arithmetic on them: a 2048 x 2048 float64 copy takes 2 ms
into memory from numpy and 50 ms into memory from torch on a two-core virtual machine.
"""

from __future__ import annotations

import math
import os
import re
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError

_LARGE = 2**22
_DTYPES = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}


def empty(*shape: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """An uninitialised tensor; if it is large, its storage cannot be resized."""
    large = dtype in _DTYPES and torch.Size(shape).numel() * dtype.itemsize >= _LARGE
    if large and torch.device(device).type == "cpu":
        return torch.from_numpy(np.empty(shape, dtype=_DTYPES[dtype]))
    return torch.empty(shape, dtype=dtype, device=device)


def check_room(size: int, what: str, error: type[ValueError] = InputError) -> None:
    """Refuse what cannot be in memory, before the system ends the process for it.

    Args:
        size: Bytes.
        what: What needs them, for the message.
        error: What to raise.

    Raises:
        InputError: Or another; if the machine has not so much memory.
    """
    if (most := _physical()) is not None and size > most:
        raise error(f"{what} would take {size / 2**30:,.1f} GiB of memory, and this machine has {most / 2**30:,.1f}")


_UNITS = {"": 1, "b": 1} | {
    f"{letter}{'i' * (base == 1024)}b": base**power for power, letter in enumerate("kmgt", 1) for base in (1000, 1024)
}
_SIZE = re.compile(r"\s*(?P<number>\d[\d_]*(?:\.\d+)?)\s*(?P<unit>[a-z]*)\s*", re.IGNORECASE)


def bytes_of(size: Any, name: str = "memory") -> int:
    """How many bytes are meant: a whole number of them, or text with a unit.

    Raises:
        InputError: If it is no size, or none at all.

    >>> bytes_of("4 GiB"), bytes_of("1.5GB"), bytes_of(2**20)
    (4294967296, 1500000000, 1048576)
    """
    found = None
    if isinstance(size, str) and (said := _SIZE.fullmatch(size)) and said["unit"].lower() in _UNITS:
        found = float(said["number"].replace("_", "")) * _UNITS[said["unit"].lower()]
    elif isinstance(size, Real) and not isinstance(size, bool) and math.isfinite(size):
        found = float(size)
    if found is None or found < 1:
        raise InputError(f"{name}={size!r:.60} is no size: write '4 GiB', '500 MB', or how many bytes, 4 * 2**30")
    return int(found)


def size_in_words(size: float) -> str:
    """Bytes for people.

    >>> size_in_words(3 * 2**29), size_in_words(1000)
    ('1.5 GiB', '1000 bytes')
    """
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**power:
            return f"{size / 2**power:.1f} {unit}"
    return f"{size:.0f} bytes"


def _physical() -> int | None:
    """Bytes of memory of this machine; None if nobody says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
