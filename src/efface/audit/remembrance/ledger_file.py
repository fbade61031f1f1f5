"""A ledger as a `.parquet` file: its columns, and a row without an entity for each answer itself."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from efface._errors import FormatError
from efface._io import as_path, atomic_path
from efface._lazy import require
from efface.audit.remembrance.columns import ANSWER_TYPES, EXTRA, IDS, TYPES
from efface.audit.remembrance.ledger import Ledger

_VERSION = 1
_KEY = b"efface.ledger"


def write_ledger(ledger: Ledger, path: str | os.PathLike[str]) -> None:
    """Write a ledger as one `.parquet` file.

    Raises:
        MissingExtraError: If pyarrow is not installed.
    """
    pa, parquet = (require(name, extra=EXTRA) for name in ("pyarrow", "pyarrow.parquet"))
    n, more = len(ledger), len(ledger.answers["query"])
    lists = dict(zip(IDS, (ledger.entities, ledger.queries, ledger.arms), strict=True))
    columns = {}
    for name in (*TYPES, "unresolved"):
        top = pa.array(ledger.rows[name]) if name in ledger.rows else pa.nulls(n, pa.float64())
        below = pa.array(ledger.answers[name]) if name in ledger.answers else pa.nulls(more, top.type)
        both = pa.concat_arrays([top, below])
        columns[name] = _named(pa, both, lists[name]) if name in lists else both
    said = {"version": _VERSION, "digest": ledger.digest, "attention": ledger.attention}
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps({**said, **lists})})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)


def is_ledger(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one that `write_ledger` wrote, by what it says of itself.

    Raises:
        MissingExtraError: If pyarrow is not installed.
    """
    pa, parquet = (require(name, extra=EXTRA) for name in ("pyarrow", "pyarrow.parquet"))
    path = as_path(path)
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    try:
        return _KEY in (parquet.read_schema(path).metadata or {})
    except pa.ArrowInvalid:
        return False


def read_ledger(path: str | os.PathLike[str]) -> Ledger:
    """Read what `write_ledger` wrote.

    Raises:
        FormatError: If it is no ledger, or its content is not what was written.
        MissingExtraError: If pyarrow is not installed.
    """
    pa, parquet = (require(name, extra=EXTRA) for name in ("pyarrow", "pyarrow.parquet"))
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        table = parquet.read_table(path)
        said = json.loads((table.schema.metadata or {})[_KEY])
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise FormatError(f"{path} is no ledger of efface, or it is damaged: write one with write_ledger") from error
    if said.get("version", 0) > _VERSION:
        raise FormatError(f"{path} was written by a newer efface: upgrade with  pip install -U efface")
    own = table.column("entity").is_valid().to_numpy()
    lists = {name: said[name] for name in IDS}
    both = {name: _read_column(table.column(name), lists.get(name)) for name in (*TYPES, "unresolved")}
    rows = {name: both[name][own] for name in TYPES}
    answers = {name: both[name][~own] for name in ANSWER_TYPES}
    ids = (lists["entity"], lists["query"], lists["arm"])
    found = Ledger.of_codes(*ids, rows, answers, attention=said["attention"])
    if found.digest != said["digest"]:
        raise FormatError(f"{path} was changed after it was written: its content has another hash than it says")
    return found


def _named(pa: Any, codes: Any, ids: Sequence[str]) -> Any:
    return pa.DictionaryArray.from_arrays(codes.cast(pa.int32()), pa.array(ids, type=pa.string()))


def _read_column(column: Any, ids: Sequence[str] | None) -> NDArray[Any]:
    column = column.combine_chunks()
    if ids is not None:
        column = column.indices if hasattr(column, "indices") else column.dictionary_encode().indices
        return column.fill_null(0).to_numpy(zero_copy_only=False)
    fill = False if str(column.type) == "bool" else 0
    return column.fill_null(fill).to_numpy(zero_copy_only=False)
