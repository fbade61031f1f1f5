"""The command line: `efface demo | fit | apply | audit | erase | export | generate | explain | methods`.

`options` says what each command is asked for, `app` makes commands of that, and a command's own module does the work:
it is imported when it runs, so that `efface --help` is quick and imports no torch.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from efface._errors import EffaceError
from efface._interrupts import insisted
from efface._lazy import require
from efface._text import visible

FAILED, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of the process if None.

    Returns:
        0 if it worked, 2 if the command line or the user's input cannot be used, 130 if it was interrupted.
    """
    try:
        require("typer", extra="cli")
        with insisted(), _plain_warnings():
            status = importlib.import_module("efface.cli.app").run(sys.argv[1:] if argv is None else argv)
    except (EffaceError, OSError) as error:
        print(visible(f"efface: error: {error}"), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        print("efface: interrupted", file=sys.stderr)
    return status


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line each, without the line of source code that raised them."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(visible(f"efface: warning: {message}"), file=sys.stderr)
