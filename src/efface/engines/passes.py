"""What passes over rows and files are made of on Ray: which part each task has, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._temporary import sweep
from efface.engines import cluster
from efface.engines.parts import Job, fitter_of, merged_sums, part_of, part_rows, sums_of
from efface.engines.sums import with_means
from efface.engines.tasks import Block, Work
from efface.engines.writing import Order, write_file
from efface.streams.concepts import Concept, Learner, concepts_of, learned
from efface.streams.inputs import Inputs
from efface.streams.pieces import Tables
from efface.streams.ranges import Gatherer


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
                yield replace(inputs, x=Block(ref, f"block {number} of the data set"))  # type: ignore[arg-type]
                number += 1


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


# ---------------------------------------------------------------------------------------------------- files, erased


@dataclass(frozen=True)
class Erased:
    """Files that are erased.

    Attributes:
        records: Of each file, as `write_file` gives it.
        seen: What looked at the rows that were erased now; None if nothing did.
    """

    records: tuple[dict[str, Any], ...]
    seen: Any = None

    @property
    def rows(self) -> int:
        """How many rows were written."""
        return sum(each["rows"] for each in self.records)


def erased(
    work: Work,
    order: Order,
    pairs: Iterable[tuple[Path, Path]],
    folder: Path,
    rows: int | None = None,
    look: Callable[[], Any] | None = None,
) -> Erased:
    """Erase files into a folder, a file in a task.

    Args:
        work: Who does it.
        order: What is erased from which columns.
        pairs: Files to read and to write, as `begun` gives them.
        folder: Where they are written.
        rows: How many rows there are in all.
        look: Makes for each file what is shown its rows by `update(x, erased)`, and takes in another by `merge`.
    """
    there = folder.absolute()
    parts = [(source, target.absolute()) for source, target in pairs]
    left = "files that are done stay, and the same call goes on from them"
    done = work.over(parts, partial(_write, order, there, look), _both, "erasing", rows, left)
    for place in {target.parent for _, target in parts}:
        sweep(place, again=True)  # of workers that died
    return done


def _write(order: Order, folder: Path, look: Callable[[], Any] | None, pair: tuple[Path, Path]) -> Erased:
    seen = None if look is None else look()
    record = write_file(order, *pair, folder, None if seen is None else seen.update)
    return Erased((record,), seen)


def _both(first: Erased, second: Erased) -> Erased:
    if first.seen is not None:
        first.seen.merge(second.seen)
    return Erased((*first.records, *second.records), first.seen)
