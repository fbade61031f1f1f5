"""Fits on Ray: each task sums some rows, tasks merge the sums along a tree, and one whole reaches this process.

    from efface.engines.ray import fit
    fitter = fit("embeddings/", "embedding", "label")            # a Ray on this machine, for as long as it takes
    fitter = fit("embeddings/", "embedding", "label", address="10.0.0.1:6379")
    eraser = fitter.eraser

Exact: the sums of the parts merge to those of one process up to the rounding of float64, for parts of any sizes. Parts
depend on the data alone, so that any number of workers gives the same bits. A worker that dies has its task done again,
up to `max_retries` times; a task returns its sums and changes nothing, so rows count once whatever died.

Memory: a task holds the sums of its method (d^2 numbers of 8 bytes for LEACE; k d^2 for QLEACE of k classes), a merge
three times that, this process the whole once. As many tasks run at a time as there are cores, and as many again wait.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from efface._errors import InputError
from efface._io import as_path
from efface._validate import check_int, check_positive_int
from efface.core.doors import check_call
from efface.core.labels import Kind
from efface.core.method import get_method
from efface.core.provenance import called, provenance
from efface.engines import cluster
from efface.engines.finding import Missing, find_inputs
from efface.engines.parts import Job
from efface.engines.passes import OfDataset, OfFiles, erased, filled, fitted, is_dataset, learn_concepts
from efface.engines.sums import check_method, classes_of
from efface.engines.tasks import Work
from efface.engines.writing import Written, begun, order_of, written
from efface.streams.open import open_source


def fit(
    source: Any,
    x_columns: str | Sequence[str] | None = None,
    z_columns: str | Sequence[str] | None = None,
    method: str = "leace",
    *,
    labels: Any = None,
    kind: Kind = "auto",
    missing: Missing | None = None,
    address: str | None = None,
    workers: int | None = None,
    chunk_rows: int = 4096,
    rows_per_task: int | None = None,
    max_retries: int = 3,
    **options: Any,
) -> Any:
    """Fit a method of rows on Ray, as `efface.engines.local.fit` does in one process.

    Args:
        source: A `ray.data.Dataset`, or what `efface.streams.open_source` takes: a folder, pattern or list of
            `.parquet` (`.npy`, `.safetensors`) files, where all workers see them by the same paths. A data set is gone
            through twice: `materialize()` it before, if it costs much or is not the same each time.
        x_columns: The columns that are x; one of lists is enough. Left out, all of an array.
        z_columns: The labels, a concept for each column. Text, integers and booleans are classes, numbered in sorted
            order over all rows. Left out, all of `labels`.
        method: Name of a method of rows.
        labels: Files with the labels, if these are not in the source, with as many rows.
        kind: What numbers are as labels.
        missing: `"drop"` leaves out rows that miss a value, `"mean"` fills features; None refuses.
        address: `"host:port"` of a cluster, `"auto"`, or None for a Ray on this machine.
        workers: Tasks at a time; None is the number of cores.
        chunk_rows: Rows in memory at a time, in each task.
        rows_per_task: Least rows of a task over files; None takes a 256th of all, from 16,384 to 1,048,576. A row group
            is in one task. Of a data set a task takes a block.
        max_retries: How often a task may die.
        **options: Options of the method.

    Returns:
        The fitter, as a fit in one process gives it, with `.eraser` and `.report`. The provenance of the eraser says
        the engine, how many parts and rows, and what the concepts are.

    Raises:
        InputError: If columns, labels, options or the address are wrong; of values the text says where they are.
        FormatError: If a file is damaged.
        GroupError: If workers die again and again.
        MissingExtraError: If ray is not installed.

    Does not guarantee: anything of data that change meanwhile, but that files are refused that do.
    """
    check_call(fit, locals())
    given = {name: value for name, value in locals().items() if name != "options"} | options
    call = called("efface.engines.ray.fit", given)
    chosen = get_method(method, "rows")
    _check_counts(max_retries, chunk_rows=chunk_rows, rows_per_task=rows_per_task, workers=workers)
    config, more = chosen.configured(options)
    if more:
        raise InputError(
            f"{', '.join(more)}: weights and masks are not taken here; write them as rows, or leave rows out"
        )
    files = None if is_dataset(source) else open_source(source)
    if files is None and labels is not None:
        raise InputError("labels are for files: of a data set they are a column, as data.zip(labels) makes them")
    with cluster.running(address, workers) as ray:
        work = Work(ray, workers, max_retries)
        rows = OfDataset(ray, source, rows_per_task) if files is None else OfFiles(files, rows_per_task)
        inputs = find_inputs(rows.source, x_columns, z_columns, labels)
        inputs = replace(inputs, missing=missing)
        inputs = filled(work, rows, inputs, chunk_rows)
        concepts = learn_concepts(work, rows, inputs, kind, chunk_rows)
        check_method(chosen, concepts)
        job = Job(method, inputs.features, concepts, options, missing, inputs.means, chunk_rows)
        fitter, _ = fitted(work, rows, inputs, job)
    if files is not None and files.shape is not None:
        fitter.columns = ()
    fitter.classes = classes_of(concepts)
    return fitter.note(provenance(subject=rows.where, call=call) | work.about(fitter, concepts))


def transform(
    eraser: Any,
    data: Any,
    x_columns: str | Sequence[str],
    folder: str | os.PathLike[str],
    *,
    z_columns: str | Sequence[str] | None = None,
    missing: Literal["drop"] | None = None,
    address: str | None = None,
    workers: int | None = None,
    chunk_rows: int = 16384,
    max_retries: int = 3,
) -> Written:
    """Erase from `.parquet` files into a folder, a file in a task; go on where a run before has stopped.

    Args:
        eraser: What a fit returned.
        data: A folder, pattern or list of `.parquet` files that all workers see by the same paths.
        x_columns: The columns that are x, in the order of the fit; the others are kept as they are.
        folder: Where to write, files by their own names; new, empty, or begun before by the same call.
        z_columns: With erasers that take labels: their columns, in the order of the fit.
        missing: `"drop"` leaves out rows that miss a value; None refuses.
        address: As in `fit`.
        workers: As in `fit`.
        chunk_rows: Rows in memory at a time, in each task, and in a row group of what is written.
        max_retries: How often a task may die.

    Returns:
        How many files and rows there are, and how many files were done before.

    Raises:
        InputError: If the folder belongs to another eraser or other files, is read, or has something else in it; and
            of values, where they are.
        FormatError: If a file is damaged.
        GroupError: If workers die again and again. What is done stays, and is not done again.

    Does not guarantee: anything of files that somebody else writes to meanwhile.
    """
    check_call(transform, locals())
    if is_dataset(data):
        raise InputError(
            "a data set has no files to go on from: write data.map_batches(lambda t: erased_table(order, t), "
            "batch_format='pyarrow').write_parquet(...), with efface.engines.writing"
        )
    _check_counts(max_retries, chunk_rows=chunk_rows, workers=workers)
    order = order_of(eraser, x_columns, z_columns, missing=missing, chunk_rows=chunk_rows)
    source = open_source(data)
    cluster.ray_module()
    pairs = begun(order, source, folder, data if isinstance(data, list | tuple) else [data])
    with cluster.running(address, workers) as ray:
        work = Work(ray, workers, max_retries)
        done = erased(work, order, pairs, as_path(folder), source.rows)
    return written(folder, done.records)


def _check_counts(max_retries: int, **given: int | None) -> None:
    for name, value in given.items():
        if value is not None:
            check_positive_int(value, name)
    check_int(max_retries, "max_retries", least=0)
