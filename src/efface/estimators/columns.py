"""Reading sensitive columns: whatever container they come in, out come named columns without gaps.

Nothing here imports pandas or polars; their tables and series are known by what they can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from efface._errors import InputError

ColumnKind = Literal["categorical", "continuous"]
_SHOWN = 5
# numpy's letters for kinds of dtype: booleans, integers and strings name classes, floats are quantities.
_CATEGORICAL, _CONTINUOUS = "biuUST", "f"


@dataclass(frozen=True)
class Column:
    """One sensitive column.

    Attributes:
        name: Its name in the table or series, None if it has none.
        label: What to call it in messages, e.g. `sensitive_features['sex']`.
        values: `(n,)` values, none missing.
        kind: What its dtype says it is.
    """

    name: str | None
    label: str
    values: NDArray[Any]
    kind: ColumnKind

    def numbers(self) -> NDArray[np.float64]:
        """The values as floats.

        Raises:
            InputError: If they are no numbers.
        """
        try:
            return self.values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.label} is continuous, but holds no numbers: {error}") from error


def read_columns(value: Any, source: str) -> list[Column]:
    """The columns of a table, series, array or list.

    Args:
        value: `(n,)` or `(n, m)`: pandas, polars, numpy, torch, or lists.
        source: What to call it in messages.

    Raises:
        InputError: If a value is missing or infinite, or neither a class nor a number.

    >>> [c.kind for c in read_columns([["a", 1.5], ["b", 2.5]], "s")]
    ['categorical', 'continuous']
    """
    if is_table(value):
        names = [str(name) for name in value.columns]
        return [_read(column_at(value, i), f"{source}[{n!r}]", n) for i, n in enumerate(names)]
    if _is_series(value):
        return [_read(value, source, None if value.name is None else str(value.name))]
    array = _to_array(value)
    if array.ndim == 1:
        return [_read(array, source, None)]
    if array.ndim != 2:
        raise InputError(f"{source} has shape {array.shape}, expected one value or one row of columns a row of X")
    if array.shape[1] == 1:
        return [_read(array[:, 0], source, None)]
    return [_read(column, f"{source}[:, {i}]", None) for i, column in enumerate(array.T)]


def is_table(value: Any) -> bool:
    """Whether a value is a pandas or polars table."""
    return hasattr(value, "columns") and hasattr(value, "dtypes")


def column_at(table: Any, position: Any) -> Any:
    """The column at a position, or the table of those at several, of a table or an array."""
    return table.iloc[:, position] if hasattr(table, "iloc") else table[:, position]


def _is_series(value: Any) -> bool:
    return hasattr(value, "isna") or hasattr(value, "is_null")


def _to_array(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    # numpy turns a list that mixes strings and numbers into strings; the numbers are wanted as such.
    return array if hasattr(value, "dtype") or array.dtype.kind not in "US" else np.array(value, dtype=object)


def _read(column: Any, label: str, name: str | None) -> Column:
    values = np.asarray(column)
    _check_complete(_gaps(column, values), label)
    declared = str(getattr(column, "dtype", "")) == "category"
    return Column(name, label, values, "categorical" if declared else _kind(values, label))


def _gaps(column: Any, values: NDArray[Any]) -> NDArray[np.bool_]:
    """`(n,)`: where a value is null, NaN or infinite."""
    if hasattr(column, "isna"):
        gaps = np.asarray(column.isna())
    elif hasattr(column, "is_null"):
        gaps = np.asarray(column.is_null())
    else:
        gaps = np.zeros(len(values), dtype=bool)
    if values.dtype.kind == "f":
        return gaps | ~np.isfinite(values)
    if values.dtype.kind == "O" and not gaps.any():
        return np.array([v is None or v != v for v in values], dtype=bool)
    return gaps


def _check_complete(gaps: NDArray[np.bool_], label: str) -> None:
    count = int(gaps.sum())
    if count:
        rows = ", ".join(map(str, np.flatnonzero(gaps)[:_SHOWN])) + (", ..." if count > _SHOWN else "")
        raise InputError(
            f"{label} is missing, NaN or infinite (inf) in {count} of {len(gaps)} rows (first rows: {rows}): "
            "drop or impute those rows first, or make 'missing' a category of its own"
        )


def _kind(values: NDArray[Any], label: str) -> ColumnKind:
    letter = values.dtype.kind
    if letter == "O":
        return "continuous" if all(isinstance(v, float) for v in values) else "categorical"
    if letter in _CATEGORICAL + _CONTINUOUS:
        return "continuous" if letter in _CONTINUOUS else "categorical"
    raise InputError(f"{label} holds {values.dtype}, expected classes (strings, integers, booleans) or real numbers")
