"""Embeddings as their directions, which is all that a cosine reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._validate import check_finite, to_tensor


def unit_rows(x: Any, name: str, *, least: int) -> NDArray[np.float64]:
    """Embeddings `(n, d)`, each divided by its length.

    Raises:
        InputError: If there are under `least`, or one is zero, complex or not finite.

    >>> unit_rows([[3.0, 4.0], [0.0, 1e-200]], "x", least=2)
    array([[0.6, 0.8],
           [0. , 1. ]])
    """
    rows = to_tensor(x, name)
    if rows.is_complex():
        raise InputError(f"{name} is complex, expected real numbers: pass its real part, or its absolute value")
    rows = rows.detach().cpu().double()
    if rows.ndim != 2 or len(rows) < least:
        raise InputError(f"{name} has shape {tuple(rows.shape)}, expected (n, d) with at least {least} embeddings")
    check_finite(rows, name)
    # Divided by the largest first: squares of tiny numbers are zero, and of large ones infinite.
    largest = rows.abs().amax(dim=1, keepdim=True) if rows.shape[1] else rows.new_zeros(len(rows), 1)
    if not bool((largest > 0).all()):
        raise InputError(f"{name} has a row of zeros, which has no direction: leave it out")
    scaled = rows / largest
    return (scaled / scaled.norm(dim=1, keepdim=True)).numpy()
