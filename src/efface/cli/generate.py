"""`efface generate`: look at what a pipeline draws, and at what it draws with an erasure on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from efface.cli import add_command

_HELP = "sample a text-to-image pipeline into one picture, with or without an erasure"
_DESCRIPTION = """Sample a text-to-image pipeline into one picture: a row for each prompt, a column for each seed.

  efface generate shapes --prompt "a red circle" --prompt "a blue star" -o grid.png
  efface generate shapes --prompt "a red circle" --erase circle --method negative-prompt -o grid.png
  efface generate my-stable-diffusion/ --prompt "a church" --seeds 2 --steps 20 -o grid.png

PIPELINE is a folder that diffusers can load, or "shapes", the small pipeline that comes with efface-worlds. With
--erase or --erasure each prompt has a second row, with the erasure on, at the same seeds.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(subparsers, run, help=_HELP, description=_DESCRIPTION)
    parser.add_argument("pipeline", metavar="PIPELINE", help='folder of a diffusers pipeline, or "shapes"')
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be given several times")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="picture to write: .png .jpg")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="columns: seeds 0 to N - 1 (default: 4)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of the sampler (default: the pipeline's)")
    parser.add_argument("--guidance", type=float, metavar="S", help="scale of guidance (default: the pipeline's)")
    parser.add_argument("--negative", metavar="TEXT", help="negative prompt")
    parser.add_argument("--erase", metavar="CONCEPT", help="fit an erasure of this concept")
    parser.add_argument("--method", help="by this method (with --erase)")
    parser.add_argument("--erasure", type=Path, metavar="DIR", help="put this saved erasure on, instead of --erase")


def run(args: argparse.Namespace) -> None:
    """Sample and write."""
    from efface.cli.generating import generate_picture

    print(generate_picture(args))
