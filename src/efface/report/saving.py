"""Reports on disk: one file, or a folder with the page and its data side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from efface._errors import InputError
from efface._io import write_text
from efface.audit.finding import Audit
from efface.report.html import to_html
from efface.report.markdown import to_markdown

_FOLDER_HOLDS = ("report.html", "report.json")


def to_json(audit: Audit) -> str:
    """The audit as JSON; `Audit.from_dict(json.loads(text))` gives it back. NaN and infinity are refused.

    >>> Audit.from_dict(json.loads(to_json(Audit("a")))) == Audit("a")
    True
    """
    return json.dumps(audit.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


_WRITERS: dict[str, Callable[[Audit], str]] = {".html": to_html, ".json": to_json, ".md": to_markdown}


FORMATS = tuple(_WRITERS)
"""Suffixes of the files that `write_report` writes."""


def write_report(audit: Audit, path: str | os.PathLike[str]) -> Path:
    """Write one file, in the format that its suffix names.

    Raises:
        InputError: If the suffix is not one of `FORMATS`.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise InputError(f"{path}: expected a file that ends in one of {', '.join(FORMATS)}")
    write_text(path, _WRITERS[path.suffix.lower()](audit))
    return path


def save(audit: Audit, path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write one file if `path` ends in one of `FORMATS`, else `report.html` and `report.json` in the folder `path`.

    Everything is rendered before the first byte is written, and each file appears in one step.

    Returns:
        The paths written.

    Raises:
        InputError: If `path` is a file of another kind.
    """
    path = Path(path)
    if path.suffix.lower() in _WRITERS and not path.is_dir():
        return (write_report(audit, path),)
    if path.is_file():
        raise InputError(f"{path} is a file: write a folder, or a file that ends in one of {', '.join(FORMATS)}")
    targets = tuple(path / name for name in _FOLDER_HOLDS)
    texts = [_WRITERS[target.suffix.lower()](audit) for target in targets]
    for target, text in zip(targets, texts, strict=True):
        write_text(target, text)
    return targets
