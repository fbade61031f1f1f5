"""Which columns of files, data sets and sources are features and labels, by the names that a caller gave."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from efface._errors import InputError
from efface.core.data_sets import is_dataset
from efface.streams.concepts import Concept
from efface.streams.inputs import Inputs, Labels
from efface.streams.open import open_source
from efface.streams.source import Source, column_names, shortened

Missing = Literal["drop", "mean"]


def find_inputs(
    source: Any,
    x_columns: str | Sequence[str] | None,
    z_columns: str | Sequence[str] | None,
    labels: Any = None,
    missing: Missing | None = None,
) -> Inputs:
    """Features and labels by the names of their columns.

    Raises:
        InputError: If one is not there, holds no numbers, or is both.
    """
    x = as_source(source)
    other = None if labels is None else as_source(labels)
    z = _named(z_columns) if z_columns is not None else () if other is None else column_names(other)
    if not z:
        raise InputError(f"z_columns says no concept: name a column of {x.where} ({shortened(column_names(x))})")
    features = _features(x, x_columns, z if other is None else ())
    (x if other is None else other).select([], z)
    return Inputs(x, features, tuple(_labels(z, other)), missing)


def as_source(value: Any) -> Source:
    """A source as it is; files and data sets opened.

    Raises:
        InputError: If it is nothing of that.
    """
    if all(hasattr(value, name) for name in ("chunks", "columns", "select")):
        return value
    if not is_dataset(value) and not isinstance(value, str | os.PathLike | list | tuple):
        raise InputError(
            f"the source is a {type(value).__name__}, expected files, a data set of Hugging Face or a source: what is "
            "in memory is fitted by LeaceFitter.fit(x, z)"
        )
    return open_source(value)


def _named(columns: str | Sequence[str]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def _labels(z: Sequence[str], other: Source | None) -> Iterator[Labels]:
    """Labels of each concept; of an array with several columns these are one concept."""
    if other is None or (other.shape is None and len(z) == 1) or len(z) == 1:
        chosen = other if other is None else other.select([], z)
        array = other is not None and other.shape is not None
        yield from (Labels(other.where if other is not None and array else name, name, chosen) for name in z)
    elif other.shape is None:
        yield from (Labels(name, name, other.select([], [name])) for name in z)
    else:
        yield Labels(other.where, None, other, tuple(z))


def _features(x: Source, wanted: str | Sequence[str] | None, z: Sequence[str]) -> tuple[str, ...]:
    if x.shape is not None and len(x.shape) != 2:
        raise InputError(f"{x.where} has shape {x.shape}, expected (n, d): save array.reshape(-1, 1)")
    if wanted is None and x.shape is None:
        raise InputError(f"x_columns says no features: name columns of {x.where} ({shortened(column_names(x))})")
    found = column_names(x) if wanted is None else _named(wanted)
    x.select(found)
    if not found or len({*found}) < len(found):
        raise InputError(f"x_columns is {list(found)}: name each feature once")
    if both := [name for name in found if name in z]:
        raise InputError(f"{shortened(both)} is in x_columns and in z_columns: a concept is no feature, name it once")
    kinds = {column.name: column for column in x.columns}
    if bad := [name for name in found if kinds[name].kind == "other"]:
        listed = shortened([f"{name} ({kinds[name].type})" for name in bad])
        raise InputError(f"{x.where} has columns that hold no numbers: {listed}: leave them out of x_columns")
    return found


def known_concepts(inputs: Inputs) -> tuple[Concept | None, ...]:
    """What each concept is, where its classes are known before it is read; None where they are not."""
    found = []
    for labels in inputs.labels:
        classes = getattr(labels.source or inputs.x, "classes", {}).get(labels.column)
        found.append(classes and Concept(labels.name, "categorical", tuple(classes), len(classes)))
    return tuple(found)
