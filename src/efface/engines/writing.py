"""Files of rows, erased one by one into a folder: each whole or not there, and done once, however often it is begun.

The folder has a manifest (`_efface.json`: whose eraser, of which files), and a record of each file that is done
(`_efface/NAME.json`: rows, size, SHA-256). What is done is compared with its record and left; what has none, or is
another than its record says, is written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from efface._errors import FormatError, InputError
from efface._io import as_path, read_json, reading, write_json
from efface.core.codec import fields_of
from efface.core.column_names import compare_columns
from efface.streams.columns import arrow, is_list, like, numbers_of, storage_type
from efface.streams.concepts import Concept, joint
from efface.streams.inputs import Inputs, Labels
from efface.streams.matching import would_find
from efface.streams.open import open_sink
from efface.streams.parquet import open_parquet, parquet_file
from efface.streams.pieces import Tables
from efface.streams.source import Index, Source, check_columns, column_names, files_of, shortened
from efface.streams.table import TableChunk

MANIFEST, RECORDS = "_efface.json", "_efface"
_VERSION, _BLOCK = 1, 2**20

Look = Callable[[torch.Tensor, torch.Tensor], Any]
"""Is shown rows before and after."""


@dataclass(frozen=True)
class Order:
    """What is erased from which columns; the same for all files.

    Attributes:
        eraser: The eraser.
        features: Columns of x.
        concepts: With erasers that take labels: what each column of labels holds; none passes one column on as it is.
        labels: With erasers that take labels: their columns.
        missing: `"drop"` leaves out rows that miss a value, `"mean"` takes `means` for a feature; None refuses.
        means: `(d,)` what stands for missing features.
        spread: What makes of a file one whose columns are the features, as one that takes text apart; None for files
            that have them.
        chunk_rows: Rows in memory at a time, and in a row group of what is written.
    """

    eraser: Any
    features: tuple[str, ...]
    labels: tuple[str, ...] = ()
    concepts: tuple[Concept, ...] = ()
    missing: Literal["drop", "mean"] | None = None
    means: torch.Tensor | None = None
    spread: Callable[[Source], Any] | None = None
    chunk_rows: int = 16384

    def inputs(self, source: Source) -> Inputs:
        """Features and labels of a source that has their columns."""
        labels = tuple(Labels(name, name) for name in self.labels)
        return Inputs(source, self.features, labels, self.missing, self.means)

    def erased(self, x: torch.Tensor, labels: Sequence[Any], index: Index, where: str) -> torch.Tensor:
        """The rows of a file, which have these numbers, without the concept."""
        z = joint(self.concepts, labels, index) if self.concepts else labels[0] if self.labels else None
        return without(self.eraser, x, z, f"{shortened(self.features)} of {where}")


@dataclass(frozen=True)
class Written:
    """What came of it.

    Attributes:
        folder: Where the files lie.
        files: How many there are.
        rows: How many rows they have.
        kept: How many files were done before, and found to be as they were written.
    """

    folder: Path
    files: int
    rows: int
    kept: int


def without(eraser: Any, x: torch.Tensor, z: Any, name: str) -> Any:
    """Rows without the concept.

    Args:
        eraser: The eraser.
        x: The rows.
        z: Their labels; None for erasers that take none.
        name: What to call the rows.

    Raises:
        InputError: If the eraser was fitted on others; the text names them.
    """
    try:
        return eraser(x) if z is None else eraser(x, z)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def begun(
    order: Order, source: Source, folder: str | os.PathLike[str], named: Sequence[str | os.PathLike[str]] = ()
) -> list[tuple[Path, Path]]:
    """The files to read and to write, once the folder is known to be theirs.

    Args:
        order: The order.
        source: The files, all of `.parquet`.
        folder: Where to write; new, empty, or begun before with the same eraser and files.
        named: What the files were named by: folders and patterns, which must not find what is written.

    Raises:
        InputError: If it belongs to another eraser or other files, or has something else in it, or is one that is read.
    """
    folder = as_path(folder, "the folder to write to")
    files = [file.absolute() for file in files_of(source)]
    if other := [file for file in files if file.suffix.lower() != ".parquet"]:
        raise InputError(f"{other[0]} is no .parquet file: a folder is written from these alone")
    check_columns([*order.features, *order.labels], column_names(source), source.where)
    common = Path(os.path.commonpath([file.parent for file in files]))
    names = [file.relative_to(common).as_posix() for file in files]
    _check_apart(folder, files, names, named)
    wanted = {
        "eraser": order.eraser.digest,
        "features": [*order.features],
        "labels": [*order.labels],
        "missing": order.missing,
        "files": [
            [name, file.stat().st_size, file.stat().st_mtime_ns] for name, file in zip(names, files, strict=True)
        ],
    }
    if order.means is not None:
        wanted["means"] = order.means.tolist()
    _claim(folder, json.loads(json.dumps(wanted)))
    return [(file, folder / name) for name, file in zip(names, files, strict=True)]


def _check_apart(folder: Path, files: Iterable[Path], names: Iterable[str], named: Iterable[Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for what is written")
    own = folder.resolve()
    for file in files:
        if own in (file.resolve().parent, *file.resolve().parents):
            raise InputError(f"{folder} is a folder that is read, as {file} lies in it: name another one")
    for spec in named:
        if any(would_find(spec, folder / name) for name in names):
            raise InputError(
                f"{folder} lies in what is read, {os.fspath(spec)}, which would find what is written there: name a "
                "folder beside it"
            )


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    path = folder / MANIFEST
    if path.is_file() and not any(name != MANIFEST and not name.startswith(".") for name in os.listdir(folder)):
        path.unlink()  # of a run that came to nothing
    if not path.is_file():
        if folder.is_dir() and any(not name.startswith(".") for name in os.listdir(folder)):
            raise InputError(f"{folder} has something in it that was not begun here: name a new or empty folder")
        write_json(path, {"format_version": _VERSION, **wanted})
        return
    with reading(path):
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError("it is no manifest")
        (version,) = fields_of(found, format_version=int)
        if version > _VERSION:
            raise FormatError(f"it has format {version}, this efface reads up to {_VERSION}: upgrade")
    differ = [name for name in wanted if found.get(name) != wanted[name]]
    if differ:
        what = {"eraser": "another eraser", "files": "other files, or files that were changed"}
        raise InputError(
            f"{folder} was begun with {what.get(differ[0], f'other {differ[0]}')}: name another folder, or delete it"
        )


# ---------------------------------------------------------------------------------------------------------- one file


def write_file(order: Order, source: Path, target: Path, folder: Path, look: Look | None = None) -> dict[str, Any]:
    """Erase one file, unless that was done before; the record of it, with `kept`: whether it was.

    Args:
        order: The order.
        source: The file.
        target: What to write.
        folder: In which folder that lies, which keeps the record.
        look: Is shown all rows, if they are erased now.

    Raises:
        InputError: If a value is missing or infinite, or a label unknown; the text says where.
        FormatError: If the file is damaged.
    """
    record = folder / RECORDS / f"{target.relative_to(folder).as_posix()}.json"
    done = _done(record, target)
    if done is not None:
        return {**done, "kept": True}
    rows = _write(order, source, target, look)
    about = {"rows": rows, "size": target.stat().st_size, "sha256": _sha256(target)}
    write_json(record, about)
    return {**about, "kept": False}


def _done(record: Path, target: Path) -> dict[str, Any] | None:
    """What was recorded of a file, if the file is still that; None to write it anew."""
    if not (record.is_file() and target.is_file()):
        return None
    try:
        rows, size, digest = fields_of(read_json(record), rows=int, size=int, sha256=str)
    except (ValueError, KeyError, TypeError):
        return None
    same = target.stat().st_size == size and _sha256(target) == digest
    return {"rows": rows, "size": size, "sha256": digest} if same else None


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def _write(order: Order, path: Path, target: Path, look: Look | None) -> int:
    source: Any = open_parquet(path, empty=True)
    source = order.spread(source) if order.spread is not None else source
    rows = 0
    with open_sink(target, like=source, features=order.features) as sink:
        for chunk, x, erased in _erased(order, source, order.chunk_rows):
            sink.write(chunk.replace(order.features, erased))
            rows += len(x)
            if look is not None:
                look(x, erased)
        if not rows:
            sink.write(_empty(order, source))
    return rows


def _erased(order: Order, source: Source, rows: int) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
    """Chunks with their features, before and after."""
    for piece, x in order.inputs(source).with_numbers(rows, rest=True):
        yield piece.chunk, x, order.erased(x, piece.labels, piece.chunk.index, source.where)


def _empty(order: Order, source: Any) -> TableChunk:
    """A chunk without rows, whose columns have the types that they have in files with rows."""
    pyarrow = arrow()
    with parquet_file(source.path, source.where) as file:
        chunk = TableChunk(0, file.schema_arrow.empty_table(), source.where)
    table = chunk.table if order.spread is None else source.spread(chunk).table
    inner = [storage_type(table.schema.field(name).type) for name in order.features]
    flat = [numbers_of(pyarrow.array([], each.value_type if is_list(each) else each)).dtype for each in inner]
    dtype = flat[0]
    for each in flat[1:]:
        dtype = torch.promote_types(dtype, each)
    for name, type_ in zip(order.features, inner, strict=True):
        width = type_.list_size if pyarrow.types.is_fixed_size_list(type_) else 1
        column = table.schema.field(name)
        values = like(column.type, torch.empty(0, width, dtype=dtype))
        place = table.schema.get_field_index(name)
        table = table.set_column(place, column.with_type(values.type), pyarrow.chunked_array([values]))
    return TableChunk(0, table, source.where)


def written(folder: str | os.PathLike[str], records: Iterable[dict[str, Any]]) -> Written:
    """The sum of the records of all files."""
    every = list(records)
    return Written(as_path(folder), len(every), sum(r["rows"] for r in every), sum(r["kept"] for r in every))


def erased_table(order: Order, table: Any) -> Any:
    """A table, or a record batch, of pyarrow, erased; for the engines' own ways of mapping batches."""
    pyarrow, found = arrow(), _erased(order, Tables((table,), "the batch"), max(1, table.num_rows))
    parts = [chunk.replace(order.features, erased).table for chunk, _, erased in found]
    if not parts:
        return table.slice(0, 0)
    if not isinstance(table, pyarrow.RecordBatch):
        return parts[0]
    columns = [column.combine_chunks() for column in parts[0].columns]
    return pyarrow.RecordBatch.from_arrays(columns, schema=parts[0].schema)


