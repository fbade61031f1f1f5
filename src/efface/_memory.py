"""Large memory on the CPU, from numpy, which asks the system for huge pages.

First touch of fresh 4 KiB pages costs more than the arithmetic on them: a 2048 x 2048 float64 copy takes 2 ms
into memory from numpy and 50 ms into memory from torch on a two-core virtual machine.
"""

from __future__ import annotations

import os

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


def _physical() -> int | None:
    """Bytes of memory of this machine; None if nobody says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
