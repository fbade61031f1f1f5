"""Whether files go together as one: their columns have the same names and types, in the same order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from efface._errors import InputError
from efface.streams.source import Column, Source, shortened

_LIST = re.compile(r"^(large_)?list<\w+: (.*?)(?: not null)?>$")
_CSV_NUMBERS, _GAPS = ("int64", "double"), "null"
_ADVICE = "write all files with the same columns, or name those that have them"


def check_alike(sources: Sequence[Source]) -> None:
    """Refuse files whose columns differ in name, type or order; a column of nothing but gaps has any type.

    Raises:
        InputError: For the first that does; the text names both files, the column and its types.
    """
    known: dict[str, tuple[str, Source]] = {}
    for source in sources:
        if source.shape is not None or sources[0].shape is not None:
            _check_arrays(sources[0], source)
            continue
        found = {column.name: _kind_of(source, column) for column in source.columns}
        _check_names([*(known or found)], found, known, source)
        for name, kind in found.items():
            before, first = known.get(name, (_GAPS, source))
            if _GAPS not in (kind, before) and kind != before:
                raise InputError(
                    f"column {name!r} holds {before} in {first.where} and {kind} in {source.where}: {_ADVICE}"
                )
            known[name] = (kind, source) if before == _GAPS else (before, first)


def _check_names(
    names: Sequence[str], found: Mapping[str, str], known: Mapping[str, tuple[str, Source]], source: Source
) -> None:
    if lost := [name for name in names if name not in found]:
        kind, first = known[lost[0]]
        raise InputError(f"{source.where} has no column {lost[0]!r}, which holds {kind} in {first.where}: {_ADVICE}")
    first = next((each.where for _, each in known.values()), "")
    if new := [name for name in found if name not in names]:
        raise InputError(
            f"{source.where} has a column {new[0]!r}, which holds {found[new[0]]}, and {first} has not: {_ADVICE}"
        )
    if [*names] != [*found]:
        raise InputError(
            f"{source.where} has the columns of {first} in another order ({shortened([*found])}, and not "
            f"{shortened(names)}): {_ADVICE}"
        )


def _check_arrays(first: Source, other: Source) -> None:
    said = [_array_of(source) for source in (first, other)]
    if said[0] != said[1]:
        raise InputError(f"{first.where} holds {said[0]} and {other.where} {said[1]}: save all with one width and type")


def _array_of(source: Source) -> str:
    if source.shape is None:
        return "a table"
    column = source.columns[0]
    width = f"rows of {source.shape[1]}" if len(source.shape) == 2 else "one"
    return f"{width} {'text' if column.kind == 'other' else column.type}"


def _kind_of(source: Source, column: Column) -> str:
    """The type of a column, without what it does not matter for: how lists are laid out, guesses in `.csv` files."""
    if source.path.suffix.lower() == ".csv":
        return "numbers" if column.type in _CSV_NUMBERS else column.type
    return _LIST.sub(r"list<\2>", column.type)


def check_read_alike(sources: Sequence[Any], labels: Sequence[str]) -> None:
    """Labels of `.csv` files may look otherwise in each: 7 in one, 007, which is a name, or 7.5 in another."""
    for name in labels if hasattr(sources[0], "whole") else ():
        read = {_read_as(source, name): source.where for source in sources}
        (first, here), *others = [each for each in read.items() if each[0] != _GAPS] or [(_GAPS, "")]
        if others:
            raise InputError(
                f"column {name!r} holds {first} in {here} and {others[0][0]} in {others[0][1]}: write all alike, or as "
                "text in .parquet files"
            )


def _read_as(source: Any, name: str) -> str:
    if name in source.whole:
        return "whole numbers"
    if name not in source.labels:
        return "text"
    return {"string": "text", "double": "numbers"}.get(kind := _types(source)[name], kind)


def _types(source: Source) -> dict[str, str]:
    return {column.name: column.type for column in source.columns}
