"""Fits over many processes: exactness, what dies, and the tree of merges at sizes that no machine here has.

python -m benchmarks.scale [exact faults tree] [--width 32] [--rows 4000] [--ranks 2 3 4 8] [--workers 10 100 1000]

"exact": each eraser's fitter over real processes of torch.distributed (gloo), rows spread evenly, very unevenly, and
over one process alone; the largest relative error of means and scatters against one process, in float64, with means
1e4 of their spread from zero. "faults": a process is killed before it answers; what the others have afterwards. "tree":
the merges of so many workers' statistics, one after the other here: error of the whole, and the time of a path from a
leaf to the root, which is what a cluster waits for beside the network.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks._measure import table
from efface import GroupError, LeaceFitter, OracleFitter, QuadraticFitter
from efface.moments.streaming import Moments

KINDS = {"leace": LeaceFitter, "oracle": OracleFitter, "quadratic": QuadraticFitter}
_CLASSES, _FAR = 3, 1e4


def rows_of(n: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows far from zero, with classes in their first column."""
    source = torch.Generator().manual_seed(0)
    z = torch.randint(0, _CLASSES, (n,), generator=source)
    x = torch.randn(n, width, generator=source, dtype=torch.float64) + _FAR
    x[:, 0] += z
    return x, z


def spread_over(n: int, ranks: int) -> dict[str, list[int]]:
    """Ways to spread n rows over ranks."""
    even = [n // ranks + (rank < n % ranks) for rank in range(ranks)]
    return {
        "even": even,
        "all but one row in the last": [*(1 for _ in range(ranks - 1)), n - ranks + 1],
        "all in the first": [n, *(0 for _ in range(ranks - 1))],
    }


def parted(counts: Sequence[int], rank: int) -> slice:
    """The rows of a rank."""
    start = sum(counts[:rank])
    return slice(start, start + counts[rank])


def _child(rank: int, size: int, place: str, seconds: float, work: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=size, timeout=limit)
    torch.save(work(rank), f"{place}/{rank}.pt")
    os._exit(0)


def together(size: int, work: Callable[[int], Any], seconds: float = 120) -> list[Any]:
    """What each process of a group gives; None of one that died."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as place:
        many = [fork.Process(target=_child, args=(rank, size, place, seconds, work)) for rank in range(size)]
        for process in many:
            process.start()
        for process in many:
            process.join()
        files = [Path(place) / f"{rank}.pt" for rank in range(size)]
        return [torch.load(file, weights_only=True) if file.exists() else None for file in files]


def sums_of(fitter: Any) -> list[Tensor]:
    """Means and scatters, of each class where it keeps them so."""
    every = getattr(fitter.moments, "classes", [fitter.moments])
    return [each for m in every for each in (m.mean_x, m.scatter_xx, m.scatter_xz, m.scatter_zz)]


def error(found: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The largest relative error."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, right, strict=True) if float(b.norm()) > 0)


def exact(n: int, width: int, ranks: Sequence[int]) -> None:
    """Each fitter, over each number of processes."""
    x, z = rows_of(n, width)
    lines = []
    for name, kind in KINDS.items():
        make = partial(kind, width, _CLASSES, dtype=torch.float64)
        one = sums_of(make().update(x, z))
        for size in ranks:
            for way, counts in spread_over(n, size).items():

                def work(rank: int, counts: list[int] = counts, make: Any = make) -> Any:
                    mine = parted(counts, rank)
                    fitter = make().update(x[mine], z[mine]) if counts[rank] else make()
                    found = sums_of(fitter.all_reduce())
                    dist.barrier()
                    return found

                every = together(size, work)
                alike = all(torch.equal(a, b) for found in every for a, b in zip(found, every[0], strict=True))
                lines.append((name, size, way, f"{error(every[0], one):.1e}", "yes" if alike else "NO"))
    table("Against one process", ("fitter", "processes", "rows", "largest relative error", "same bits in all"), lines)


def faults(n: int, width: int, size: int = 3) -> None:
    """One process is killed before it answers."""
    x, z = rows_of(n, width)

    def work(rank: int) -> Any:
        fitter = LeaceFitter(width, _CLASSES, dtype=torch.float64).update(x, z)
        before, start = [each.clone() for each in sums_of(fitter)], time.monotonic()
        if rank == 1:
            os.kill(os.getpid(), 9)
        try:
            fitter.all_reduce()
        except GroupError as wrong:
            same = all(torch.equal(a, b) for a, b in zip(sums_of(fitter), before, strict=True))
            return {"error": str(wrong)[:60], "seconds": time.monotonic() - start, "same": same}
        return {"error": "none", "seconds": time.monotonic() - start, "same": False}

    every = together(size, work, seconds=10)
    lines = [
        (rank, *("killed", "", "")) if each is None else (rank, each["error"], f"{each['seconds']:.1f}", each["same"])
        for rank, each in enumerate(every)
    ]
    table("One is killed", ("rank", "what it says", "after seconds", "its statistics as before"), lines)


def tree(workers: Sequence[int], width: int, each: int = 50) -> None:
    """Merges along a binary tree, and one after the other, against one fit on all rows."""
    lines = []
    for count in workers:
        x, z = rows_of(count * each, width)
        columns = torch.nn.functional.one_hot(z, _CLASSES).double()
        one = Moments(width, _CLASSES, least=torch.float64).update(x, columns)
        parts = [
            Moments(width, _CLASSES, least=torch.float64).update(a, b)
            for a, b in zip(x.split(each), columns.split(each), strict=True)
        ]
        chain = parts[0].copy()
        for part in parts[1:]:
            chain.merge(part)
        start, levels = time.process_time(), 0
        path = parts[0].copy()
        while 2**levels < count:
            path.merge(parts[min(2**levels, count - 1)])
            levels += 1
        seconds = time.process_time() - start
        while len(parts) > 1:
            merged = [a.merge(b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
            parts = merged + parts[len(parts) - len(parts) % 2 :]
        right = [one.mean_x, one.scatter_xx, one.scatter_xz, one.scatter_zz]
        by = [[m.mean_x, m.scatter_xx, m.scatter_xz, m.scatter_zz] for m in (parts[0], chain)]
        lines.append((count, levels, *(f"{error(found, right):.1e}" for found in by), f"{1e3 * seconds:.2f}"))
    header = ("workers", "levels", "error by the tree", "one after the other", "ms of merges on a path")
    table(f"Merging statistics of width {width}", header, lines)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["exact", "faults", "tree"])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--ranks", nargs="*", type=int, default=[2, 3, 4, 8])
    parser.add_argument("--workers", nargs="*", type=int, default=[10, 100, 1000])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if "exact" in args.sections:
        exact(args.rows, args.width, args.ranks)
    if "faults" in args.sections:
        faults(args.rows, args.width)
    if "tree" in args.sections:
        tree(args.workers, args.width)


if __name__ == "__main__":
    main()
