"""What commands write: checked before the work is done, told where it lies, and by which command it was made."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface._errors import EffaceWarning, InputError
from efface._lazy import require
from efface.audit.audit import Audit
from efface.cli.flags import Options
from efface.core.provenance import provenance
from efface.report.saving import FORMATS, targets
from efface.streams.matching import would_find
from efface.streams.open import split_spec

Say = Callable[[str], None]
"""Told what is going on."""


def teller(command: str) -> Say:
    """Lines on stderr that begin with the name of the command."""
    return lambda text: print(f"efface {command}: {text}", file=sys.stderr, flush=True)


def caution(text: str) -> None:
    """Warn the user of a command, who has nobody else to hear it, whatever the filters of warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", EffaceWarning)
        warnings.warn(text, EffaceWarning, stacklevel=3)


def check_free(
    paths: Iterable[Path], flag: str, *, force: bool, read: Iterable[Any] = (), data: Iterable[Any] = ()
) -> None:
    """Refuse to replace files, or a folder that has something in it, without being asked to; and ever what is read.

    Args:
        paths: What would be written.
        flag: What named it.
        force: Whether it was asked for.
        read: What the command reads: paths, `file:name`, or None; what is no file or folder does not count.
        data: Of what it reads, what several files are named by: folders and patterns.

    Raises:
        InputError: If one is there, and not to be replaced, or would be data that the next command reads.
    """
    paths = [*paths]
    taken = [path for path in paths if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    inputs = [path for spec in read if spec is not None for path in {Path(spec), split_spec(spec)[0]} if path.exists()]
    for path in taken:
        if own := next((each for each in inputs if _is_of(path, each)), None):
            what = "a file that is read" if own.is_file() else _within(path, own)
            raise InputError(f"{flag} {path} is {what}: name another, or what it holds would be lost")
    for spec in data:
        if found := next((path for path in paths if not path.exists() and would_find(spec, path)), None):
            raise InputError(
                f"{flag} {found} lies in what is read, {spec}, where the next command would find it: name a place "
                "outside"
            )
    if taken and not force:
        raise InputError(f"{flag} {taken[0]} is there already: name another, or write --force to replace it")


def _within(path: Path, read: Path) -> str:
    if path.is_file():
        return f"a file of {read}, which is read"
    return "a folder that is read" if path.samefile(read) else f"a folder within {read}, which is read"


def _is_of(path: Path, read: Path) -> bool:
    """Whether a file or folder is one that is read, by whatever name, or lies in a folder that is."""
    if read.is_dir():
        return read.resolve() in (path.resolve(), *path.resolve().parents)
    return path.samefile(read)


def check_report(output: str | None, *, force: bool, read: Iterable[Any] = (), data: Iterable[Any] = ()) -> None:
    """Refuse before the work is done a report that could not be written after it.

    Args:
        output: What `-o` was given, or None.
        force: Whether files that are there may be replaced.
        read: What the command reads, as in `check_free`.
        data: What it names several files by, as there.

    Raises:
        InputError: If the suffix is that of no report, or the file is there.
        MissingExtraError: If a page is asked for and its packages are not installed.
    """
    if output is None:
        return
    suffix = Path(output).suffix.lower()
    if suffix not in ("", *FORMATS):
        raise InputError(f"-o {output}: expected a suffix of .html .json .md, or a folder for .html and .json")
    if suffix in ("", ".html"):
        for module in ("jinja2", "matplotlib"):
            require(module, extra="report")
    check_free(targets(output), "-o", force=force, read=read, data=data)


def write_report(audit: Audit, output: str | None) -> None:
    """Print what follows from an audit, and write it if asked."""
    print(f"{audit}\n")
    for path in audit.save(output) if output else ():
        print(f"report written to {path}")


def made_by(args: Options, audit: Audit, *, seed: int) -> Audit:
    """The audit with the command that made it, instead of the call within it, as its origin."""
    inner = {key: value for key, value in audit.provenance.items() if key != "call"}
    # A command may also be run from Python, without a command line.
    outer = provenance(seed=seed, call=args.command_line or audit.provenance.get("call", ""))
    return replace(audit, provenance={**outer, **inner})
