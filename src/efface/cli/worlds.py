"""Worlds by name: those of efface-worlds, where a command takes a name in the place of a folder."""

from __future__ import annotations

from typing import Any

from efface._errors import InputError, MissingExtraError
from efface._lazy import require

_REGISTRY = "efface_worlds.registry"


def find_world(name: str, kind: str, otherwise: str) -> Any:
    """The world that a user named.

    Args:
        name: What was written, which is nothing else.
        kind: `"pipeline"` or `"classifier"`.
        otherwise: What else could have been written, for the text of the error.

    Raises:
        InputError: If no world is called so.
        MissingExtraError: If efface-worlds is not installed.
    """
    try:
        registry: Any = require(_REGISTRY, extra="worlds")
    except MissingExtraError as error:
        raise MissingExtraError(f"{name} is {otherwise}; for a world of that name {error}") from error
    try:
        return registry.find_world(name, kind)
    except InputError as error:
        raise InputError(f"{name} is {otherwise}, and {str(error).removeprefix(f'{name!r} is ')}") from error


def world_names(kind: str) -> dict[str, str]:
    """Name -> summary of the worlds of a kind; none where efface-worlds is not installed."""
    try:
        registry: Any = require(_REGISTRY, extra="worlds")
    except MissingExtraError:
        return {}
    return {name: registry.WORLDS[name].summary for name in registry.names_of(kind)}
