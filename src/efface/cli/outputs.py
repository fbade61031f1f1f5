"""Where a report may be written, checked before the work is done."""

from __future__ import annotations

from pathlib import Path

from efface._errors import InputError
from efface._lazy import require


def check_output(output: str | None) -> None:
    """Refuse before the work is done what could not be written after it.

    Args:
        output: What `-o` was given, or None.

    Raises:
        InputError: If the suffix is that of no report.
        MissingExtraError: If a page is asked for and its packages are not installed.
    """
    suffix = ".json" if output is None else Path(output).suffix.lower()
    if suffix not in ("", ".html", ".json", ".md"):
        raise InputError(f"-o {output}: expected a suffix of .html .json .md, or a folder for .html and .json")
    if suffix in ("", ".html"):
        for module in ("jinja2", "matplotlib"):
            require(module, extra="report")
