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

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from efface._errors import GroupError, InputError
from efface._io import as_path
from efface._progress import progress
from efface._text import one_line
from efface.core.doors import check_call
from efface.core.labels import Kind
from efface.core.method import get_method
from efface.core.provenance import called, provenance
from efface.engines import cluster
from efface.engines.local import Missing, check_method, classes_of, engine_of, find_inputs, with_means
from efface.engines.parts import Job, fitter_of, merged_sums, part_of, part_rows, sums_of
from efface.engines.tree import Tree
from efface.engines.writing import Order, Written, begun, order_of, write_file, written
from efface.streams.concepts import Concept, Learner, concepts_of, learned
from efface.streams.inputs import Inputs
from efface.streams.open import open_source
from efface.streams.pieces import Tables
from efface.streams.ranges import Gatherer

_WAITING = 2
"""Tasks that are begun, for each core."""


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
    order = order_of(eraser, x_columns, z_columns, missing=missing, chunk_rows=chunk_rows)
    source = open_source(data)
    cluster.ray_module()
    pairs = begun(order, source, folder)
    with cluster.running(address, workers) as ray:
        work = Work(ray, workers, max_retries)
        parts = (_File(here, there) for here, there in pairs)
        records = work.over(parts, partial(_written, order, as_path(folder).absolute()), _both, "erasing", source.rows)
    return written(folder, records)


