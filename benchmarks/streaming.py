"""A fit from files against what limits it: reading the file, and one symmetric product of its rows.

    python -m benchmarks.streaming                 # ratios, and memory at one and four times the rows
    python -m benchmarks.streaming --only ratios --widths 256 --formats .parquet --repeats 9

In one run, one after the other and over again: `read` goes through the file alone (chunks as tensors, and labels),
`product` forms x.T @ x of as many rows in memory, in float32: dense, by the triangle, or by the triangle in blocks
that a cache holds, whichever is fastest. The share is
what `efface.engines.local.fit` reaches of the lower of both rates, without and with reading ahead, the median over
repeats; `in turn` is what reading and product one after the other would reach. `kernel` is a fit of the same rows from
memory against the product. Files lie in the system's cache: what is read is decoded, and no disk is waited for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from efface import LeaceFitter
from efface.engines.finding import find_inputs
from efface.engines.local import fit
from efface.moments.gram import UpperGram, rows_per_block, rows_per_chunk

FORMATS = (".npy", ".safetensors", ".parquet")
CHUNK = 4096
SUMMED = 8
PRODUCTS = ("dense", "triangle", "blocks")
"""Chunks of what is measured in memory; its time is that of as many as the file has."""


def write(path: Path, rows: int, width: int) -> None:
    """A file of random float32 rows, with labels beside it or in it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, width), dtype=np.float32)
    z = rng.integers(0, 2, rows)
    np.save(path.with_suffix(".labels.npy"), z)
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".safetensors":
        save_file({"X": x}, path)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), width)
        pq.write_table(pa.table({"x": vectors, "z": z}), path, row_group_size=32768, use_dictionary=False)


def named(path: Path) -> dict[str, Any]:
    """Where features and labels lie, as `fit` wants it."""
    if path.suffix == ".parquet":
        return {"x_columns": "x", "z_columns": "z"}
    return {"labels": path.with_suffix(".labels.npy")}


def reading(path: Path) -> None:
    """The file alone, once."""
    how = named(path)
    inputs = find_inputs(path, how.get("x_columns"), how.get("z_columns"), how.get("labels"))
    for _ in inputs.with_numbers(CHUNK):
        pass


def products(x: torch.Tensor) -> dict[str, Callable[[], None]]:
    """Ways to form the products of some rows."""
    width = x.shape[1]
    dense, upper = torch.empty(width, width), UpperGram(width, torch.float32, torch.device("cpu"))

    def full() -> None:
        for _ in range(SUMMED):
            torch.mm(x.mT, x, out=dense)

    def triangle() -> None:
        for _ in range(SUMMED):
            upper.compute(x)

    def blocks() -> None:
        rows = rows_per_block(width, x.dtype)
        for _ in range(SUMMED):
            for start in range(0, len(x), rows):
                upper.compute(x[start : start + rows], more=start > 0)

    return {"dense": full, "triangle": triangle, "blocks": blocks}


def from_memory(x: torch.Tensor, z: torch.Tensor) -> None:
    """A fit of some rows, over and over."""
    fitter = LeaceFitter(x.shape[1], 2)
    for _ in range(SUMMED):
        fitter.update(x, z)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measured(path: Path, rows: int, width: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each thing, a list over repeats, one after the other and over again."""
    x = torch.randn(CHUNK, width)
    chunk = max(CHUNK, rows_per_chunk(width))
    more, z = x.repeat(chunk // CHUNK, 1), torch.arange(chunk) % 2
    work: dict[str, Callable[[], Any]] = {
        "read": lambda: reading(path),
        **products(x),
        "memory": lambda: from_memory(more, z),
        "fit, plain": lambda: fit(path, **named(path), prefetch=False),
        "fit, ahead": lambda: fit(path, **named(path)),
    }
    for each in work.values():
        each()
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, each in work.items():
            times = rows / (SUMMED * CHUNK) if name in PRODUCTS else rows / (SUMMED * chunk) if name == "memory" else 1
            found[name].append(seconds(each) * times)
    return found


def line(found: dict[str, list[float]], rows: int, width: int) -> str:
    """Rates and shares of a file as a row of a table."""
    product = [min(ways) for ways in zip(*(found[name] for name in PRODUCTS), strict=True)]
    limit = [max(pair) for pair in zip(found["read"], product, strict=True)]
    both = [read + each for read, each in zip(found["read"], product, strict=True)]

    def share(top: list[float], bottom: list[float]) -> float:
        return median(t / b for t, b in zip(top, bottom, strict=True))

    size = rows * width * 4 / 2**30
    return (
        f"{size / median(found['read']):.2f} GiB/s | {size / median(product):.2f} GiB/s | "
        f"{share(limit, both):.0%} | {share(limit, found['fit, plain']):.0%} | "
        f"{share(limit, found['fit, ahead']):.0%} | {share(product, found['memory']):.0%}"
    )


def ratios(folder: Path, args: argparse.Namespace) -> None:
    print("| format | width | threads | read | product | in turn | fit | fit, ahead | kernel |\n|" + "---|" * 9)
    for width in args.widths:
        rows = args.mebibytes * 2**20 // (4 * width) // CHUNK * CHUNK
        for suffix in args.formats:
            path = folder / f"X{suffix}"
            write(path, rows, width)
            for threads in args.threads:
                torch.set_num_threads(threads)
                found = measured(path, rows, width, args.repeats)
                print(f"| `{suffix}` | {width} | {threads} | {line(found, rows, width)} |", flush=True)
            path.unlink()


def peak(path: Path) -> None:
    """Memory of the process before a fit, and at its peak, in KiB."""
    find_inputs(path, *(named(path).get(name) for name in ("x_columns", "z_columns", "labels")))
    before = status("VmRSS")
    fit(path, **named(path))
    print(before, status("VmHWM"))


def status(key: str) -> int:
    """KiB of this process, as the system says."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def memory(folder: Path, args: argparse.Namespace) -> None:
    print("\n| format | width | rows | size | more than before, at the peak |\n|---|---|---|---|---|")
    width = 512
    for suffix in args.formats:
        for times in (0.25, 1, 4):
            rows = int(times * args.mebibytes * 2**20 / (4 * width))
            path = folder / f"X{suffix}"
            write(path, rows, width)
            call = [sys.executable, "-m", "benchmarks.streaming", "--peak", str(path)]
            said = subprocess.run(call, check=True, capture_output=True, text=True).stdout
            before, most = map(int, said.split())
            size, more = path.stat().st_size / 2**20, (most - before) / 2**10
            print(f"| `{suffix}` | {width} | {rows:,} | {size:,.0f} MiB | {more:,.0f} MiB |", flush=True)
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="A fit from files against what limits it.")
    parser.add_argument("--only", choices=["ratios", "memory"])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--widths", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        peak(args.peak)
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "memory":
            ratios(Path(folder), args)
        if args.only != "ratios":
            memory(Path(folder), args)


if __name__ == "__main__":
    main()
