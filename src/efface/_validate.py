"""Checks on what users pass in: every failure says what was given, what was expected and what to write."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.arrays import read_array, refuse_rows


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A hint for the text of an error: what comes near to an unknown name; empty if nothing does.

    >>> did_you_mean("lease", ["leace", "orth"])
    " (did you mean 'leace'?)"
    """
    near = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def to_tensor(value: Any, name: str) -> Tensor:
    """`value` as a tensor that shares its memory where it can.

    Takes tensors, numpy arrays, sequences of numbers, sparse matrices (made dense) and whatever numpy can convert
    (pandas, polars, pyarrow): see `efface.core.arrays.read_array`.

    Raises:
        InputError: If it holds text, dates or other objects, misses values, or is no array at all.

    >>> to_tensor([1.0, 2.0], "x")
    tensor([1., 2.], dtype=torch.float64)
    """
    return read_array(value, name).tensor(name)


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
    if not bool(finite.all()):
        what, advice = f"{name} has NaN or infinite values", "drop or impute them first"
        refuse_rows(~finite, what, advice, first_row if index is None else index)


def check_positive_int(value: int, name: str) -> int:
    """`value` if it is an integer of at least one."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)
