"""Data sets of Hugging Face, known by what they are: the package is not imported, as whoever has one has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efface._errors import InputError


def is_dataset(value: Any) -> bool:
    """Whether it comes from the package `datasets`.

    >>> is_dataset({"train": []})
    False
    """
    return any(kind.__module__.partition(".")[0] == "datasets" for kind in type(value).__mro__)


def check_dataset(value: Any, name: str) -> None:
    """Refuse several data sets in one, and what else of the package has no rows.

    Args:
        value: What comes from the package.
        name: What to call it.

    Raises:
        InputError: If it is no `Dataset` and no `IterableDataset`.
    """
    if isinstance(value, Mapping):
        parts = [str(part) for part in value]
        raise InputError(
            f"{name} is a {type(value).__name__}, several data sets ({', '.join(parts)}): choose one, "
            f"{name}[{parts[0] if parts else 'train'!r}]"
        )
    if not hasattr(value, "select_columns") or not hasattr(value, "with_format"):
        raise InputError(f"{name} is a datasets.{type(value).__name__}, expected a Dataset or an IterableDataset")


def class_names(value: Any, column: str) -> tuple[str, ...]:
    """Names of the classes of a column, in the order of their numbers, where a data set says them.

    Args:
        value: Anything.
        column: Of one class a row, or of a list of such, one a token.
    """
    features = getattr(value, "features", None) if is_dataset(value) else None
    found = (features or {}).get(column)
    found = getattr(found, "feature", found)
    return tuple(getattr(found, "names", ())) if type(found).__name__ == "ClassLabel" else ()
