"""Reports on disk: one file, or a folder with the page and its data side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import as_path, write_text
from efface.report.data import AuditData, check_audit
from efface.report.html import to_html
from efface.report.markdown import to_markdown

_FOLDER_HOLDS = ("report.html", "report.json")


def to_json(audit: AuditData) -> str:
    """The audit as JSON, without the pixels of pictures. NaN and infinity are refused."""
    check_audit(audit)
    return json.dumps(_without_pixels(audit), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _without_pixels(audit: AuditData) -> dict[str, Any]:
    figures = [
        {**figure, "pictures": [{"title": p["title"], "text": p["text"]} for p in figure["pictures"]]}
        for figure in audit["figures"]
    ]
    return {**audit, "figures": figures, "parts": [_without_pixels(part) for part in audit["parts"]]}


_WRITERS: dict[str, Callable[[AuditData], str]] = {".html": to_html, ".json": to_json, ".md": to_markdown}


FORMATS = tuple(_WRITERS)
"""Suffixes of the files that can be written."""


def save(audit: AuditData, path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write one file if `path` ends in one of `FORMATS`, else `report.html` and `report.json` in the folder `path`.

    Everything is rendered before the first byte is written, and each file appears in one step.

    Returns:
        The paths written.

    Raises:
        InputError: If the suffix is another, or `path` is a file where a folder is meant.
    """
    files = targets(path)
    texts = [_WRITERS[file.suffix.lower()](audit) for file in files]
    for file, text in zip(files, texts, strict=True):
        write_text(file, text)
    return files


def targets(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The files that `save` writes.

    Raises:
        InputError: If the suffix is another, or `path` is a file where a folder is meant.
    """
    path = as_path(path)
    single = bool(path.suffix) and not path.is_dir()
    if single and path.suffix.lower() not in _WRITERS:
        raise InputError(f"{path}: expected a file that ends in one of {', '.join(FORMATS)}, or a folder")
    if path.is_file() and not single:
        raise InputError(f"{path} is a file: write a folder, or a file that ends in one of {', '.join(FORMATS)}")
    return (path,) if single else tuple(path / name for name in _FOLDER_HOLDS)