def order_of(eraser: Any, x_columns: str | Sequence[str], z_columns: str | Sequence[str] | None, **more: Any) -> Order:
    """The order for an eraser, with the concepts of its fit if it takes labels.

    Raises:
        InputError: If it takes labels and none are named, or several of which nothing is known; or it was fitted on
            other columns, or on these in another order.
    """
    if not callable(eraser) or not isinstance(getattr(eraser, "digest", None), str):
        raise InputError(f"eraser is a {type(eraser).__name__}: give what a fit returned, or efface.load(folder)")
    features, labels = ((names,) if isinstance(names, str) else tuple(names or ()) for names in (x_columns, z_columns))
    if not features:
        raise InputError("x_columns is empty: name the columns that are erased from")
    if eraser.columns and (len(features) > 1 or len(eraser.columns) == 1):  # one may hold lists of all
        compare_columns(eraser.columns, features, "x_columns", advice="write list(eraser.columns)")
    if not eraser.takes_labels:
        if labels:
            raise InputError(f"{type(eraser).__name__} takes no labels: leave out z_columns")
        return Order(eraser, features, **more)
    if not labels:
        raise InputError(f"{type(eraser).__name__} needs the labels of the rows: name their columns, z_columns=")
    named = eraser.report is not None and eraser.report.classes  # which numbers labels itself
    known = [] if named else (eraser.provenance.get("engine") or {}).get("concepts", [])
    concepts = tuple(
        Concept(each["name"], each["kind"], tuple(each["classes"]), max(1, len(each["classes"]))) for each in known
    )
    if len(concepts) not in (0, len(labels)) or (len(labels) > 1 and not concepts):
        raise InputError(f"z_columns names {len(labels)} columns, the eraser was fitted on {len(concepts) or 'others'}")
    return Order(eraser, features, labels, concepts, **more)
