"""Audits of remembrance at scale: how long, and how much memory.

    python -m benchmarks.remembrance scale                             # 10,000 entities x 100 queries, 2,000 draws
    python -m benchmarks.remembrance scale --entities 2000 --draws 500
    python -m benchmarks.remembrance stream                            # 1e6 and 1e7 rows of a file, read in parts
    python -m benchmarks.remembrance stream --rows 100000000 --folder /big
    python -m benchmarks.remembrance stream --rows 10000000 --entities 10000 1000 100   # as many rows, more questions

Every entity is relevant to every query, in the arms before, after and before again, so that the ledger has three rows
for each pair. An edit takes 0.3 from one in a hundred, and names in the lists are counted against that.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._measure import table
from efface.audit import remembered
from efface.audit.remembrance import Ledger, Registry, StreamedLedger
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE

GIB = 2**20  # of the kilobytes that the system counts in
ARMS = (BEFORE, AFTER, AGAIN)
LOSS, SHARED = 0.3, 0.85


def who(entities: int, rng: np.random.Generator) -> Registry:
    """Entities of many popularities, one of them the target."""
    ids = [f"e{i:06d}" for i in range(entities)]
    popularity = np.exp(2 * rng.normal(size=entities))
    return Registry.of(
        ids,
        target=ids[:1],
        popularity=popularity,
        similarity=rng.random(entities),
        groups={"guild": [("smith", "weaver", "dyer")[i % 3] for i in range(entities)]},
    )


def answered(registry: Registry, queries: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Arm -> who was named in the answer to each query, `(entities, queries)`; one in a hundred loses by the edit."""
    hurt = (np.arange(len(registry)) % 100 == 1)[:, None]
    chance = np.clip(0.6 + 0.05 * np.log(registry.popularity), 0.1, 0.95)[:, None]
    base = rng.random((len(registry), queries))

    def run(loss: float) -> np.ndarray:
        drawn = np.where(rng.random(base.shape) < SHARED, base, rng.random(base.shape))
        return drawn < chance - loss * hurt

    return {BEFORE: base < chance, AFTER: run(LOSS), AGAIN: run(0.0)}


def made(entities: int, queries: int, seed: int = 0) -> tuple[Ledger, Registry]:
    """A crossed ledger whose truth is known, and the registry of those in it."""
    rng = np.random.default_rng(seed)
    registry = who(entities, rng)
    arms = answered(registry, queries, rng)
    size = entities * queries
    place = np.indices((entities, queries)).reshape(2, -1).astype(np.int32)
    rows = {
        "entity": np.tile(place[0], len(arms)),
        "query": np.tile(place[1], len(arms)),
        "arm": np.repeat(np.arange(len(arms)), size),
        "hit": np.concatenate([hits.reshape(-1) for hits in arms.values()]),
        "merit": np.ones(size * len(arms)),
    }
    return Ledger.of_codes(registry.ids, [f"q{i:04d}" for i in range(queries)], list(arms), rows), registry


