"""Checks on what users pass in: every failure says what was given, what was expected and what to write."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError

_SHOWN = 5


def to_tensor(value: Any, name: str) -> Tensor:
    """`value` as a tensor that shares its memory where it can.

    Takes tensors, numpy arrays, sequences of numbers and whatever numpy can convert (pandas, polars).

    Raises:
        InputError: If it is an object, string or date array, or no array at all.

    >>> to_tensor([1.0, 2.0], "x")
    tensor([1., 2.], dtype=torch.float64)
    """
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise InputError(
            f"{name} holds {array.dtype} values, not numbers: convert it first, "
            f"e.g. {name}.astype('float64') for numbers or labels = numpy.unique({name}, return_inverse=True)[1] "
            "for categories"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    elif array.dtype.kind in "fc" and array.dtype.itemsize > (8 if array.dtype.kind == "f" else 16):
        array = array.astype(np.float64 if array.dtype.kind == "f" else np.complex128)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # torch warns of read-only memory because it cannot protect it; efface never writes to its input.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def to_rows(x: Tensor, width: int, name: str) -> Tensor:
    """`x` of shape `(..., width)` as rows `(n, width)`.

    Raises:
        InputError: If the last dimension is not `width`.
    """
    if x.ndim == 0 or x.shape[-1] != width:
        raise InputError(f"{name} has shape {tuple(x.shape)}, expected (..., {width}): its last dimension is wrong")
    return x.reshape(-1, width)


def check_finite(x: Tensor, name: str, *, first_row: int = 0, index: Tensor | None = None) -> None:
    """Refuse NaN and infinite values in rows `(n, d)`, naming the rows.

    Args:
        x: Rows `(n, d)` or values `(n,)`.
        name: What to call it in the message.
        first_row: Index of the first row in the caller's stream.
        index: `(n,)` row numbers to report instead, where rows were selected.

    Raises:
        InputError: If any value is not finite.

    >>> check_finite(torch.tensor([[1.0], [float("nan")]]), "x")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: x has NaN or infinite values in 1 of 2 rows (first rows: 1): drop or impute them first
    """
    finite = torch.isfinite(x)
    if bool(finite.all()):
        return
    bad = (~finite).reshape(len(x), -1).any(dim=1)
    count = int(bad.sum())
    found = bad.nonzero().flatten()[:_SHOWN]
    found = found if index is None else index.to(found.device)[found]
    rows = ", ".join(str(int(i) + first_row) for i in found) + (", ..." if count > _SHOWN else "")
    raise InputError(
        f"{name} has NaN or infinite values in {count} of {len(x)} rows (first rows: {rows}): drop or impute them first"
    )


def check_positive_int(value: int, name: str) -> int:
    """`value` if it is an integer of at least one."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)
