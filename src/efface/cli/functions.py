"""Functions that a user names as package.module:function."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._validate import did_you_mean
from efface.streams import split_spec


def is_function(name: str) -> bool:
    """Whether a name is package.module:function, and no file."""
    module, colon, attribute = name.partition(":")
    named = [*module.split("."), *attribute.split(".")]
    of_a_file = split_spec(name)[1] is not None or Path(name).exists()
    return bool(colon) and not of_a_file and all(part.isidentifier() for part in named)


def function_of(name: str, takes: str) -> Callable[..., Any]:
    """The function of a name; modules of the current folder can be imported.

    Args:
        name: As package.module:function.
        takes: What it is a function of, in words.

    Raises:
        InputError: If there is none.
    """
    module, _, attribute = name.partition(":")
    with here():
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"{name} cannot be imported: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, [each for each in dir(found) if not each.startswith("_")])
            raise InputError(f"{name} cannot be imported: {module} has no {part!r}{near}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{name} is a {type(found).__name__}, expected a function of {takes}")
    return found


@contextmanager
def here() -> Iterator[None]:
    """Modules of the current folder can be imported, as with `python -m`."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")
