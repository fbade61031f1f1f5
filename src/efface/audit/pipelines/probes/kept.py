"""Rows of scores in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from torch import Tensor

from efface._io import load_folder, save_folder
from efface.audit.pipelines.probes.scores import Role, Scores
from efface.core.codec import fields_of

_TYPE = "ProbeScores"
_TENSORS = ("values", "images", "draws", "reference")


def save(folder: Path, *, rows: Sequence[Scores]) -> None:
    """Write the rows that a probe gave of a model, with their pictures."""
    tensors: dict[str, Tensor] = {}
    plain = []
    for i, row in enumerate(rows):
        for name in _TENSORS:
            if (value := getattr(row, name)) is not None:
                tensors[f"{i}.{name}"] = value.contiguous()
        plain.append(
            {
                "name": row.name,
                "role": row.role,
                "items": list(row.items),
                "unit": row.unit,
                "spent": dict(row.spent),
                "note": row.note,
            }
        )
    save_folder(folder, {"type": _TYPE, "rows": plain}, tensors)


def load(folder: Path) -> dict[str, Scores]:
    """The rows by name, as they were."""
    config, tensors = load_folder(folder, expect=_TYPE, finite=False)
    found: dict[str, Scores] = {}
    for i, row in enumerate(config["rows"]):
        name, role, items, unit, spent, note = fields_of(
            row, name=str, role=str, items=list[str], unit=str, spent=dict[str, int], note=str
        )
        if role not in get_args(Role):
            raise ValueError(f"{role!r} is no role of a row")
        more = {key: tensors.get(f"{i}.{key}") for key in _TENSORS[1:]}
        values = tensors[f"{i}.values"]
        found[name] = Scores(name, role, values, tuple(items), **more, unit=unit, spent=spent, note=note)
    return found
