"""`efface fit`: learn from a file how to erase a concept."""

from __future__ import annotations

import argparse
from typing import Any

from efface.cli import add_command

_HELP = "learn from a file how to erase a concept"
_DESCRIPTION = """Learn from a file how to erase a concept, and save the eraser.

  efface fit X.npy --concept z.npy -o eraser/
  efface fit people.csv --concept sex --exclude name,city -o eraser/
  efface fit data.npz:X --concept data.npz:z -o eraser/ --method oracle

The file is read in chunks and may be larger than memory. Classes need a second pass, over the labels alone.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(subparsers, run, help=_HELP, description=_DESCRIPTION)
    parser.add_argument("x", metavar="X", help="embeddings: .npy .npz .csv .parquet .safetensors (file.npz:name)")
    add_concept(parser, required=True)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the eraser")
    parser.add_argument("--method", default="leace", help="how to erase (default: leace); a wrong name lists all")
    add_kind(parser)
    add_columns(parser)
    add_chunk_rows(parser)
    parser.add_argument("--checkpoint", metavar="DIR", help="keep the state here, and go on from it if interrupted")


def add_concept(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Where the labels are."""
    parser.add_argument(
        "--concept",
        action="append",
        required=required,
        metavar="Z",
        help="labels: a column of X, or a file (z.npy, z.npz:name, z.csv:column); repeat for several concepts",
    )


def add_kind(parser: argparse.ArgumentParser) -> None:
    """What the labels are."""
    parser.add_argument(
        "--kind",
        choices=("auto", "categorical", "continuous"),
        default="auto",
        help="what numbers are as labels (default: integers classes, floats quantities); text is classes",
    )


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Which columns are X."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--columns", metavar="A,B,...", help="the columns that are X (default: all but the concept)")
    group.add_argument("--exclude", metavar="A,B,...", help="columns that are not X")


def add_chunk_rows(parser: argparse.ArgumentParser) -> None:
    """How much is in memory at a time."""
    parser.add_argument("--chunk-rows", type=at_least_one, default=4096, metavar="N", help="rows in memory at a time")


def at_least_one(text: str) -> int:
    """An integer of at least one from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> None:
    """Fit and save."""
    from efface.cli.fitting import fit_file

    fit_file(args)
