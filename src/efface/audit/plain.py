"""Values that survive JSON: a dataclass as plain dict, and back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self

from efface._errors import EffaceWarning, FormatError, InputError


class Plain:
    """Dataclass <-> plain dict; an unknown key of a newer efface is dropped with a warning."""

    def to_dict(self, *, pixels: bool = False) -> dict[str, Any]:
        """Plain data: dicts, lists, strings, numbers, booleans and None.

        Args:
            pixels: Whether pictures keep their pixels: arrays, which a page needs and JSON cannot hold.
        """
        return {f.name: _to_plain(getattr(self, f.name), pixels) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The value that `to_dict` wrote.

        Raises:
            FormatError: If a needed key is missing, or a value is impossible.
        """
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        strange = sorted(set(data) - known - cls._derived())
        if strange:
            warnings.warn(f"{cls.__name__}: unknown keys {strange} ignored", EffaceWarning, stacklevel=2)
        try:
            return cls(**{key: cls._revive(key, value) for key, value in data.items() if key in known})
        except (TypeError, InputError) as error:
            raise FormatError(f"this is not a {cls.__name__}: {error}") from error

    @classmethod
    def _derived(cls) -> set[str]:
        return set()

    @classmethod
    def _revive(cls, key: str, value: Any) -> Any:
        return to_tuple(value)


def _to_plain(value: Any, pixels: bool) -> Any:
    if isinstance(value, Plain):
        return value.to_dict(pixels=pixels)
    if isinstance(value, Mapping):
        return {str(k): _to_plain(v, pixels) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_to_plain(v, pixels) for v in value]
    return value


def to_tuple(value: Any) -> Any:
    """Lists as tuples, at any depth."""
    return tuple(to_tuple(v) for v in value) if isinstance(value, list | tuple) else value
