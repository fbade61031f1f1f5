"""Compare what every method computes today with what it computed at a recorded commit, bit for bit.

    python -m benchmarks.identity                                  # all groups, a minute
    python -m benchmarks.identity --only leace,orth --show         # and list the keys that differ
    python -m benchmarks.identity --reverse                        # no group may depend on another

Exits with 1 if anything differs that `meant.py` does not name. Digests hold on one type of CPU with one set of
libraries (what differs is printed). Elsewhere, record anew at a commit that is known to compute the same, and compare
with that; with `--keep` on both sides, `--beside` says by how much:

    git worktree add ../before COMMIT && cd ../before
    python -m benchmarks.identity --record /tmp/before.json --keep /tmp/before.safetensors
    cd - && python -m benchmarks.identity --against /tmp/before.json --beside /tmp/before.safetensors --show

A change that is meant gets a line in `meant.py`; `--pin` then keeps what it gives now, so that it stays so.
"""

from __future__ import annotations

from benchmarks.identity import harness  # First: it sets one thread.  # isort: skip

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from benchmarks._measure import table
from benchmarks.identity.comparing import Difference, Recorded, by_how_much, compare, keep, pinned
from benchmarks.identity.groups import GROUPS
from benchmarks.identity.meant import MEANT

RECORDED = Path(__file__).with_name("2127722.json")


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    names = args.only.split(",") if args.only else list(GROUPS)
    names = names[::-1] if args.reverse else names
    found = harness.run(GROUPS, names)
    for name, trace in found.failed.items():
        print(f"\n{name} failed:\n{trace}", file=sys.stderr)
    if args.keep:
        keep(found, args.keep)
    if args.record:
        Recorded(found.digests, environment=harness.environment()).write(args.record)
        return int(bool(found.failed))
    recorded = Recorded.read(args.against)
    differences = compare(recorded, found.digests, MEANT, names)
    report(recorded, differences, found)
    if args.show:
        show(differences, found, args.beside)
    if args.pin:
        now = {**recorded.pinned, **pinned(found.digests, differences)}
        dataclasses.replace(recorded, pinned=now).write(args.against)
    return int(bool(found.failed) or any(found.is_fault for found in differences))


def report(recorded: Recorded, differences: Sequence[Difference], found: harness.Run) -> None:
    """The table, a row a group, and what of the environment differs."""
    header = ["group", "keys", "equal", "meant", "unexplained", "missing", "new", "s"]
    kinds = ("equal", "meant", "unexplained", "missing", "new")
    rows = []
    for difference in differences:
        counts = [len(getattr(difference, kind)) for kind in kinds]
        failed = " (failed)" if difference.group in found.failed else ""
        rows.append([difference.group + failed, sum(counts), *counts, f"{found.seconds[difference.group]:.2f}"])
    total = ["all", *(sum(row[i] for row in rows) for i in range(1, 7)), f"{sum(found.seconds.values()):.1f}"]
    table(f"What differs from {RECORDED.stem}, by digests", header, [*rows, total])
    for line in recorded.elsewhere():
        print(f"NOTE the record was made elsewhere: {line}; see python -m benchmarks.identity --help")
    reasons = sorted({reason for difference in differences for reason in difference.meant.values()})
    for reason in reasons:
        keys = sum(value == reason for difference in differences for value in difference.meant.values())
        print(f"meant, {keys} keys: {reason}")


def show(differences: Sequence[Difference], found: harness.Run, beside: Path | None) -> None:
    """Every key that is not equal, and by how much, where the other tensors are there."""
    old: dict[str, Tensor] = {}
    if beside:
        from safetensors.torch import load_file

        old = load_file(beside)
    for difference in differences:
        for kind in ("meant", "unexplained", "missing", "new"):
            for key in getattr(difference, kind):
                new = found.tensors.get(key)
                gap = by_how_much(old.get(key), None if new is None else harness.real(new))
                print(f"{kind}: {key}{': ' + gap if gap else ''}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of groups, with commas")
    parser.add_argument("--reverse", action="store_true", help="the groups in reverse order")
    parser.add_argument("--show", action="store_true", help="list the keys that differ")
    parser.add_argument("--against", type=Path, default=RECORDED, help="the record to compare with")
    parser.add_argument("--record", type=Path, help="write a record of today instead of comparing")
    parser.add_argument("--keep", type=Path, help="write the smaller tensors (.safetensors)")
    parser.add_argument("--beside", type=Path, help="tensors that an earlier run kept; with --show, by how much")
    parser.add_argument("--pin", action="store_true", help="keep what the meant changes give now in the record")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
