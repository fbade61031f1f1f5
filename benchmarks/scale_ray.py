"""Fits on Ray: exactness by workers and by how rows are spread, and what is lost when a worker or a machine dies.

python -m benchmarks.scale_ray [exact faults copies machine] [--rows 4000] [--width 32]

"exact": each eraser's fit of files on a Ray here, against one process: rows spread evenly over
files, all but one row a file in the last, and half of the files without rows; with 1, 2 and 4 tasks at a time, whose
results should have the same bits. "faults": a worker is killed by its number (SIGKILL) in the middle of its
task; "machine": a whole machine of two (Ray's own test cluster) with the sums it holds. "copies": where the numbers
of a batch of lists lie, in the block that a task is given and in torch.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks._measure import table
from benchmarks.scale import KINDS, error, rows_of, sums_of
from efface.engines import cluster
from efface.engines.ray import fit
from efface.streams.pieces import Tables

_FILES, _NAMES = 8, np.array(["first", "second", "third"])


def spreads(n: int) -> dict[str, list[int]]:
    """Rows of each file."""
    half = [0 if i % 2 else 2 * n // _FILES for i in range(_FILES)]
    return {
        "even": [n // _FILES] * (_FILES - 1) + [n - n // _FILES * (_FILES - 1)],
        "all but one a file in the last": [1] * (_FILES - 1) + [n - _FILES + 1],
        "half of the files empty": half[:-2] + [n - sum(half[:-2]), 0],
    }


def write(folder: Path, x: np.ndarray, z: np.ndarray, counts: Sequence[int], group: int) -> Path:
    """Rows as files."""
    folder.mkdir()
    start = 0
    for i, count in enumerate(counts):
        stop = start + count
        lists = pa.FixedSizeListArray.from_arrays(pa.array(x[start:stop].ravel()), x.shape[1])
        rows = pa.table({"x": lists, "z": _NAMES[z[start:stop]]})
        pq.write_table(rows, folder / f"{i}.parquet", row_group_size=group)
        start = stop
    return folder


def exact(place: Path, n: int, width: int, workers: Sequence[int]) -> None:
    """Each eraser and spread, against one process."""
    x, z = rows_of(n, width)
    lines = []
    for name, kind in KINDS.items():
        right = sums_of(kind(width, len(_NAMES), dtype=x.dtype).update(x, z))
        for way, counts in spreads(n).items():
            folder = place / f"{name} {way}"
            write(folder, x.numpy(), z.numpy(), counts, max(1, n // 40))
            found = [fit(folder, "x", "z", name, rows_per_task=n // 20, workers=count) for count in workers]
            digests = {each.eraser.digest for each in found}
            worst = max(error(sums_of(each), right) for each in found)
            parts = found[0].eraser.provenance["engine"]["parts"]
            lines.append((name, way, parts, f"{worst:.1e}", "yes" if len(digests) == 1 else "NO"))
    listed = ", ".join(map(str, workers))
    table(f"Ray against one process, {listed} tasks at a time", ("fit", "rows", "parts", "error", "same bits"), lines)


def tasks_here(name: str) -> Iterator[int]:
    """Processes of Ray below this one that are at a task."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _said(folder / "cmdline").startswith(f"ray::{name}") and _is_below(folder):
            yield int(folder.name)


def _said(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _is_below(folder: Path) -> bool:
    number = int(folder.name)
    while number > 1:
        if number == os.getpid():
            return True
        fields = _said(Path(f"/proc/{number}/stat")).rpartition(")")[2].split()
        if not fields:
            return False
        number = int(fields[1])
    return False


def faults(place: Path, rows: int, width: int) -> None:
    """A worker is killed in the middle of its task."""
    x, z = rows_of(rows, width)
    folder = write(place / "faults", x.numpy(), z.numpy(), [rows // 4] * 4, rows // 32)
    how: dict[str, Any] = {"rows_per_task": rows // 32, "chunk_rows": 16}
    lines = []
    right = fit(folder, "x", "z", **how)
    for after in (0.1, 0.5):
        killed: list[int] = []
        thread = threading.Thread(target=_kill_one, args=(after, killed))
        thread.start()
        found = fit(folder, "x", "z", **how)
        thread.join()
        lines.append((f"the worker {after} s after its first task began", *_compared(found, right, len(killed))))
    table("A worker is killed", ("when", "times", "rows of the fit", "lost", "same bits as unharmed"), lines)


def _compared(found: Any, right: Any, times: int) -> tuple[Any, ...]:
    lost = int(right.n) - int(found.n)
    same = found.eraser.digest == right.eraser.digest
    return times, int(found.n), lost, "yes" if same else "NO"


def _kill_one(after: float, killed: list[int]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if pids := [*tasks_here("_done")]:
            time.sleep(after)
            for pid in [*tasks_here("_done")] or pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.append(pid)
                return
        time.sleep(0.01)


def machine(place: Path, rows: int, width: int) -> None:
    """One machine of two is killed, with the sums on it."""
    from ray.cluster_utils import Cluster

    x, z = rows_of(rows, width)
    folder = write(place / "machine", x.numpy(), z.numpy(), [rows // 4] * 4, rows // 32)
    how: dict[str, Any] = {"rows_per_task": rows // 32, "chunk_rows": 16}
    with cluster._environment(**cluster._inherited()):
        machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        other = machines.add_node(num_cpus=1)
        ray.init(address=machines.address, log_to_driver=False, logging_level=logging.ERROR)
    right = fit(folder, "x", "z", **how)
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and len([*tasks_here("_done")]) < 2:
            time.sleep(0.01)
        time.sleep(0.5)
        machines.remove_node(other, allow_graceful=False)
        killed.append(1)

    thread = threading.Thread(target=kill)
    thread.start()
    found = fit(folder, "x", "z", **how)
    thread.join()
    ray.shutdown()
    machines.shutdown()
    header = ("machines killed", "rows of the fit", "lost", "same bits as unharmed")
    table("One machine of two is killed", header, [_compared(found, right, len(killed))])


def copies(width: int) -> None:
    """Where the numbers of a batch lie."""

    @ray.remote
    def same(rows: Any) -> bool:
        (chunk,) = Tables((rows,), "the block").chunks(rows.num_rows)
        values = rows.column("x").chunk(0).flatten()
        return chunk.numbers(["x"]).data_ptr() == values.buffers()[1].address

    lines = []
    for type_ in (np.float32, np.float64, np.float16, np.int64):
        flat = pa.array(np.ones(1000 * width, type_))
        lists = {
            "fixed_size_list": pa.FixedSizeListArray.from_arrays(flat, width),
            "list": pa.ListArray.from_arrays(np.arange(1001, dtype=np.int32) * width, flat),
        }
        for name, values in lists.items():
            found = ray.get(same.remote(pa.table({"x": values})))
            lines.append((f"{name}<{flat.type}>", "the block's own" if found else "a copy"))
    table("A task's batch in torch lies on", ("column", "memory"), lines)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["exact", "faults", "copies"])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2, 4])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if {*args.sections} & {"exact", "faults", "copies"}:
            cluster._start_here(ray, max(args.workers), object_store_memory=200 * 2**20)
        if "exact" in args.sections:
            exact(place, args.rows, args.width, args.workers)
        if "faults" in args.sections:
            faults(place, 8 * args.rows, 4 * args.width)
        if "copies" in args.sections:
            copies(args.width)
        ray.shutdown()
        if "machine" in args.sections:
            machine(place, 8 * args.rows, 4 * args.width)


if __name__ == "__main__":
    main()
