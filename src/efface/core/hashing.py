"""How arrays enter a hash: one rule for what is saved, and for what a result was made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface.core.arrays import in_memory


def feed(total: Any, value: Any, name: str = "") -> None:
    """Add an array to a hash: its shape, dtype and values, the same on any device, in any layout, in torch and numpy.

    Args:
        total: A hash of `hashlib`.
        value: A strided tensor, an array, or what numpy makes one of.
        name: What it is called, where that is part of the content.
    """
    if isinstance(value, Tensor):
        value = in_memory(value.detach().cpu()).resolve_conj().resolve_neg().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        if value.numel():
            # Seen as bytes: numpy does not know bfloat16 and its like, and torch has no bytes of complex numbers.
            flat = torch.view_as_real(value).contiguous() if value.is_complex() else value
            total.update(flat.reshape(-1).view(torch.uint8).numpy().data)
        return
    array = np.asarray(value, order="C")
    total.update(f"{name} {array.shape} {getattr(torch, array.dtype.name, array.dtype.str)}".encode())
    if array.dtype.hasobject:
        total.update("\n".join(map(repr, array.reshape(-1).tolist())).encode())
    elif array.size:
        total.update(array.reshape(-1).view(np.uint8).data)
