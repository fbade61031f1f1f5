"""What is kept beside an eraser that the command line made: what its concepts and columns were."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from efface._errors import FormatError
from efface._io import read_json, reading, write_json
from efface._validate import check_int
from efface.core.codec import fields_of
from efface.streams.concepts import Concept
from efface.streams.ranges import Columns

SIDE_FILE = "concept.json"
_VERSION = 1


@dataclass(frozen=True)
class Side:
    """What the command line has to know of an eraser beyond its tensors; kept beside them.

    Attributes:
        method: Name in the registry.
        x_dim: Width of X.
        columns: Names of the features, or None for all columns of an array.
        concepts: What was erased.
        one_hot: Columns of text that were spread -> their values.
        x: Means and ranges of the features in the fit, if they are known.
    """

    method: str
    x_dim: int
    columns: tuple[str, ...] | None
    concepts: tuple[Concept, ...]
    one_hot: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    x: Columns | None = None

    def save(self, folder: Path) -> None:
        """Write it beside the eraser."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {"concepts": [dataclasses.asdict(concept) for concept in self.concepts]}
        plain |= {"one_hot": dict(self.one_hot), "x": None if self.x is None else self.x.to_plain()}
        write_json(folder / SIDE_FILE, {"format_version": _VERSION, **own, **plain})


def load_side(folder: Path) -> Side | None:
    """What `Side.save` wrote, or None if the eraser was not made by `efface fit`.

    Raises:
        FormatError: If it is damaged or newer.
    """
    path = folder / SIDE_FILE
    if not path.is_file():
        return None
    with reading(path):
        data = read_json(path)
        if not isinstance(data, dict):
            raise ValueError("it was not written by efface fit")
        (version,) = fields_of(data, format_version=int)
        if version > _VERSION:
            raise FormatError(f"it has format {version}, this efface reads up to {_VERSION}: upgrade")
        method, x_dim, columns = fields_of(data, method=str, x_dim=int, columns=tuple[str, ...] | None)
        (concepts,) = fields_of(data, concepts=tuple[dict[str, Any], ...])
        # Neither is in files of versions before these were kept.
        later = {"one_hot": data.get("one_hot", {}), "x": data.get("x")}
        one_hot, x = fields_of(later, one_hot=dict[str, tuple[str, ...]], x=dict[str, tuple[float, ...]] | None)
        found = tuple(map(_concept, concepts))
        return Side(method, check_int(x_dim, "x_dim", least=1), columns, found, one_hot, Columns.of(x))


def _concept(plain: dict[str, Any]) -> Concept:
    hints: dict[str, Any] = {"name": str, "kind": Literal["categorical", "continuous", "columns"]}
    hints |= {"classes": tuple[str | int | float | bool, ...], "width": int}
    found = Concept(*fields_of(plain, **hints))
    check_int(found.width, "width", least=1)
    if found.kind == "categorical" and not 2 <= len(found.classes) == found.width:
        raise FormatError(f"concept {found.name!r} has the classes {found.classes!r} in {found.width} columns")
    return found
