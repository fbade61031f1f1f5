"""Files of rows, erased one by one into a folder: each whole or not there, and done once, however often it is begun.

The folder has a manifest (`_efface.json`: whose eraser, of which files), and a record of each file that is done
(`_efface/NAME.json`: rows, size, SHA-256). What is done is compared with its record and left; what has none, or is
another than its record says, is written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from efface._errors import FormatError, InputError
from efface._io import as_path, atomic_path, read_json, reading, write_json
from efface.core.codec import fields_of
from efface.streams.columns import arrow, is_list, like, numbers_of, storage_type
from efface.streams.concepts import Concept, joint
from efface.streams.inputs import Inputs, Labels
from efface.streams.open import open_sink
from efface.streams.parquet import open_parquet, parquet_file
from efface.streams.pieces import Tables
from efface.streams.source import Source, check_columns, column_names, files_of

MANIFEST, RECORDS = "_efface.json", "_efface"
_VERSION, _BLOCK = 1, 2**20


@dataclass(frozen=True)
class Order:
    """What is erased from which columns; the same for all files.

    Attributes:
        eraser: The eraser.
        features: Columns of x.
        concepts: With erasers that take labels: what each column of labels holds; none passes one column on as it is.
        labels: With erasers that take labels: their columns.
        missing: `"drop"` leaves out rows that miss a value; None refuses.
        chunk_rows: Rows in memory at a time, and in a row group of what is written.
    """

    eraser: Any
    features: tuple[str, ...]
    labels: tuple[str, ...] = ()
    concepts: tuple[Concept, ...] = ()
    missing: Literal["drop"] | None = None
    chunk_rows: int = 16384

    def erased(self, x: torch.Tensor, labels: Sequence[Any], first_row: int) -> torch.Tensor:
        """The rows without the concept."""
        if not self.labels:
            return self.eraser(x)
        return self.eraser(x, joint(self.concepts, labels, first_row) if self.concepts else labels[0])


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


def begun(order: Order, source: Source, folder: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
    """The files to read and to write, once the folder is known to be theirs.

    Args:
        order: The order.
        source: The files, all of `.parquet`.
        folder: Where to write; new, empty, or begun before with the same eraser and files.

    Raises:
        InputError: If it belongs to another eraser or other files, or has something else in it, or is one that is read.
    """
    folder = as_path(folder, "the folder to write to")
    files = [file.absolute() for file in files_of(source)]
    if other := [file for file in files if file.suffix.lower() != ".parquet"]:
        raise InputError(f"{other[0]} is no .parquet file: a folder is written from these alone")
    check_columns([*order.features, *order.labels], column_names(source), source.where)
    common = Path(os.path.commonpath([file.parent for file in files]))
    _check_apart(folder, files)
    names = [file.relative_to(common).as_posix() for file in files]
    wanted = {
        "eraser": order.eraser.digest,
        "features": [*order.features],
        "labels": [*order.labels],
        "missing": order.missing,
        "files": [
            [name, file.stat().st_size, file.stat().st_mtime_ns] for name, file in zip(names, files, strict=True)
        ],
    }
    _claim(folder, json.loads(json.dumps(wanted)))
    return [(file, folder / name) for name, file in zip(names, files, strict=True)]


def _check_apart(folder: Path, files: Iterable[Path]) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for what is written")
    own = folder.resolve()
    for file in files:
        if own in (file.resolve().parent, *file.resolve().parents):
            raise InputError(f"{folder} is a folder that is read, as {file} lies in it: name another one")


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    path = folder / MANIFEST
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


def write_file(order: Order, source: Path, target: Path, folder: Path) -> dict[str, Any]:
    """Erase one file, unless that was done before; the record of it, with `kept`: whether it was.

    Raises:
        InputError: If a value is missing or infinite, or a label unknown; the text says where.
        FormatError: If the file is damaged.
    """
    record = folder / RECORDS / f"{target.relative_to(folder).as_posix()}.json"
    done = _done(record, target)
    if done is not None:
        return {**done, "kept": True}
    rows = _write(order, source, target)
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


def _write(order: Order, path: Path, target: Path) -> int:
    source = open_parquet(path, empty=True)
    if not source.rows:
        _write_empty(order, path, target)
        return 0
    labels = tuple(Labels(name, name) for name in order.labels)
    inputs, rows = Inputs(source, order.features, labels, order.missing), 0
    with open_sink(target, like=source, features=order.features) as sink:
        for piece in inputs.chunks(order.chunk_rows, rest=True):
            x = inputs.numbers(piece.chunk)
            erased = order.erased(x, piece.labels, piece.chunk.first_row)
            sink.write(piece.chunk.replace(order.features, erased))
            rows += len(x)
    return rows


def _write_empty(order: Order, path: Path, target: Path) -> None:
    """A file without rows, whose columns have the types that they have in the others."""
    pyarrow, parquet = arrow(), arrow("pyarrow.parquet")
    with parquet_file(path, str(path)) as file:
        table = file.schema_arrow.empty_table()
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
    with atomic_path(target) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True)


def written(folder: str | os.PathLike[str], records: Iterable[dict[str, Any]]) -> Written:
    """The sum of the records of all files."""
    every = list(records)
    return Written(as_path(folder), len(every), sum(r["rows"] for r in every), sum(r["kept"] for r in every))


def erased_table(order: Order, table: Any) -> Any:
    """A table or record batch of pyarrow, erased; for the engines' own ways of mapping batches."""
    labels = tuple(Labels(name, name) for name in order.labels)
    inputs = Inputs(Tables((table,), "the batch"), order.features, labels, order.missing)
    parts = []
    for piece in inputs.chunks(max(1, table.num_rows), rest=True):
        erased = order.erased(inputs.numbers(piece.chunk), piece.labels, piece.chunk.first_row)
        parts.append(piece.chunk.replace(order.features, erased).table)  # type: ignore[attr-defined]
    return parts[0] if parts else table.slice(0, 0)


def order_of(eraser: Any, x_columns: str | Sequence[str], z_columns: str | Sequence[str] | None, **more: Any) -> Order:
    """The order for an eraser, with the concepts of its fit if it takes labels.

    Raises:
        InputError: If it takes labels and none are named, or several of which nothing is known.
    """
    if not callable(eraser) or not isinstance(getattr(eraser, "digest", None), str):
        raise InputError(f"eraser is a {type(eraser).__name__}: give what a fit returned, or efface.load(folder)")
    features, labels = ((names,) if isinstance(names, str) else tuple(names or ()) for names in (x_columns, z_columns))
    if not features:
        raise InputError("x_columns is empty: name the columns that are erased from")
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
