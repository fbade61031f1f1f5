"""`efface apply`: erase a concept from a file."""

from __future__ import annotations

import argparse
from typing import Any

from efface.cli import add_command
from efface.cli.fit import add_chunk_rows, add_columns, add_concept

_HELP = "erase a concept from a file with an eraser that was fitted before"
_DESCRIPTION = """Erase a concept from a file with an eraser that was fitted before.

  efface apply X.npy --eraser eraser/ -o X_clean.npy
  efface apply people.csv --eraser eraser/ -o people_clean.csv

The file is read and written in chunks. Row order and all other columns of a table stay as they are, the
concept's own column too: drop it yourself if it must not be there. The format follows the suffix of -o.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(subparsers, run, help=_HELP, description=_DESCRIPTION)
    parser.add_argument("x", metavar="X", help="embeddings: .npy .npz .csv .parquet .safetensors (file.npz:name)")
    parser.add_argument("--eraser", required=True, metavar="DIR", help="folder written by efface fit")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write")
    add_concept(parser, required=False)
    add_columns(parser)
    add_chunk_rows(parser)


def run(args: argparse.Namespace) -> None:
    """Apply and write."""
    from efface.cli.applying import apply_file

    apply_file(args)
