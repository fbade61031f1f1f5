"""What `--set name=value` means for a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efface._errors import InputError
from efface.core.config import Config
from efface.core.method import Method


def parsed(method: Method, texts: Sequence[str], *, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Options of a method as they were given.

    Args:
        method: The method.
        texts: What `--set` was given.
        flags: Options that have a flag of their own.

    Raises:
        InputError: If there is no such option (the text names what comes near), or it has a flag, or is no such thing.
    """
    found = method.config.parse(texts, method=method.name)
    for name in found:
        if name in flags:
            raise InputError(f"--set {name}=...: write --{name.replace('_', '-')} ...")
    return found


def configured(method: Method, texts: Sequence[str], *, flags: Sequence[str] = ()) -> Config:
    """The config of a method, from options as `parsed` reads them."""
    return method.config.of(parsed(method, texts, flags=flags), method=method.name)
