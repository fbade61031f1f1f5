"""`efface audit`: is the concept gone from a file, and what else went?"""

from __future__ import annotations

import argparse
from typing import Any

from efface.cli import add_command
from efface.cli.fit import add_columns, add_concept, add_kind, at_least_one

_HELP = "show whether a concept is gone, and what else went"
_DESCRIPTION = """Show how well a concept can be read from X, before and after erasure, and what else went.

  efface audit X.npy --concept z.npy
  efface audit people.csv --concept sex --eraser eraser/ --task income -o report.html
  efface audit X.npy --concept z.npy --after X_clean.npy -o report.json

Without --eraser and --after, an eraser is fitted anew in each fold on the rows that are not scored: the fairest
way to see what a method does. With them, X should be rows that the eraser was not fitted on.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(subparsers, run, help=_HELP, description=_DESCRIPTION)
    parser.add_argument("x", metavar="X", help="embeddings: .npy .npz .csv .parquet .safetensors (file.npz:name)")
    add_concept(parser, required=True)
    add_kind(parser)
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--eraser", metavar="DIR", help="folder written by efface fit: audit X erased by it")
    after.add_argument("--after", metavar="FILE", help="the same rows, erased")
    after.add_argument("--method", default="leace", help="without an eraser: what to fit in each fold (default: leace)")
    parser.add_argument("--task", metavar="Y", help="labels of what should survive: a column of X, or a file")
    parser.add_argument("-o", "--output", metavar="FILE", help="report to write: .html, .json or .md")
    add_columns(parser)
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")
    parser.add_argument(
        "--max-rows",
        type=at_least_one,
        default=20_000,
        metavar="N",
        help="audit a random sample of so many rows of a larger file (default: 20000)",
    )


def run(args: argparse.Namespace) -> None:
    """Audit and report."""
    from efface.cli.auditing import audit_files

    audit_files(args)
