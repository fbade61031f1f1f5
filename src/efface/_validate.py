"""Checks on what users pass in: every failure says what was given, what was expected and what to write."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import shown
from efface.core.arrays import dense, read_array, refuse_rows

_T = TypeVar("_T")
FRACTIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
"""Dtypes with which torch calculates and which hold more than whole numbers."""


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


def check_finite(x: Tensor, name: str, *, index: Any = None) -> None:
    """Refuse NaN and infinite values in rows `(n, d)`, naming the rows.

    Args:
        x: Rows `(n, d)` or values `(n,)`.
        name: What to call it in the message.
        index: Number of the first row in the caller's stream, or `(n,)` of each row, where rows were selected.

    Raises:
        InputError: If any value is not finite.

    >>> check_finite(torch.tensor([[1.0], [float("nan")]]), "x")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: x has NaN or infinite values in 1 of 2 rows (first rows: 1): drop or impute them first
    """
    x = dense(x, name)
    if bool(x.sum().isfinite()):  # NaN and infinity show there, and it costs a twentieth of looking at each
        return
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        what, advice = f"{name} has NaN or infinite values", "drop or impute them first"
        refuse_rows(~finite, what, advice, index)


def check_positive_int(value: Any, name: str) -> int:
    """`value` if it is an integer of at least one."""
    return check_int(value, name, least=1)


def check_int(value: Any, name: str, *, least: int | None = None) -> int:
    """`value` as a Python integer if it is one, and not less than that; booleans are none.

    >>> check_int(np.int64(3), "n")
    3
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or (least is not None and value < least):
        raise InputError(
            f"{name} must be an integer{'' if least is None else f' of at least {least}'}, got {shown(value)}"
        )
    return int(value)


def check_int64(value: Any, name: str) -> int:
    """`value` if it is an integer that a tensor can hold."""
    if not -(2**63) <= check_int(value, name) < 2**63:
        raise InputError(f"{name} is {value}, which no tensor of integers holds: write a smaller number")
    return int(value)


def check_type(value: Any, kind: type[_T], name: str, advice: str = "") -> _T:
    """`value` if it is an instance of that type."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is a {type(value).__name__}, expected a {kind.__name__}{advice and f': {advice}'}")
    return value


def check_device(device: Any, name: str = "device") -> torch.device:
    """The device, if it is there and holds numbers; None stands for torch's default.

    Raises:
        InputError: If it is no device, or this machine or this build of torch does not have it.

    >>> check_device("cpu")
    device(type='cpu')
    """
    try:
        found = torch.get_default_device() if device is None else torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        said = str(error).partition("\n")[0]
        raise InputError(
            f"{name}={shown(device)} cannot be used here ({said:.200}): write 'cpu', or leave it out"
        ) from error
    if found.type == "meta":
        raise InputError(f"{name}='meta' holds no numbers: write 'cpu', or leave it out")
    return found


def check_to(args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Refuse arguments that `Tensor.to` does not take, a device that is not there, and dtypes without fractions.

    >>> check_to(("cpu",), {"dtype": torch.float16})
    """
    try:
        found = torch.empty(0).to(*args, **options)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        said = str(error).partition("\n")[0]
        raise InputError(f"to(...) does not take this ({said:.200}): write a device, a dtype or both") from error
    if found.dtype not in FRACTIONS:
        raise InputError(f"to({found.dtype}) would lose all fractions: write one of {', '.join(map(str, FRACTIONS))}")


def check_dtype(dtype: Any, allowed: Iterable[torch.dtype], name: str = "dtype") -> torch.dtype:
    """The dtype, if it is one of those."""
    allowed = tuple(allowed)
    if not isinstance(dtype, torch.dtype) or dtype not in allowed:
        raise InputError(f"{name}={shown(dtype)}: write one of {', '.join(map(str, allowed))}")
    return dtype