def write(path: Path, entities: int, rows: int) -> None:
    """As many rows, query by query, so that no entity lies together."""
    rng, queries = np.random.default_rng(0), rows // (entities * len(ARMS))
    registry = who(entities, rng)
    ids, names = pa.array(registry.ids), pa.array([f"q{i:05d}" for i in range(queries)])

    def column(codes: np.ndarray, values: pa.Array) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), values)

    writer, step = None, max(1, 1_000_000 // (entities * len(ARMS)))
    for start in range(0, queries, step):
        many = min(step, queries - start)
        arms = answered(registry, many, rng)
        shape = (len(arms), many, entities)
        arm, query, entity = (part.reshape(-1) for part in np.indices(shape, dtype=np.int32))
        hit = np.stack([hits.T for hits in arms.values()]).reshape(-1)
        part = pa.table(
            {
                "entity": column(entity, ids),
                "query": column(query + start, names),
                "arm": column(arm, pa.array(ARMS)),
                "hit": pa.array(hit),
                "merit": pa.array(np.ones(hit.size, dtype=np.float32)),
            }
        )
        writer = pq.ParquetWriter(path, part.schema) if writer is None else writer
        writer.write_table(part)
    if writer is not None:
        writer.close()


def audited(path: Path, entities: int, draws: int, at_once: int) -> dict[str, object]:
    """What an audit of a file costs in this process, and what it finds."""
    start = time.perf_counter(), time.process_time()
    registry = who(entities, np.random.default_rng(0))
    with StreamedLedger(path, at_once=at_once, folder=path.parent) as rows:
        kept = sum(each.stat().st_size for each in rows.folder.rglob("*.parquet"))
        audit = remembered(rows, registry=registry, draws=draws, listed=entities)
        many, parts, questions = len(rows), rows.parts, len(rows.queries)
    lists = [each for part in audit.walk() for each in part.tables if each.title in ("Suppressed", "Elevated")]
    found = {row[0] for each in lists for row in each.rows}
    hurt = {f"e{i:06d}" for i in range(1, entities, 100)}
    return {
        "rows": many,
        "questions": questions,
        "parts": parts,
        "wall": time.perf_counter() - start[0],
        "cpu": time.process_time() - start[1],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB,
        "file": path.stat().st_size / 2**30,
        "kept": kept / 2**30,
        "found": len(found & hurt),
        "hurt": len(hurt),
        "false": len(found - hurt),
        "said": audit.conclusions[-1],
    }


def stream(rows: Sequence[int], entities: Sequence[int], draws: int, at_once: int, folder: str | None) -> None:
    """Time and peak of memory of audits of files, each in a process of its own."""
    header = (
        "entities",
        "questions",
        "rows",
        "file GiB",
        "parts",
        "kept GiB",
        "s (CPU)",
        "GiB peak",
        "found of hurt",
        "false",
    )
    shown = []
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made_in:
        for many, who_many in ((many, each) for each in entities for many in rows):
            path = Path(made_in) / "rows.parquet"
            arguments = [str(path), str(who_many), str(many), str(draws), str(at_once)]
            for what in ("write", "audit"):
                command = [sys.executable, "-m", "benchmarks.remembrance", f"_{what}", *arguments]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            said = json.loads(out)
            path.unlink()
            shown.append(
                (
                    f"{who_many:,}", f"{said['questions']:,}", f"{said['rows']:,}", f"{said['file']:.2f}",
                    said["parts"], f"{said['kept']:.2f}",
                    f"{said['wall']:.0f} ({said['cpu']:.0f})", f"{said['peak']:.2f}",
                    f"{said['found']} of {said['hurt']}", said["false"],
                )
            )  # fmt: skip
            print(said["said"], flush=True)
    table(f"{draws:,} draws, {at_once:,} rows at once", header, shown)


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
    command = commands.add_parser("stream", help="time and memory of audits of files, read in parts")
    command.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    command.add_argument("--entities", type=int, nargs="+", default=[10_000])
    command.add_argument("--draws", type=int, default=500)
    command.add_argument("--at-once", type=int, default=500_000)
    command.add_argument("--folder", help="where files are kept meanwhile")
    for what in ("_write", "_audit"):
        command = commands.add_parser(what)
        command.add_argument("path", type=Path)
        for name in ("entities", "rows", "draws", "at_once"):
            command.add_argument(name, type=int)
    args = parser.parse_args(arguments)
    if args.command == "scale":
        scale(args.entities, args.queries, args.draws)
    elif args.command == "stream":
        stream(args.rows, args.entities, args.draws, args.at_once, args.folder)
    elif args.command == "_write":
        write(args.path, args.entities, args.rows)
    else:
        print(json.dumps(audited(args.path, args.entities, args.draws, args.at_once)))


if __name__ == "__main__":
    main()
