"""Columns of a ledger: their types, what is checked of them, and the order in which rows are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface._text import shown
from efface.audit.remembrance.systems import STATUSES

EXTRA = "remembrance"
"""The extra that brings what this room needs."""

MERIT_TWICE = "merit={} is declared, and {} has a column merit of its own: leave one of them out"
NEEDED = ("entity", "query", "arm", "hit")
IDS = ("entity", "query", "arm")

Columns = Mapping[str, NDArray[Any]]
TYPES: Mapping[str, type] = {
    "entity": np.int32,
    "query": np.int32,
    "arm": np.int16,
    "seed": np.int64,
    "hit": np.bool_,
    "score": np.float64,
    "exposure": np.float64,
    "status": np.int8,
    "merit": np.float64,
}
ANSWER_TYPES: Mapping[str, type] = {
    **{name: TYPES[name] for name in ("query", "arm", "seed", "status")},
    "unresolved": np.float64,
}


def read_columns(rows: Mapping[str, ArrayLike], lists: Mapping[str, Sequence[str]]) -> dict[str, NDArray[Any]]:
    """Rows as columns of their types, with what may be missing filled in; ids are places in the lists.

    Raises:
        InputError: If a column is missing or of another length, or a value is none of those that it may have.
    """
    if lacks := [name for name in (*NEEDED, "merit") if name not in rows]:
        raise InputError(f"rows lack the columns {', '.join(lacks)}: give each of {', '.join(TYPES)}")
    n = len(np.asarray(rows["entity"]))
    if not n:
        raise InputError("there are no rows: give at least one answer of each arm")
    hit = np.asarray(rows["hit"])
    if not np.isin(hit, (0, 1)).all():
        raise InputError("hit has values other than 0 and 1: write whether it was mentioned; grades go to score")
    whole = {name: np.asarray(rows[name]) for name in ("seed", "status") if name in rows}
    if odd := [name for name, values in whole.items() if (values != np.floor(values)).any()]:
        raise InputError(f"{odd[0]} has fractions: write whole numbers")
    if not np.isin(whole.get("status", 0), range(len(STATUSES))).all():
        raise InputError(f"status has other places than those of {', '.join(STATUSES)}: write 0, 1 or 2")
    default = {"seed": np.zeros(n), "status": np.zeros(n), "score": hit, "exposure": hit}
    found = {}
    for name, kind in TYPES.items():
        values = np.asarray(rows.get(name, default.get(name)))
        if values.shape != (n,):
            raise InputError(f"column {name} has shape {values.shape}, expected ({n},) with one value for each row")
        if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise InputError(f"column {name} has values that are missing, infinite or no numbers: drop those rows")
        found[name] = values.astype(kind)
    for name, ids in lists.items():
        if n and not (found[name].min() >= 0 and found[name].max() < len(ids)):
            raise InputError(f"{name} has places outside of its list of {len(ids)} ids")
    if (found["merit"] < 0).any() or (found["exposure"] < 0).any():
        raise InputError("merit and exposure are never below 0: write 0 for who is not relevant or not mentioned")
    return found


def read_answer_columns(answers: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Answers as columns of their types."""
    found = {name: np.asarray(answers[name]).astype(kind) for name, kind in ANSWER_TYPES.items()}
    if len({len(each) for each in found.values()}) > 1:
        raise InputError("the columns of answers have different lengths: give one value for each answer")
    return found


def answers_of(rows: Columns) -> dict[str, NDArray[Any]]:
    """One answer for each arm, query and seed of the rows; nobody said what was unresolved in it."""
    order = np.lexsort((rows["seed"], rows["query"], rows["arm"]))
    keys = np.stack([rows[name][order].astype(np.int64) for name in ("arm", "query", "seed")])
    first = np.concatenate([[True], (np.diff(keys, axis=1) != 0).any(axis=0)])
    kept = order[first]
    same = rows["status"][order] == rows["status"][kept][np.cumsum(first) - 1]
    if not same.all():
        raise InputError("rows of one answer have different statuses: an answer is ok, refused or an error")
    found = {name: rows[name][kept] for name in ("query", "arm", "seed", "status")}
    return {**found, "unresolved": np.full(len(kept), np.nan)}


def in_order(part: Mapping[str, NDArray[Any]], keys: Sequence[str], what: str) -> dict[str, NDArray[Any]]:
    """Columns in the order of keys, none of which may be there twice."""
    order = np.lexsort([part[key] for key in reversed(keys)])
    found = {name: np.ascontiguousarray(values[order]) for name, values in part.items()}
    same = np.ones(max(0, len(order) - 1), dtype=bool)
    for key in keys:
        same &= np.diff(found[key].astype(np.int64)) == 0
    if same.any():
        raise InputError(f"{what} have one ({', '.join(keys)}) {int(same.sum()) + 1} times: give each once")
    return found


def status_codes(values: NDArray[Any]) -> NDArray[Any]:
    """Statuses as their places; numbers are such, and are checked with the other columns."""
    if values.dtype.kind in "iu":
        return values
    if strange := sorted(set(values.tolist()) - set(STATUSES)):
        raise InputError(f"status has {shown(strange[0])}: write one of {', '.join(STATUSES)}")
    return np.array([STATUSES.index(value) for value in values.tolist()], dtype=np.int8)
