"""The house in figures: lines, parts of which one should do, and walks through the code, of any checkout.

python -m benchmarks.house [--root PATH] [--no-walks]

Lines and parts are counted by rules on the syntax of `src/efface` (see `_house_source`, whose docstrings are the
rules); worlds are counted apart and searched for nothing. Walks are counted while they run (see `_house_walks`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks._house_source import KINDS, RULES, Source, body_lines, sources
from benchmarks._measure import table

HERE = Path(__file__).resolve().parents[1]
LONG_FILE, LONG_BODY = 300, 60


def rooms(library: Sequence[Source], worlds: Sequence[Source]) -> None:
    """Files and lines a room."""
    by_room: dict[str, list[Source]] = {}
    for source in library:
        by_room.setdefault(source.room, []).append(source)
    rows = [_row(name, found) for name, found in sorted(by_room.items())]
    total = _row("**all, without worlds**", library)
    table("Lines a room", ["", "files", "lines", *KINDS], [*rows, total, _row("worlds", worlds)])


def _row(name: str, found: Sequence[Source]) -> list[object]:
    lines = sum((source.lines() for source in found), Counter())
    return [name, len(found), f"{lines.total():,}", *(f"{lines[kind]:,}" for kind in KINDS)]


def sizes(library: Sequence[Source]) -> None:
    """How long functions and files are."""
    bodies = [body_lines(function) for source in library for function in source.functions]
    files = {str(source.path): source.lines().total() for source in library}
    long = [name for name, lines in files.items() if lines > LONG_FILE]
    rows = [
        ["lines of a function's body: p50, p90, max", _quantiles(bodies)],
        [f"functions over {LONG_BODY} lines", sum(lines > LONG_BODY for lines in bodies)],
        ["lines of a file: p50, p90, max", _quantiles([*files.values()])],
        [f"files over {LONG_FILE} lines", f"{len(long)}: {', '.join(sorted(long)) or 'none'}"],
    ]
    table("Sizes", ["", ""], rows)


def _quantiles(lines: Sequence[int]) -> str:
    return ", ".join(f"{x:.0f}" for x in np.quantile(lines, [0.5, 0.9, 1]))


def parts(library: Sequence[Source]) -> None:
    """How many there are of what one might do for."""
    rows = []
    for name, rule in RULES.items():
        found = {str(source.path): rule(source) for source in library}
        where = [f"{path} ({len(names)})" if len(names) > 1 else path for path, names in found.items() if names]
        rows.append([name, sum(map(len, found.values())), len(where), ", ".join(where)])
    table("Parts", ["", "places", "files", "which"], rows)


def walks(root: Path) -> None:
    """Calls, files and file changes."""
    paths = (root / "src", root / "packages" / "efface-worlds" / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", str(HERE / "benchmarks" / "_house_walks.py")]
    out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [[name, *(f"{n:,}" for n in found.values())] for name, found in json.loads(out.splitlines()[-1]).items()]
    table("Walks", ["", "calls", "files", "file changes"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The house in figures.")
    parser.add_argument("--root", type=Path, default=HERE, help="checkout to look at; default: this one")
    parser.add_argument("--no-walks", action="store_true", help="only what can be read in the source")
    args = parser.parse_args(argv)
    package = args.root.resolve() / "src" / "efface"
    library = sources(package)
    moved = args.root.resolve() / "packages" / "efface-worlds" / "src" / "efface_worlds"
    rooms(library, sources(moved if moved.is_dir() else package / "worlds"))
    sizes(library)
    parts(library)
    if not args.no_walks:
        walks(args.root.resolve())


if __name__ == "__main__":
    main()
