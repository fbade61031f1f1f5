"""`efface demo`: erase concepts from a table, sentences, two transformers and pictures; show what is gone."""

from __future__ import annotations

import time
from typing import Any, get_args

from efface._lazy import require
from efface.cli.options import Demo, World
from efface.cli.outputs import check_free, made_by, teller
from efface.report.saving import targets


def run(args: Demo) -> None:
    """Run the demo; prints the tables and the paths written."""
    check_free(targets(args.out), "--out", force=args.force)
    demonstration: Any = require("efface_worlds.demo.demonstration", extra="demo")
    start, say = time.perf_counter(), teller("demo")
    names = [args.only] if args.only else get_args(World)
    audit = made_by(args, demonstration.demo_audit(names, seed=args.seed, say=say), seed=args.seed)
    say("drawing the page")
    paths = audit.save(args.out)
    print(f"{audit}\n")
    for path in paths:
        print(path)
    say(f"done in {time.perf_counter() - start:.0f} s")
