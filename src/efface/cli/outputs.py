"""Where a report may be written, checked before the work is done, and by which command it was made."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from efface._errors import InputError
from efface._lazy import require
from efface.audit.audit import Audit
from efface.core.provenance import provenance


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


def made_by(args: argparse.Namespace, audit: Audit) -> Audit:
    """The audit with the command that made it, instead of the call within it, as its origin."""
    inner = {key: value for key, value in audit.provenance.items() if key != "call"}
    # A command may also be run from Python, without a command line.
    outer = provenance(seed=args.seed, call=getattr(args, "command_line", "") or audit.provenance.get("call", ""))
    return replace(audit, provenance={**outer, **inner})
