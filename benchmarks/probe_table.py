"""What `benchmarks.probes --folder F` has found, concepts and seeds side by side, and whether they agree.

python -m benchmarks.probe_table FOLDER [--concepts circle heart striped] [--seeds 0 1]
    [--rows "direct prompt: its prompts" "likelihood: empty prompt"]

A line a method: its verdict by concept and seed, in letters, and by concept the recovery of named rows, the
mean over seeds with the least and the greatest end of their intervals. Agreement: of all methods that both judged, how
often two seeds of one concept, and two concepts at one seed, have the same verdict, with Wilson's interval (over pairs,
which have methods in common: it is too narrow), and Cohen's kappa, which takes off what is alike by chance.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks._measure import table
from efface.stats.intervals import wilson_interval

LETTERS = {
    "not suppressed": "N",
    "gated outside the weights": "G",
    "avoided by guidance": "A",
    "guidance-shielded": "S",
    "scarred": "C",
    "removed": "R",
    "inconclusive": "?",
}
_ROWS = ("direct prompt: its prompts", "likelihood: empty prompt")
Told = Mapping[tuple[str, str, int], Mapping[str, Any]]


def told_of(folder: Path) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    """What was told of each method, concept and seed."""
    each = [json.loads(path.read_text()) for path in sorted(folder.glob("told-*.json"))]
    return {(found["method"], found["concept"], found["seed"]): found for found in each}


def kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's kappa of pairs of answers; the order within a pair means nothing.

    >>> kappa([("N", "N"), ("G", "G"), ("N", "G"), ("G", "G")])
    0.4666666666666667
    """
    shares = Counter(answer for pair in pairs for answer in pair)
    chance = sum((n / (2 * len(pairs))) ** 2 for n in shares.values())
    same = sum(a == b for a, b in pairs) / len(pairs)
    return math.nan if chance == 1 else (same - chance) / (1 - chance)


def pairs_of(told: Told, first: Sequence[tuple[str, int]]) -> dict[str, list[tuple[str, str]]]:
    """Verdicts of one method side by side: two seeds of one concept, two concepts at one seed."""
    methods = dict.fromkeys(method for method, _, _ in told)
    found: dict[str, list[tuple[str, str]]] = {"seeds of one concept": [], "concepts at one seed": []}
    for (a, s), (b, t) in combinations(first, 2):
        kind = "seeds of one concept" if a == b else "concepts at one seed" if s == t else ""
        both = [m for m in methods if (m, a, s) in told and (m, b, t) in told]
        if kind:
            found[kind] += [(told[m, a, s]["verdict"], told[m, b, t]["verdict"]) for m in both]
    return found


def row_of(found: Mapping[str, Any], title: str) -> Mapping[str, Any] | None:
    """A row by the name of its probe and its own."""
    return next((row for row in found["rows"] if title == f"{row['probe']}: {row['name']}"), None)


def recovery(each: Iterable[Mapping[str, Any]], title: str) -> str:
    """Recovery of a row, the mean over seeds, with the outermost ends of their intervals."""
    rows = [row for found in each if (row := row_of(found, title)) is not None and row["value"] is not None]
    if not rows:
        return "void"
    mean = sum(row["value"] for row in rows) / len(rows)
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    return f"{mean:.2f}" if low == high else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--concepts", nargs="*", default=["circle", "heart", "striped"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--rows", nargs="*", default=_ROWS)
    args = parser.parse_args()
    asked = [(name, seed) for name in args.concepts for seed in args.seeds]
    told = {key: found for key, found in told_of(args.folder).items() if key[1:] in asked}
    if not told:
        raise SystemExit(f"{args.folder} has nothing of {', '.join(args.concepts)}: run benchmarks.probes first")
    lines = []
    for method in dict.fromkeys(method for method, _, _ in told):
        own = {key: told[method, *key] for key in asked if (method, *key) in told}
        letters = ["".join(_letter(own.get((name, seed))) for seed in args.seeds) for name in args.concepts]
        each = [[own[name, seed] for seed in args.seeds if (name, seed) in own] for name in args.concepts]
        lines.append((f"`{method}`", *letters, *(recovery(some, title) for title in args.rows for some in each)))
    header = (f"{name}, {title}" for title in args.rows for name in args.concepts)
    table("Verdicts by seed, and recovery", ("method", *args.concepts, *header), lines)
    print(", ".join(f"{letter} {kind}" for kind, letter in LETTERS.items()))
    for kind, pairs in pairs_of(told, asked).items():
        if pairs:
            same = wilson_interval(sum(a == b for a, b in pairs), len(pairs))
            clear = [pair for pair in pairs if "inconclusive" not in pair]
            print(
                f"{kind}: {100 * same.value:.0f} % [{100 * same.low:.0f}, {100 * same.high:.0f}] of {len(pairs)} pairs "
                f"alike, kappa {kappa(pairs):.2f}; without what is inconclusive {sum(a == b for a, b in clear)} of "
                f"{len(clear)}"
            )


def _letter(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else LETTERS[found["verdict"]]


if __name__ == "__main__":
    main()
