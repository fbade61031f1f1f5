"""Reading sensitive columns: whatever container they come in, out come named columns without gaps.

Nothing here imports pandas or polars; their tables and series are known by what they can do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from efface._errors import InputError
from efface._text import shown
from efface._validate import to_tensor
from efface.core.arrays import array_of_sequence, countable, dense, read_array, refuse_class
from efface.core.doors import length_of
from efface.core.labels import Column, on_host, read_column

_T = TypeVar("_T")
_SHOWN = 8


def each_of(reads: Iterable[Callable[[], _T]]) -> list[_T]:
    """What each of these gives; all that they refuse in one error, up to a limit."""
    found: list[_T] = []
    refused: list[InputError] = []
    for read in reads:
        try:
            found.append(read())
        except InputError as error:
            refused.append(error)
    if len(refused) > 1:
        more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise InputError("; ".join(map(str, refused[:_SHOWN])) + more) from refused[0]
    if refused:
        raise refused[0]
    return found


def read_columns(value: Any, source: str) -> list[Column]:
    """The columns of a table, series, array or list.

    Args:
        value: `(n,)` or `(n, m)`: pandas, polars, pyarrow, numpy, torch, or lists.
        source: What to call it in messages.

    Raises:
        InputError: If a value is missing or infinite, or neither a class nor a number.

    >>> [c.kind for c in read_columns([["a", 1.5], ["b", 2.5]], "s")]
    ['categorical', 'continuous']
    """
    refuse_class(value, source)
    value = collected(value)
    if is_table(value):
        names = [str(name) for name in value.columns]
        parts = [(column_at(value, i), f"{source}[{n!r}]", n) for i, n in enumerate(names)]
        return each_of(partial(read_column, part, label, name=n) for part, label, n in parts)
    if hasattr(value, "column_names"):  # a pyarrow table
        parts = [(value.column(n), f"{source}[{n!r}]", n) for n in value.column_names]
        return each_of(partial(read_column, part, label, name=n) for part, label, n in parts)
    array: Any = array_of_sequence(value, source) if isinstance(value, (list, tuple)) else value
    array: Any = dense(array, source) if isinstance(array, Tensor) else array
    array = array.toarray() if hasattr(array, "tocsr") else array
    array = array if hasattr(array, "shape") or length_of(array) is not None else np.asarray(array)
    name = None if getattr(array, "name", None) is None else str(array.name)
    shape = tuple(array.shape) if hasattr(array, "shape") else (len(array),)
    if not all(isinstance(side, int) for side in shape):
        raise InputError(f"{source} is {shown(array)}, expected one value or one row of columns a row of X")
    if len(shape) == 1:
        return [read_column(array, source, name=name)]
    if len(shape) != 2:
        raise InputError(f"{source} has shape {shape}, expected one value or one row of columns a row of X")
    if shape[1] == 1:
        return [read_column(array[:, 0], source)]
    return each_of(partial(read_column, array[:, i], f"{source}[:, {i}]") for i in range(shape[1]))


def is_table(value: Any) -> bool:
    """Whether a value is a pandas or polars table."""
    return hasattr(value, "columns") and hasattr(value, "dtypes")


def collected(value: Any) -> Any:
    """A table of polars that is not computed yet as one that is; anything else as it is."""
    return value.collect() if hasattr(value, "collect") and hasattr(value, "collect_schema") else value


def column_at(table: Any, position: Any) -> Any:
    """The column at a position, or the table of those at several, of a table or an array."""
    return table.iloc[:, position] if hasattr(table, "iloc") else table[:, position]


def readable(X: Any) -> Any:
    """X as scikit-learn reads it: without what it would drop in silence (a mask, names), or cannot take.

    Raises:
        InputError: If a column holds dates, several have one name, or an array holds records.
    """
    refuse_class(X, "X")
    X = collected(countable(X))
    if hasattr(X, "column_names") and hasattr(X, "to_pandas"):  # pyarrow, whose names scikit-learn does not see
        X = X.to_pandas()
    if is_table(X):
        return _without_sparse_columns(_without_dates(_named_once(X)))
    special = isinstance(X, (np.ma.MaskedArray, np.matrix)) or hasattr(X, "tocsr") or hasattr(X, "to_dense")
    special = special or getattr(getattr(X, "dtype", None), "names", None) is not None
    special = special or (isinstance(X, list | tuple) and any(isinstance(row, Tensor) for row in X))
    return on_host(to_tensor(X, "X").resolve_conj().resolve_neg()) if special else X


def _named_once(table: Any) -> Any:
    """The table itself, if its columns can be told apart by their names.

    Raises:
        InputError: If several have one name.
    """
    counts = Counter(map(str, table.columns))
    twice = [name for name, n in counts.items() if n > 1]
    if twice:
        raise InputError(
            f"X has {counts[twice[0]]} columns of the name {twice[0]!r}: rename or drop them, so that each name says "
            "which column is meant"
        )
    return table


def _without_dates(table: Any) -> Any:
    """The table itself, if no column holds dates or times.

    Raises:
        InputError: If one does.
    """
    kinds = {name: str(kind) for name, kind in zip(table.columns, table.dtypes, strict=True)}
    times = ("date", "time", "duration", "period")
    found = {repr(name): kind for name, kind in kinds.items() if kind.lower().startswith(times)}
    if len(found) == 1:
        ((name, kind),) = found.items()
        raise InputError(f"column {name} of X holds dates or times ({kind}): drop it, or convert it to numbers")
    if found:
        raise InputError(f"columns {_listed(found)} of X hold dates or times: drop them, or convert them to numbers")
    return table


@contextmanager
def columns_named(table: Any) -> Iterator[None]:
    """In this block, what scikit-learn says of a value in a table becomes an error that names all such columns."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        said = _no_numbers(table) if is_table(table) else []
        if said:
            raise InputError("; ".join(said)) from error
        raise


def _no_numbers(table: Any) -> list[str]:
    """What columns of a table cannot be features, in words: those of text, and those with gaps."""
    text, gaps = {}, {}
    for i, name in enumerate(table.columns):
        column = column_at(table, i)
        try:
            values = np.asarray(column, dtype=np.float64)
            gap = ~np.isfinite(values)
        except (TypeError, ValueError):
            read = read_array(column, f"column {name!r} of X")
            if read.is_named:
                text[repr(name)] = str(table.dtypes[i] if isinstance(table.dtypes, list) else table.dtypes.iloc[i])
                continue
            gap = np.zeros(len(column), dtype=bool) if read.missing is None else read.missing
        if gap.any():
            gaps[repr(name)] = f"{int(gap.sum())} of {len(gap)} rows"
    said = []
    if text:
        said.append(f"X has text where numbers are needed, in {_listed(text)}: drop these columns, or encode them")
    if gaps:
        said.append(f"X has missing (NaN) or infinite (inf) values in {_listed(gaps)}: drop or impute those rows first")
    return said


def _listed(found: Mapping[str, str]) -> str:
    """Names with what is said of each, the first of them, and how many more there are."""
    first = ", ".join(f"{name} ({what})" for name, what in list(found.items())[:_SHOWN])
    return first if len(found) <= _SHOWN else f"{first} and {len(found) - _SHOWN} more"


def _without_sparse_columns(table: Any) -> Any:
    """The table with pandas' sparse columns as plain ones."""
    sparse = {n: k.subtype for n, k in zip(table.columns, table.dtypes, strict=True) if str(k).startswith("Sparse")}
    return table.astype(sparse) if sparse else table
