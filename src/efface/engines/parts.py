"""A fit in parts, without an engine: what all parts have in common, the sums of one, and their merge.

    job = Job("leace", ("embedding",), (concept,))
    states = [sums_of(job, tables) for tables in ...]  # anywhere
    eraser = fitter_of(job, merged(partial(merged_sums, job), states)).eraser

The sums of a part are plain arrays: d^2 numbers for LEACE, of a size that does not depend on the number of rows. They
merge exactly, in any grouping, up to the rounding of float64. Nothing that a part does can be seen elsewhere until its
state is merged, so a part may be computed twice (after a death, say) and is to be merged once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor

from efface._errors import FormatError, InputError
from efface.core.config import Config
from efface.core.method import Method, get_method
from efface.engines.sums import Sums, new_fitter
from efface.streams.concepts import Concept
from efface.streams.inputs import Inputs, Labels
from efface.streams.pieces import RowsOf, Tables, borders, place_of
from efface.streams.ranges import Gatherer
from efface.streams.source import Source

State = dict[str, Any]
"""What a part of the rows gave: `rows` (used), `seen` (those left out too), `where`, and if there were any `x_dim`,
`dtype`, `sums` (name -> array) and `ranges`."""

_LEAST, _MOST, _PARTS = 2**14, 2**20, 256


@dataclass(frozen=True)
class Job:
    """What a fit is asked for; the same for all its parts.

    Attributes:
        method: Name of a method of rows.
        features: Columns of x.
        concepts: What is erased, with all classes; of tables each is the column of its name.
        options: Options of the method.
        missing: `"drop"` leaves rows out that miss a value, `"mean"` takes `means`; None refuses.
        means: `(d,)` means of the features.
        chunk_rows: Rows in memory at a time.
    """

    method: str
    features: tuple[str, ...]
    concepts: tuple[Concept, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    missing: Literal["drop", "mean"] | None = None
    means: Tensor | None = None
    chunk_rows: int = 4096

    @property
    def how(self) -> Method:
        """The method."""
        return get_method(self.method, "rows")

    @property
    def config(self) -> Config:
        """The options, checked."""
        return self.how.configured(self.options)[0]

    def inputs(self, tables: Iterable[Any], where: str = "the tables") -> Inputs:
        """Tables or record batches of pyarrow, in memory, as features and labels."""
        labels = tuple(Labels(concept.name, concept.name) for concept in self.concepts)
        return Inputs(Tables(tuple(tables), where), self.features, labels, self.missing, self.means)


# ------------------------------------------------------------------------------------------------------- parts of rows


def part_rows(source: Source, rows: int | None = None) -> Iterator[tuple[int, int]]:
    """First row and row behind the last of each part; a row group of `.parquet` is in one part.

    The parts depend on the data alone, and not on who works on them, and so do the bits of the result.

    Args:
        source: Whose number of rows is known.
        rows: Least rows of a part; None takes a 256th of all, from 16,384 to 1,048,576.

    Raises:
        InputError: If the number of rows is not known (`.csv`).
    """
    if source.rows is None:
        raise InputError(
            f"{source.where}: how many rows a .csv file has is not known before it is read: write .parquet"
        )
    least = min(_MOST, max(_LEAST, source.rows // _PARTS)) if rows is None else rows
    start = 0
    for border in borders(source):
        if border - start >= least or (border == source.rows and border > start):
            yield start, border
            start = border


def part_of(inputs: Inputs, first: int, last: int) -> Inputs:
    """Some rows of the inputs."""
    labels = [
        each if each.source is None else replace(each, source=RowsOf(each.source, first, last))
        for each in inputs.labels
    ]
    return replace(inputs, x=RowsOf(inputs.x, first, last), labels=tuple(labels))


# ------------------------------------------------------------------------------------------------------------- sums


def sums_of(job: Job, inputs: Inputs | Iterable[Any]) -> State:
    """The sums of some rows.

    Args:
        job: The job.
        inputs: The rows: features and labels of sources, or tables and record batches of pyarrow.

    Raises:
        InputError: If values are missing or infinite, or labels unknown; the text says in which row of what.
        FormatError: If a file is damaged.
    """
    inputs = inputs if isinstance(inputs, Inputs) else job.inputs(inputs)
    ranges = Gatherer()
    found = Sums(inputs, job.how, job.concepts, job.config, ranges=ranges)
    for piece, x in inputs.with_numbers(job.chunk_rows, check=False):
        found.update(piece, x)
    fitter, about = found.fitter, {"seen": inputs.x.rows or 0, "where": _where(inputs.x)}
    if fitter is None:
        return {"rows": 0, **about}
    sums = {name: value.numpy() for name, value in fitter.state_dict().items()}
    about |= {"x_dim": fitter.x_dim, "dtype": str(fitter.dtype)[6:], "ranges": ranges.kept()}
    return {"rows": int(fitter.n.sum()), "sums": sums, **about}


def _where(source: Source) -> str:
    """What to call a part, by where its rows begin if it has but some."""
    if not isinstance(source, RowsOf):
        return source.where
    file, row = place_of(source.source, source.first)
    return f"{file} (from row {row} on)"


def merged_sums(job: Job, first: State, second: State) -> State:
    """The sums of both, which stay as they are.

    Raises:
        InputError: If their rows have another width or dtype; the text names both parts.
    """
    counts = {name: first[name] + second[name] for name in ("rows", "seen")}
    if not first["rows"] or not second["rows"]:
        return {**(first if first["rows"] else second), **counts}
    for name, what in (("x_dim", "numbers"), ("dtype", "")):
        if first[name] != second[name]:
            raise InputError(
                f"rows have {first[name]} {what} in {first['where']} and {second[name]} in {second['where']}: "
                f"write {', '.join(job.features)} with one width and type"
            )
    fitter = _loaded(job, first).merge(_loaded(job, second))
    ranges = Gatherer(first["ranges"])
    ranges.merge(second["ranges"])
    return {**first, **counts, "sums": {k: v.numpy() for k, v in fitter.state_dict().items()}, "ranges": ranges.kept()}


def fitter_of(job: Job, state: State | None) -> Any:
    """The fitter that has seen all rows.

    Raises:
        InputError: If there was none.
    """
    if state is None or not state["rows"]:
        where = "the data" if state is None else state["where"]
        raise InputError(f"{where} has no row without a missing value: there is nothing to fit on")
    fitter = _loaded(job, state)
    if len(job.features) == fitter.x_dim:
        fitter.columns = job.features
    return fitter


def _loaded(job: Job, state: State) -> Any:
    like = torch.empty(0, state["x_dim"], dtype=getattr(torch, state["dtype"]))
    fitter = new_fitter(job.how, like, job.concepts, job.config)
    return fitter.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in state["sums"].items()})


# ---------------------------------------------------------------------------------------------------------- as bytes


def to_bytes(state: State) -> bytes:
    """A state for engines that carry bytes: safetensors, never pickle."""
    about = {name: value for name, value in state.items() if name != "sums"}
    arrays = {name: np.array(value, order="C") for name, value in state.get("sums", {}).items()}
    return save(arrays, {"about": json.dumps(about)})


def from_bytes(data: bytes) -> State:
    """What `to_bytes` wrote.

    Raises:
        FormatError: If it is something else.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["about"])
        sums = load(data)
        if not {*about} >= {"rows", "seen", "where"}:
            raise ValueError(f"it has {', '.join(map(str, about))} alone")
    except Exception as error:
        raise FormatError(f"these bytes are no state of a part: {f'{error}':.100}") from error
    return about | ({"sums": sums} if sums else {})
