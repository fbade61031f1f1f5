"""The command line: `efface demo | fit | apply | audit | generate | explain`.

A command is a module with `add_parser(subparsers)` and `run(args)`; what it needs is imported when it runs,
so that `efface --help` is quick and imports no torch.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from efface._errors import EffaceError

COMMANDS = ("demo", "fit", "apply", "audit", "generate", "explain")
FAILED, INTERRUPTED = 2, 130

Say = Callable[[str], None]
"""Told what is going on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of the process if None.

    Returns:
        0 if it worked, 2 if the user's input cannot be used, 130 if it was interrupted.
    """
    try:
        args = make_parser().parse_args(argv)
        args.command_line = shlex.join(["efface", *(sys.argv[1:] if argv is None else argv)])
        with _plain_warnings():
            args.run(args)
    except (EffaceError, OSError) as error:
        print(f"efface: error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("efface: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="efface",
        description="Erase a concept from embeddings or pipelines, show whether it is gone, and explain classifiers.",
    )
    parser.add_argument("--version", action="version", version=f"efface {importlib.metadata.version('efface')}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"efface.cli.{name}").add_parser(subparsers)
    return parser


def add_command(subparsers: Any, run: Any, *, help: str, description: str = "") -> argparse.ArgumentParser:
    """A parser for the command of the module in which `run` is defined."""
    parser = subparsers.add_parser(
        run.__module__.rpartition(".")[2],
        help=help,
        description=description or help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line each, without the line of source code that raised them."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"efface: warning: {message}", file=sys.stderr)
