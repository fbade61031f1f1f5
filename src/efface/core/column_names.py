"""Names of columns and of rows, where what callers pass has them: one rule for all that must not mix them up.

It is scikit-learn's: other names than those of the fit, or the same in another order, are refused; where one side has
none, a warning says that nothing could be compared. A tensor never has any, and is taken as it stands.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from efface._errors import EffaceWarning, InputError
from efface._text import visible
from efface.core.arrays import refuse_class

_SHOWN = 5
_HOUSE = __name__.partition(".")[0]
_ALIKE = "fit both on the same columns in one order"


def columns_of(x: Any) -> tuple[str, ...]:
    """Names of the columns of rows, as text; none for what has no names.

    Tables of pandas, polars and pyarrow have them, and a row of pandas. A numbering from 0 that pandas makes where no
    names were given is none.

    Args:
        x: Any array-like.

    >>> import pandas as pd
    >>> columns_of(pd.DataFrame({"age": [1.0], "bmi": [2.0]})), columns_of(pd.DataFrame([[1.0, 2.0]]))
    (('age', 'bmi'), ())
    """
    if isinstance(x, Tensor | np.ndarray | list | tuple | type) or hasattr(x, "collect"):  # the last one of lazy tables
        return ()
    if isinstance(found := getattr(x, "column_names", None), list):  # of pyarrow, whose `columns` are data
        return tuple(map(str, found))
    if hasattr(x, "iloc") and getattr(x, "ndim", 0) == 1:
        return _named(x.index)
    return _named(x.columns) if hasattr(x, "columns") and hasattr(x, "dtypes") else ()


def _named(labels: Any) -> tuple[str, ...]:
    labels = list(labels)
    return () if labels == list(range(len(labels))) else tuple(map(str, labels))


def check_columns(fitted: Sequence[str], x: Any, name: str = "x", *, whose: str = "eraser.columns") -> None:
    """Refuse rows with other columns than those of a fit, or with the same in another order.

    Args:
        fitted: Names of the fit; empty if it had none.
        x: The rows.
        name: What to call them.
        whose: Where the caller finds the names of the fit.

    Raises:
        InputError: If both have names and they differ; the text says how, and what to write.

    >>> import polars as pl
    >>> check_columns(["age", "bmi"], pl.DataFrame({"bmi": [2.0], "age": [1.0]}))
    Traceback (most recent call last):
    ...
    efface._errors.InputError: x has the columns of the fit in another order (first 'bmi', which was 'age'): write \
