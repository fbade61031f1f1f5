"""A fit of rows in one process, from files or data sets that may be larger than memory.

    fitter = fit("parts/*.parquet", x_columns="embedding", z_columns="sex")
    eraser = fitter.eraser

Rows are read in chunks, ahead of the sums by a thread, so that memory holds a few chunks and the sums, however many
rows there are. Classes are found in a first pass over the labels alone, but for data sets that say what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from efface._errors import InputError
from efface._validate import check_positive_int
from efface.core.doors import check_call, check_word
from efface.core.labels import Kind, check_kind
from efface.core.method import get_method
from efface.core.provenance import called, provenance
from efface.engines.finding import Missing, find_inputs, known_concepts
from efface.engines.sums import Sums, check_method, classes_of, engine_of, with_means
from efface.moments.gram import rows_per_chunk
from efface.streams.concepts import Concept, Some, learn
from efface.streams.inputs import Inputs
from efface.streams.prefetch import prefetched
from efface.streams.ranges import Gatherer
from efface.streams.source import shortened

_CHUNK_ROWS = 4096


def fit(
    source: Any,
    x_columns: str | Sequence[str] | None = None,
    z_columns: str | Sequence[str] | None = None,
    method: str = "leace",
    *,
    labels: Any = None,
    kind: Kind = "auto",
    missing: Missing | None = None,
    chunk_rows: int | None = None,
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
        chunk_rows: Rows that are read and summed at a time. Left out, 4,096, and up to four times that of narrow rows.
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
    if chunk_rows is not None:
        check_positive_int(chunk_rows, "chunk_rows")
    if missing is not None:
        check_word(missing, Missing, "missing")
    chosen = get_method(method, "rows")
    config = chosen.config.of(options, method=chosen.name)
    inputs = find_inputs(source, x_columns, z_columns, labels, missing)
    chunk_rows = chunk_rows or _rows_at_a_time(inputs)
    inputs = filled(inputs, chunk_rows, prefetch=prefetch)
    labels_seen = _Count()
    concepts = _concepts(inputs, check_kind(kind), chunk_rows, prefetch, labels_seen)
    check_method(chosen, concepts)
    sums = Sums(inputs, chosen, concepts, config, device=device)
    with _ahead(inputs.with_numbers(chunk_rows, check=False), prefetch) as pieces:
        for piece, x in pieces:
            sums.update(piece, x)
    if missing is None and labels_seen.rows not in (None, sums.end):
        raise InputError(
            f"{inputs.x.where} gave {labels_seen.rows} rows when its labels were looked at and {sums.end} now: it must "
            "give the same each time"
        )
    if missing is not None or labels_seen.rows is None:  # Otherwise counts agree, which they would not.
        _check_begins_again(inputs, looked_at=labels_seen.looked)
    fitter = sums.fitter
    if fitter is None:
        none = (
            "has no rows" if missing is None else f"has no row without a missing value: missing={missing!r} leaves none"
        )
        raise InputError(f"{inputs.x.where} {none}")
    fitter.columns = inputs.features if inputs.x.shape is None and len(inputs.features) == fitter.x_dim else ()
    fitter.classes = classes_of(concepts)
    call = called("efface.engines.local.fit", {**given, **options})
    return fitter.note(provenance(subject=inputs.x.where, call=call) | engine_of("local", fitter, concepts))


def _rows_at_a_time(inputs: Inputs) -> int:
    """Rows of a chunk, where nobody says: as many as are looked at in one go, or of lists, whose width is not known."""
    listed = any(column.kind == "list" for column in inputs.x.columns if column.name in inputs.features[:1])
    return _CHUNK_ROWS if listed else max(_CHUNK_ROWS, rows_per_chunk(len(inputs.features)))


class _Count:
    """How many rows something had, once all of it was gone through."""

    rows: int | None = None
    looked = False

    def of(self, labels: Iterable[Some]) -> Iterator[Some]:
        rows, self.looked = 0, True
        for values, index in labels:
            rows += len(values[0])
            yield values, index
        self.rows = rows


def _check_begins_again(inputs: Inputs, *, looked_at: bool) -> None:
    """Refuse, after a fit, streams that can be gone through once and were looked at before: some rows are lost then.

    Raises:
        InputError: If there is one; nothing else tells where rows repeat, or few labels were looked at.
    """
    for source in (inputs.x, *(labels.source for labels in inputs.labels if labels.source is not None)):
        again, looked = getattr(source, "begins_again", None), looked_at or getattr(source, "peeked", False)
        if looked and again is not None and not again():
            raise InputError(
                f"{source.where} can be gone through once only, and its first rows were gone through to see what they "
                "are: make it of a function that begins anew each time"
            )


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
