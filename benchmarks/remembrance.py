"""Audits of remembrance at scale: how long, and how much memory.

    python -m benchmarks.remembrance scale                             # 10,000 entities x 100 queries, 2,000 draws
    python -m benchmarks.remembrance scale --entities 2000 --draws 500

Every entity is relevant to every query, in the arms before, after and before again, so that the ledger has three rows
for each pair. An edit takes 0.3 from one in a hundred, and names in the lists are counted against that.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np

from benchmarks._measure import table
from efface.audit import remembered
from efface.audit.remembrance import Ledger, Registry
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE

GIB = 2**20  # of the kilobytes that the system counts in


def made(entities: int, queries: int, seed: int = 0) -> tuple[Ledger, Registry]:
    """A crossed ledger whose truth is known, and the registry of those in it."""
    rng = np.random.default_rng(seed)
    ids = [f"e{i:06d}" for i in range(entities)]
    popularity = np.exp(2 * rng.normal(size=entities))
    hurt = np.arange(entities) % 100 == 1
    chance = np.clip(0.6 + 0.05 * np.log(popularity), 0.1, 0.95)[:, None]
    base = rng.random((entities, queries))

    def run(loss: float) -> np.ndarray:
        drawn = np.where(rng.random(base.shape) < 0.85, base, rng.random(base.shape))
        return drawn < chance - loss * hurt[:, None]

    arms = {BEFORE: base < chance, AFTER: run(0.3), AGAIN: run(0.0)}
    place = np.indices(base.shape).reshape(2, -1).astype(np.int32)
    rows = {
        "entity": np.tile(place[0], len(arms)),
        "query": np.tile(place[1], len(arms)),
        "arm": np.repeat(np.arange(len(arms)), base.size),
        "hit": np.concatenate([hits.reshape(-1) for hits in arms.values()]),
        "merit": np.ones(base.size * len(arms)),
    }
    registry = Registry.of(
        ids,
        target=ids[:1],
        popularity=popularity,
        similarity=rng.random(entities),
        groups={"guild": [("smith", "weaver", "dyer")[i % 3] for i in range(entities)]},
    )
    return Ledger.of_codes(ids, [f"q{i:04d}" for i in range(queries)], list(arms), rows), registry


def scale(entities: int, queries: int, draws: int) -> None:
    """Time, peak of memory and lists of one audit."""
    start = time.perf_counter(), time.process_time()
    ledger, registry = made(entities, queries)
    ready = time.perf_counter(), time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    audit = remembered(ledger, registry=registry, draws=draws, listed=entities)
    done = time.perf_counter(), time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    tables = {found.title: found for part in audit.walk() for found in part.tables}
    named = {row[0] for title in ("Suppressed", "Elevated") if title in tables for row in tables[title].rows}
    hurt = {f"e{i:06d}" for i in range(1, entities, 100)}
    header = ("rows", "ledger s (CPU)", "audit s (CPU)", "GiB before", "GiB peak", "found of hurt", "false of named")
    times = [f"{b[0] - a[0]:.1f} ({b[1] - a[1]:.1f})" for a, b in ((start, ready), (ready, done))]
    counts = (f"{len(named & hurt)} of {len(hurt)}", f"{len(named - hurt)} of {len(named)}")
    row = (f"{len(ledger):,}", *times, f"{before:.2f}", f"{peak:.2f}", *counts)
    table(f"{entities:,} entities x {queries} queries, {draws:,} draws", header, [row])
    print("\n" + "\n".join(audit.conclusions))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("scale", help="time and memory of one audit")
    command.add_argument("--entities", type=int, default=10_000)
    command.add_argument("--queries", type=int, default=100)
    command.add_argument("--draws", type=int, default=2_000)
    args = parser.parse_args(arguments)
    scale(args.entities, args.queries, args.draws)


if __name__ == "__main__":
    main()