x[list(eraser.columns)]
    """
    if x is None or isinstance(x, Tensor):
        return
    refuse_class(x, name)
    given = columns_of(x)
    if fitted and given:
        select = f"{name}.select({{}})" if hasattr(x, "column_names") else f"{name}[{{}}]"
        compare_columns(fitted, given, name, advice=f"write {select.format(f'list({whose})')}")
    elif given and sorted(given, key=_number) == [str(i) for i in range(len(given))]:
        # Numbers in another order than that in which they would be no names.
        compare_columns([str(i) for i in range(len(given))], given, name, advice=f"write {name}[range({len(given)})]")
    elif fitted:
        _warn(f"{name} has no names of columns and the fit had: its columns are taken to be {_shown(fitted)}, in order")
    elif given:
        _warn(f"{name} has names of columns and the fit had none: its columns are taken to be in the order of the fit")


def compare_columns(fitted: Sequence[str], given: Sequence[str], name: str, *, advice: str = _ALIKE) -> None:
    """Refuse names that are not those of a fit in their order.

    Args:
        fitted: Names of the fit.
        given: Names of the columns that are to be the same.
        name: What to call whatever has them.
        advice: What to write.

    Raises:
        InputError: If they differ; the text says how.
    """
    fitted, given = tuple(fitted), tuple(given)
    if fitted == given:
        return
    missing, unknown = ([n for n in a if n not in b] for a, b in ((fitted, {*given}), (given, {*fitted})))
    if missing or unknown or len(fitted) != len(given):
        lacks = f"lacks {_shown(missing)}" if missing else ""
        more = f"has {_shown(unknown)}, not in the fit" if unknown else ""
        said = " and ".join(filter(None, (lacks, more))) or f"has {len(given)} columns, the fit had {len(fitted)}"
        raise InputError(f"{name} has other columns than the fit: it {said}" + ("" if missing else f": {advice}"))
    first, was = next((g, f) for g, f in zip(given, fitted, strict=True) if g != f)
    raise InputError(
        f"{name} has the columns of the fit in another order (first {visible(repr(first))}, which was "
        f"{visible(repr(was))}): {advice}"
    )


def joint_columns(
    known: Sequence[str], x: Any, name: str = "x", *, first: bool, whose: str = "fitter.columns"
) -> tuple[str, ...]:
    """Names of the columns of all batches so far, this one included.

    Args:
        known: Those of earlier batches.
        x: The batch.
        name: What to call it.
        first: Whether there was no batch before.
        whose: Where the caller finds the names.

    Raises:
        InputError: If they differ.
    """
    if known or not first:
        check_columns(known, x, name, whose=whose)
    return tuple(known) or columns_of(x)


def common_columns(*parts: Any) -> tuple[str, ...]:
    """Names of the columns that all parts of an erasure were fitted on; of a part without any, those of the others.

    Raises:
        InputError: If two parts have other ones.
    """
    found: tuple[str, ...] = ()
    for i, part in enumerate(parts):
        own = getattr(part, "columns", ())
        if found and own:
            compare_columns(found, own, f"part {i}")
        found = found or own
    return found


def compare_tables(one: Any, other: Any, names: tuple[str, str]) -> None:
    """Refuse two tables that should have the same columns and do not; what has no names is not looked at.

    Args:
        one: A table or array.
        other: Another one.
        names: What to call them.

    Raises:
        InputError: If both have names and they differ.
    """
    own, theirs = columns_of(one), columns_of(other)
    if own and theirs and own != theirs:
        raise InputError(
            f"{names[1]} has other columns than {names[0]}, or the same in another order ({_shown(theirs)} and "
            f"{_shown(own)}): give both with the same columns"
        )


def check_same_rows(**given: Any) -> None:
    """Refuse tables and series of pandas that go together and name their rows otherwise.

    Nothing here puts rows into another order. Names that pandas has numbered itself say nothing about the
    other's, unless these are the same numbers in another order.

    Args:
        **given: Rows and what goes with them, by name; what has no names of rows does not count.

    Raises:
        InputError: If they do not go together; the text says how, and what to write.

    >>> import pandas as pd
    >>> x, z = pd.DataFrame({"a": [1.0, 2.0]}, index=["i", "j"]), pd.Series([0, 1], index=["j", "i"])
    >>> check_same_rows(x=x, z=z)
    Traceback (most recent call last):
    ...
    efface._errors.InputError: z has the rows of x in another order (row 0 is 'j', of x it is 'i'): write \
z.loc[x.index], or z.to_numpy() if they go together as they stand
    """
    for name, value in given.items():
        refuse_class(value, name)
    named = {name: value.index for name, value in given.items() if hasattr(value, "iloc") and hasattr(value, "index")}
    if len(named) < 2:
        return
    (name, rows), *others = named.items()
    for other, index in others:
        if len(index) == len(rows) and not index.equals(rows):
            _compare_rows(name, list(rows), other, list(index))


def _compare_rows(name: str, rows: list[Any], other: str, index: list[Any]) -> None:
    as_they_stand = f"{other}.to_numpy() if they go together as they stand"
    plain, same = list(range(len(rows))), {*rows} == {*index}
    if rows == index or (not same and plain in (rows, index)):
        return
    at = next(i for i, pair in enumerate(zip(rows, index, strict=True)) if pair[0] != pair[1])
    where = f"(row {at} is {visible(repr(index[at]))}, of {name} it is {visible(repr(rows[at]))})"
    if same:
        raise InputError(
            f"{other} has the rows of {name} in another order {where}: write {other}.loc[{name}.index], or "
            f"{as_they_stand}"
        )
    raise InputError(f"{other} is of other rows than {name} {where}: choose the same rows, or write {as_they_stand}")


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else -1


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return visible(", ".join(map(repr, names[:_SHOWN]))) + more


def _warn(text: str) -> None:
    """Warn in the line of whoever has called efface, as doors of all depths lead here."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == _HOUSE:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, EffaceWarning, stacklevel=level)