class _File:
    """A file that a task erases from."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target.absolute()


def _written(order: Order, folder: Path, file: _File) -> list[dict[str, Any]]:
    return [write_file(order, file.source, file.target, folder)]


def _both(first: list[Any], second: list[Any]) -> list[Any]:
    return [*first, *second]


def is_dataset(data: Any) -> bool:
    """Whether it is a data set of Ray, found without importing it."""
    return type(data).__module__.startswith("ray.data.") and hasattr(data, "iter_internal_ref_bundles")


# ------------------------------------------------------------------------------------------------------ rows by parts


class OfFiles:
    """Rows of files: a task is told which rows, and reads them itself."""

    def __init__(self, source: Any, least: int | None) -> None:
        self.source, self.where, self.rows = source, source.where, source.rows
        self._parts = list(part_rows(source, least))

    def parts(self, inputs: Inputs) -> Iterable[Inputs]:
        """The inputs of each task."""
        for first, last in self._parts:
            yield part_of(inputs, first, last)


class OfDataset:
    """Rows of a data set of Ray: a task is given a block."""

    def __init__(self, ray: Any, data: Any, least: int | None) -> None:
        if least is not None:
            raise InputError("rows_per_task is for files: of a data set a task takes a block, see data.repartition")
        self._ray, self._data, self.rows, self.where = ray, data, None, "the data set"
        schema = data.schema()
        if schema is None:
            raise InputError("the data set has no rows: there is nothing to fit on")
        names, types = schema.names, schema.types
        pa = cluster.require("pyarrow", extra="ray")
        odd = [name for name, each in zip(names, types, strict=True) if not isinstance(each, pa.DataType)]
        fields = [pa.field(n, t) for n, t in zip(names, types, strict=True) if n not in odd]
        self.source = Tables((pa.schema(fields).empty_table(),), self.where)

    def parts(self, inputs: Inputs) -> Iterable[Inputs]:
        """The inputs of each task."""
        wanted = list(dict.fromkeys([*inputs.features, *inputs.own_labels()]))
        number = 0
        for bundle in self._data.select_columns(wanted).iter_internal_ref_bundles():
            for ref in bundle.block_refs:
                yield replace(inputs, x=_Block(ref, f"block {number} of the data set"))  # type: ignore[arg-type]
                number += 1


class _Block:
    """A block that a task is given, in the place of a source."""

    def __init__(self, ref: Any, where: str) -> None:
        self.ref, self.where = ref, where


# --------------------------------------------------------------------------------------------------------- the passes


def filled(work: Work, rows: OfFiles | OfDataset, inputs: Inputs, chunk_rows: int) -> Inputs:
    """With the means of the features, if these stand for missing values."""
    if inputs.missing != "mean" or inputs.means is not None:
        return inputs
    kept = work.over(rows.parts(inputs), partial(_ranges_of, chunk_rows), _merged_ranges, "means", rows.rows)
    return with_means(inputs, Gatherer(kept))


def learn_concepts(
    work: Work, rows: OfFiles | OfDataset, inputs: Inputs, kind: str, chunk_rows: int
) -> tuple[Concept, ...]:
    """What the concepts are, by the labels of all rows."""
    names = [labels.name for labels in inputs.labels]
    look = partial(_learned, names, kind, chunk_rows)
    alone = replace(inputs, features=()) if inputs.own_labels() else inputs
    learners = work.over(rows.parts(alone), look, _merged_learners, "labels", rows.rows)
    return concepts_of(learners or [Learner(name, kind) for name in names], names, kind)


def fitted(work: Work, rows: OfFiles | OfDataset, inputs: Inputs, job: Job) -> tuple[Any, Any]:
    """The fitter that has seen all rows, and what their columns are like."""
    state = work.over(rows.parts(inputs), partial(sums_of, job), partial(merged_sums, job), "fitting", rows.rows)
    return fitter_of(job, state), Gatherer(state["ranges"]).columns()


def _learned(names: Sequence[str], kind: str, chunk_rows: int, inputs: Inputs) -> list[Learner]:
    return learned(names, kind, inputs.labels_only(chunk_rows))


def _merged_learners(first: list[Learner], second: list[Learner]) -> list[Learner]:
    for mine, other in zip(first, second, strict=True):
        mine.merge(other)
    return first


def _ranges_of(chunk_rows: int, inputs: Inputs) -> dict[str, list[float]]:
    gathered = Gatherer()
    for _, x in inputs.with_numbers(chunk_rows, gaps=True):
        gathered.update(x)
    return gathered.kept()


def _merged_ranges(first: dict[str, list[float]], second: dict[str, list[float]]) -> dict[str, list[float]]:
    gathered = Gatherer(first)
    gathered.merge(second)
    return gathered.kept()


# ------------------------------------------------------------------------------------------------------ tasks of Ray


class Work:
    """Tasks on a Ray that runs: bounded in number, done again where a worker died, merged along a tree.

    Args:
        ray: The module.
        workers: Tasks at a time; None is the number of cores of the cluster.
        max_retries: How often a task may die.
    """

    def __init__(self, ray: Any, workers: int | None = None, max_retries: int = 3) -> None:
        cores = int(ray.cluster_resources().get("CPU", 1))
        self._ray, self._most = ray, max(2, min(workers or cores, cores) * _WAITING)
        how = {"num_cpus": 1, "max_retries": max_retries, "retry_exceptions": False}
        self._task = ray.remote(**how, num_returns=2)(_done)
        self._merge = ray.remote(**how)(_merged)
        self.pids: set[int] = set()
        self.parts = 0

    def over(
        self,
        parts: Iterable[Any],
        work: Callable[[Any], Any],
        merge: Callable[[Any, Any], Any],
        name: str = "",
        rows: int | None = None,
    ) -> Any:
        """What the work makes of all parts, merged in their order; None of no parts.

        Args:
            parts: What each task is given.
            work: The work; a function that can be pickled, and changes nothing.
            merge: Of what two neighbours gave.
            name: For the bar of progress.
            rows: How many rows there are in all.
        """
        shared, pending, self.parts = self._ray.put((work, merge)), [], 0
        value = note = whole = None
        tree = Tree(lambda a, b: self._merge.remote(shared, a, b))
        try:
            with progress(name, rows) as bar:
                for part in parts:
                    x = getattr(part, "x", None)
                    block = x.ref if isinstance(x, _Block) else None
                    given = replace(part, x=x.where) if isinstance(x, _Block) else part
                    value, note = self._task.remote(shared, given, block)
                    tree.add(value)
                    pending.append(note)
                    self.parts += 1
                    pending = self._waited(pending, self._most - 1, bar)
                whole = tree.whole()
                self._waited(pending, 0, bar)
                return None if whole is None else self._ray.get(whole)
        except BaseException as error:
            for note in pending:
                self._ray.cancel(note)
            tree = pending = value = note = whole = None  # what nobody holds Ray forgets, and says nothing of it later
            self._explain(error)
            raise

    def about(self, fitter: Any, concepts: Sequence[Concept]) -> dict[str, Any]:
        """For the provenance of what came of it."""
        return engine_of("ray", fitter, concepts, version=importlib.metadata.version("ray"), parts=self.parts)

    def _waited(self, pending: list[Any], most: int, bar: Any) -> list[Any]:
        while len(pending) > most:
            done, pending = self._ray.wait(pending, num_returns=1)
            for note in self._ray.get(done):
                self.pids.add(note["pid"])
                bar.update(note["rows"])
        return pending

    def _explain(self, error: Any) -> None:
        """Raise in place of an error of Ray what it means here."""
        wrong = self._ray.exceptions
        if isinstance(error, wrong.RayTaskError):
            if isinstance(error.cause, wrong.RayError):
                self._explain(error.cause)
            raise error.cause from None
        if isinstance(error, wrong.RayError):
            raise GroupError(
                f"workers of Ray died more often than max_retries allows, or their results were lost "
                f"({one_line(error)[:300]}): nothing was fitted; a task needs the memory of its sums, see the docs"
            ) from error


def _done(shared: Any, inputs: Any, block: Any) -> tuple[Any, dict[str, int]]:
    """A task: what the work makes of a part, and a note that is small."""
    if block is not None:
        inputs = replace(inputs, x=Tables((_as_arrow(block),), inputs.x))
    done = shared[0](inputs)
    rows = sum(each["rows"] for each in done) if isinstance(inputs, _File) else inputs.x.rows or 0
    return done, {"rows": rows, "pid": os.getpid()}


def _merged(shared: Any, first: Any, second: Any) -> Any:
    return shared[1](first, second)


def _as_arrow(block: Any) -> Any:
    """A block as a table of pyarrow; arrays of Ray's own type as lists, on the same memory."""
    data = cluster.require("ray.data.block", extra="ray")
    return data.BlockAccessor.for_block(block).to_arrow()
