"""Values that survive JSON: a dataclass as plain dict, and back."""

from __future__ import annotations

import typing
import warnings
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Self

from efface._errors import EffaceWarning, FormatError, InputError
from efface._text import shown
from efface.core.codec import decoded


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
        if not isinstance(data, Mapping):
            raise FormatError(f"this is not a {cls.__name__}: it is a {type(data).__name__}")
        if unnamed := [key for key in data if not isinstance(key, str)]:
            raise FormatError(f"this is not a {cls.__name__}: {shown(unnamed[0])} is no name of a field")
        strange = sorted(set(data) - known - cls._derived())
        if strange:
            warnings.warn(f"{cls.__name__}: unknown keys {strange} ignored", EffaceWarning, stacklevel=2)
        try:
            return cls(**{key: cls._revive(key, value) for key, value in data.items() if key in known})
        except FormatError:
            raise
        except (TypeError, InputError) as error:
            raise FormatError(f"this is not a {cls.__name__}: {error}") from error

    @classmethod
    def _derived(cls) -> set[str]:
        return set()

    @classmethod
    def _revive(cls, key: str, value: Any) -> Any:
        """A value of a file, of the type of its field; what is made of others of these, each by itself."""
        if (kind := cls._kinds().get(key)) is not None:
            if not isinstance(value, list | tuple):
                raise FormatError(f"this is not a {cls.__name__}: {key} is {shown(value)}, expected a list")
            return tuple(map(kind.from_dict, value))
        found = decoded(value if isinstance(value, Mapping) else _to_lists(value), {}, cls._hints()[key], key)
        return found if isinstance(found, Mapping) else to_tuple(found)

    @classmethod
    def _kinds(cls) -> dict[str, type[Plain]]:
        """Fields that hold others of these."""
        return {}

    @classmethod
    def _hints(cls) -> dict[str, Any]:
        """Name -> type of each field."""
        return _hints_of(cls)


@cache
def _hints_of(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _to_lists(value: Any) -> Any:
    return [_to_lists(v) for v in value] if isinstance(value, list | tuple) else value


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
