"""Removals and maskers as files: a frozen dataclass as plain data and tensors, and back; checksums of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
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


def checksum(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of names, shapes, types and all values.

    >>> checksum([("x", torch.zeros(2))]) == checksum([("x", torch.zeros(3))])
    False
    """
    total = hashlib.sha256()
    for name, value in tensors:
        flat = value.detach().cpu().contiguous()
        total.update(f"{name} {tuple(flat.shape)} {flat.dtype}".encode())
        total.update(flat.reshape(-1).view(torch.uint8).numpy().data if flat.numel() else b"")
    return total.hexdigest()


def _listed(item: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    return [_listed(part) for part in item] if isinstance(item, (tuple, list)) else item
