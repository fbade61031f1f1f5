"""Removals and maskers as files: a frozen dataclass as plain data and tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from efface._errors import FormatError, InputError


def to_plain(value: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A dataclass as JSON data (with its `type`) and named tensors.

    >>> from efface.attribution.removal import Blur
    >>> to_plain(Blur(2.0))
    ({'type': 'Blur', 'sigma': 2.0, 'low': 0.0, 'high': 1.0}, {})
    """
    plain: dict[str, Any] = {"type": type(value).__name__}
    tensors: dict[str, Tensor] = {}
    for field in fields(value) if is_dataclass(value) else ():
        item = getattr(value, field.name)
        if isinstance(item, Tensor):
            tensors[field.name] = item
        else:
            plain[field.name] = _listed(item)
    return plain, tensors


def from_plain(plain: Mapping[str, Any], tensors: Mapping[str, Tensor], known: Mapping[str, type], name: str) -> Any:
    """The dataclass that `to_plain` took apart.

    Args:
        plain: Its plain fields and its `type`.
        tensors: Its tensors.
        known: Types by name.
        name: Argument that can give the value instead, for the message.

    Raises:
        InputError: If the type is none of ours: nobody here can build it.
        FormatError: If the fields are not those of the type.
    """
    kind = plain.get("type")
    if kind not in known:
        raise InputError(f"the saved {name} is a {kind!r}, which efface does not know: write {name}={kind}(...)")
    try:
        return known[str(kind)](**{k: v for k, v in plain.items() if k != "type"}, **tensors)
    except (TypeError, ValueError) as error:
        raise FormatError(f"the saved {name} cannot be read: {error}") from error


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names start with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _listed(item: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    return [_listed(part) for part in item] if isinstance(item, (tuple, list)) else item
