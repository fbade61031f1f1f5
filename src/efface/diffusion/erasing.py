"""Erasing in one call: methods by name."""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Any

from efface._errors import FormatError
from efface._io import load_folder
from efface._registry import Method, get_method, methods
from efface.diffusion.erasure import Erasure
from efface.diffusion.spec import Concepts

ROOMS = ("text", "weights", "guidance")
"""Where methods lie; each file in them registers its own."""


def diffusion_methods() -> dict[str, Method]:
    """Name -> every method that erases from pipelines."""
    for room in ROOMS:
        for module in pkgutil.iter_modules([str(Path(__file__).parent / room)]):
            importlib.import_module(f"{__package__}.{room}.{module.name}")
    return {method.name: method for method in methods("diffusion")}


def erase(pipe: Any, concept: Concepts, *, method: str, **options: Any) -> Erasure:
    """Fit an erasure of a concept or several; put it on with `applied` or `apply_`.

    Args:
        pipe: A diffusers pipeline; it is left as it is.
        concept: A word, a spec, or a list of these for methods that can erase several at once.
        method: Name of a method.
        **options: Options of the method.

    Returns:
        The erasure: `with erase(pipe, "circle", method="negative-prompt").applied(pipe): pipe("a circle")`.

    Raises:
        InputError: If there is no such method (the text lists those there are), or it does not suit the pipeline.
    """
    diffusion_methods()
    return get_method(method, "diffusion").fitter.fit(pipe, concept, **options)  # type: ignore[attr-defined]


def load_erasure(path: str | os.PathLike[str]) -> Erasure:
    """Whichever erasure is in a folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        FormatError: If it holds something else, or an erasure of a method that this efface does not have.
    """
    config, _ = load_folder(path)
    known = diffusion_methods()
    if config.get("method") not in known:
        raise FormatError(f"{path} holds a {config.get('type')!r} of method {config.get('method')!r}, not an erasure")
    return known[config["method"]].eraser.from_pretrained(path)  # type: ignore[attr-defined]
