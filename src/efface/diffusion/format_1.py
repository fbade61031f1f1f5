"""What the folders of format 1, which knew a spec in place of a concept, say in today's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efface.core.codec import TENSOR, TYPE

_RENAMED = {"target": "name"}
_GONE = ("key_span",)


def upgraded_erasure(plain: Mapping[str, Any], config: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Plain data of an erasure of a pipeline.

    Args:
        plain: Those of format 1.
        config: Its options.
        **fields: Its own fields.
    """
    return {
        "method": plain["method"],
        "concepts": [_concept(spec) for spec in plain["specs"]],
        "config": dict(config),
        **fields,
    }


def rest_of(plain: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """What is left of plain data without what all erasures have and the fields that are known."""
    return {name: value for name, value in plain.items() if name not in (TYPE, "method", "specs", *known)}


def tensor(name: str) -> dict[str, str]:
    """What stands for a tensor of that name."""
    return {TENSOR: name}


def _concept(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(name, name): value for name, value in spec.items() if name not in _GONE}
