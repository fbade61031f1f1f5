"""A fit of rows in one process, from files or data sets that may be larger than memory.

    fitter = fit("parts/*.parquet", x_columns="embedding", z_columns="sex")
    eraser = fitter.eraser

Rows are read in chunks, ahead of the sums by a thread, so that memory holds a few chunks and the sums, however many
rows there are. Classes are found in a first pass over the labels alone, but for data sets that say what they are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_finite, check_positive_int
from efface.core.config import Config
from efface.core.data_sets import is_dataset
from efface.core.doors import check_call, check_word
from efface.core.labels import Kind, check_kind
from efface.core.method import Method, get_method
from efface.core.provenance import called, provenance
from efface.erasers.base import eraser_dtype
from efface.streams.concepts import Concept, joint, joint_kind, learn
from efface.streams.inputs import Inputs, Labels
from efface.streams.open import open_source
from efface.streams.prefetch import prefetched
from efface.streams.ranges import Gatherer
from efface.streams.source import Source, column_names, shortened

Missing = Literal["drop", "mean"]


def fit(
    source: Any,
    x_columns: str | Sequence[str] | None = None,
    z_columns: str | Sequence[str] | None = None,
    method: str = "leace",
    *,
    labels: Any = None,
    kind: Kind = "auto",
    missing: Missing | None = None,
    chunk_rows: int = 4096,
    prefetch: bool = True,
    device: str | torch.device | None = None,
    **options: Any,
) -> Any:
    """Fit a method of rows on what may be larger than memory.

    Args:
        source: Files as `efface.streams.open_source` takes them (a path, a pattern, a folder, a list), a data set of
            Hugging Face (streamed or not), or a source.
        x_columns: The features: columns of numbers, or one of lists of numbers. Left out, all of an array.
        z_columns: The concept, or several, which are erased together: columns of the source, or of `labels`. Left
            out, all of `labels`.
        method: Of `efface.methods("rows")`.
        labels: Where the labels lie if not in the source: anything that `source` may be, with as many rows.
        kind: What labels are, if not what their type says.
        missing: `"drop"` leaves out rows in which a value is missing, `"mean"` those without a label, and takes the
            mean of its column for a feature, found in a pass more; None refuses them.
        chunk_rows: Rows that are read and summed at a time.
        prefetch: Whether to read ahead. The result is the same to the last bit.
        device: Where sums live, and are formed.
        options: Of the method.

    Returns:
        The fitter, with `.eraser` and `.report`; it can be updated, merged and saved. Labels that are text, classes of
        a data set, and integers that are not 0, 1, 2, ... are numbered, by `fitter.classes`.

    Raises:
        InputError: If columns are not there, hold no numbers, or rows cannot be used; file, column and row are named.
        FormatError: If a file is damaged.

    Does not guarantee: the same bits for another `chunk_rows`.
    """
    check_call(fit, locals())
    given = {name: value for name, value in locals().items() if name != "options"}
    check_positive_int(chunk_rows, "chunk_rows")
    if missing is not None:
        check_word(missing, Missing, "missing")
    chosen = get_method(method, "rows")
    config = chosen.config.of(options, method=chosen.name)
    inputs = find_inputs(source, x_columns, z_columns, labels, missing)
    inputs = filled(inputs, chunk_rows, prefetch=prefetch)
    labels_seen = _Count()
    concepts = _concepts(inputs, check_kind(kind), chunk_rows, prefetch, labels_seen)
    check_method(chosen, concepts)
    fitter, rows = None, 0
    with _ahead(inputs.with_numbers(chunk_rows), prefetch) as pieces:
        for piece, x in pieces:
            z = joint(concepts, piece.labels, piece.chunk.first_row)
            fitter = new_fitter(chosen, x, concepts, config, device=device) if fitter is None else fitter
            update(fitter, x, z, inputs, piece.chunk.first_row)
            rows = piece.end
    if missing is None and labels_seen.rows not in (None, rows):
        raise InputError(
            f"{inputs.x.where} gave {labels_seen.rows} rows when its labels were looked at and {rows} now: it must "
            "give the same each time"
        )
    if fitter is None:
        none = (
            "has no rows" if missing is None else f"has no row without a missing value: missing={missing!r} leaves none"
        )
        raise InputError(f"{inputs.x.where} {none}")
    fitter.columns = inputs.features if inputs.x.shape is None and len(inputs.features) == fitter.x_dim else ()
    fitter.classes = classes_of(concepts)
    call = called("efface.engines.local.fit", {**given, **options})
    return fitter.note(provenance(subject=inputs.x.where, call=call) | engine_of("local", fitter, concepts))


# ------------------------------------------------------------------------------------------------------- what is given


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


class _Count:
    """How many rows something had, once all of it was gone through."""

    rows: int | None = None

    def of(self, labels: Iterable[list[Any]]) -> Iterator[list[Any]]:
        rows = 0
        for values in labels:
            rows += len(values[0])
            yield values
        self.rows = rows


def _concepts(inputs: Inputs, kind: Kind, rows: int, prefetch: bool, count: _Count) -> tuple[Concept, ...]:
    """What the concepts are; labels are read where one is not known."""
    known = known_concepts(inputs)
    whole = tuple(concept for concept in known if concept is not None)
    if len(whole) == len(known):
        if kind == "continuous" and len(whole) == 1:
            raise InputError(
                f"{whole[0].name} has classes ({shortened(whole[0].classes)}): leave out kind='continuous'"
            )
        return whole
    with _ahead(inputs.labels_only(rows), prefetch) as labels:
        learned = learn([each.name for each in inputs.labels], kind, count.of(labels))
    return tuple(before or after for before, after in zip(known, learned, strict=True))


@contextmanager
def _ahead(items: Iterable[Any], prefetch: bool) -> Iterator[Iterable[Any]]:
    if not prefetch:
        yield items
        return
    with prefetched(items) as ahead:
        yield ahead


def filled(inputs: Inputs, rows: int, *, prefetch: bool = True) -> Inputs:
    """With the means of the features, found in one pass, if these stand for missing values.

    Raises:
        InputError: If a feature has no value at all.
    """
    if inputs.missing != "mean" or inputs.means is not None:
        return inputs
    gathered = Gatherer()
    with _ahead(inputs.with_numbers(rows, gaps=True), prefetch) as pieces:
        for _, x in pieces:
            gathered.update(x)
    return with_means(inputs, gathered)


def with_means(inputs: Inputs, gathered: Gatherer) -> Inputs:
    """The inputs with the means of the features that were gathered over all rows.

    Raises:
        InputError: If a feature has no value at all.
    """
    columns = gathered.columns()
    if columns is None:
        raise InputError(f"{inputs.x.where} has no numbers that have a mean: write missing='drop' (--missing drop)")
    empty = [i for i, low in enumerate(columns.low.tolist()) if low == math.inf]
    if empty:
        one_each = len(columns.low) == len(inputs.features)
        names = shortened([inputs.features[i] if one_each else f"number {i} of {inputs.features[0]}" for i in empty])
        raise InputError(f"{inputs.x.where}: {names} has no value at all: leave it out (--exclude)")
    return replace(inputs, means=columns.mean)


# ------------------------------------------------------------------------------------------------------------ the sums


def check_method(method: Method, concepts: Sequence[Concept]) -> None:
    """Refuse a method that takes one concept with classes, where these are others.

    Raises:
        InputError: If so.
    """
    if "continuous" in method.concepts or (len(concepts) == 1 and concepts[0].kind == "categorical"):
        return
    raise InputError(
        f"{method.name} takes one concept with classes, got {'; '.join(map(str, concepts))}: write method='leace' "
        "(--method leace), or kind='categorical' (--kind categorical)"
    )


def new_fitter(
    method: Method, x: Tensor, concepts: Sequence[Concept], config: Config, *, device: str | torch.device | None = None
) -> Any:
    """A fitter of a method for rows like `x` `(n, d)`.

    Args:
        method: Of rows.
        x: Some rows, which give width and dtype.
        concepts: What is erased.
        config: The method's options.
        device: Where sums live.
    """
    options = {option.name: getattr(config, option.name) for option in config.options()}
    options |= {"kind": joint_kind(concepts), "dtype": eraser_dtype(x.dtype), "device": device}
    return method.fitter(x.shape[1], sum(concept.width for concept in concepts), **options)


def update(fitter: Any, x: Tensor, z: Tensor, inputs: Inputs, first_row: int) -> None:
    """Update; where that fails on a value, say in which row of the whole file.

    Raises:
        InputError: If a value cannot be used.
    """
    try:
        fitter.update(x, z)
    except InputError:
        check_finite(x, inputs.x.where, first_row=first_row)
        check_finite(z, " and ".join(labels.spec for labels in inputs.labels), first_row=first_row)
        raise


def engine_of(name: str, fitter: Any, concepts: Sequence[Concept], **more: Any) -> dict[str, Any]:
    """What the provenance of an eraser says of the engine, the rows, and what the concepts are."""
    said = [{"name": each.name, "kind": each.kind, "classes": [*each.classes]} for each in concepts]
    return {
        "engine": {"name": name, **more, "parts": more.get("parts", 1), "rows": int(fitter.n.sum()), "concepts": said}
    }


def classes_of(concepts: Sequence[Concept]) -> tuple[Any, ...]:
    """What the numbers of the classes stand for, where they were not numbers from 0 already."""
    if len(concepts) != 1 or concepts[0].kind != "categorical":
        return ()
    classes = tuple(concepts[0].classes)
    return () if all(value == i and not isinstance(value, str) for i, value in enumerate(classes)) else classes
