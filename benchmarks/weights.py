"""Edits of weights in closed form at the size of Stable Diffusion 1.5: time, memory, against an inverse a matrix.

python -m benchmarks.weights [time memory methods] [--concepts 100] [--threads 1] [--repeats 3]

Only the 32 key and value matrices exist (320, 640 and 1280 by 768, random), and rows of text are random, 75 a concept
(its last token, the end of text and padding), as long as CLIP's. "time": what `uce` does with rows, from the sums to
the change of every matrix, next to what the released UCE does with the same rows: for each matrix its own sums over
all concepts, `torch.inverse`, and a product, in float32 (here of one matrix of each size, times how many there are).
Nothing is encoded in either. Seconds are of the processor, so that a machine with other work says the same; with more
than one thread they are of all threads together. "memory": how far the resident set of a fresh process peaks above the
matrices and imports, for 100 and 1,000 concepts that come 32 at a time. "methods": time with one row a
concept; of `speed` and `oce`, whose matrices have no sums in common, of one of each size, times how many are values.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._measure import peak_memory, table
from efface.core.weights import Change
from efface.diffusion.weights.closed_form import InputMap, NormalEquations
from efface.diffusion.weights.oce import OceConfig, rotation
from efface.diffusion.weights.projections import Stream
from efface.diffusion.weights.rece import bringing_back, gram_of
from efface.diffusion.weights.speed import WAYS, Edits, SpeedConfig

WIDTH, ROWS, LENGTH, AT_ONCE = 768, 75, 27.7, 32
SIZES = {320: 10, 640: 10, 1280: 12}
"""Rows of a matrix -> how many there are, keys and values together."""


def stream_of(sizes: dict[int, int] = SIZES) -> Stream:
    """The matrices, random."""
    torch.manual_seed(0)
    outs = [out for out, n in sizes.items() for _ in range(n)]
    matrices = {f"layer{i}": nn.Linear(WIDTH, out, bias=False).requires_grad_(False) for i, out in enumerate(outs)}
    return Stream("unet", matrices, WIDTH, "sequence")


def rows(n: int, generator: torch.Generator, each: int = ROWS) -> Tensor:
    """Rows of n prompts, `(n, each, WIDTH)` float32: what all share, what a prompt has, and what a row has."""
    shared = torch.randn(1, each, WIDTH, generator=torch.Generator().manual_seed(1))
    own, single = torch.randn(n, 1, WIDTH, generator=generator), torch.randn(n, each, WIDTH, generator=generator)
    return (shared + own + 0.3 * single) * LENGTH / (2.09 * WIDTH) ** 0.5


def in_parts(concepts: int, each: int = ROWS) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and targets of concepts, `(n, WIDTH)`, some at a time; all have one anchor."""
    generator = torch.Generator().manual_seed(2)
    anchor = rows(1, torch.Generator().manual_seed(3), each)[0]
    for start in range(0, concepts, AT_ONCE):
        keys = rows(min(AT_ONCE, concepts - start), generator, each)
        yield keys.flatten(0, 1), anchor.repeat(len(keys), 1)


def sums_of(parts: Any) -> NormalEquations:
    """The sums over all parts."""
    total = NormalEquations(WIDTH)
    for keys, targets in parts:
        total.add(keys, targets)
    return total


def uce(stream: Stream, parts: Any) -> dict[str, Change]:
    """The change of every matrix."""
    return stream.changes(sums_of(parts).solve(0.5).of)


def released(weight: Tensor, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The edit of one matrix with its own sums and inverse, concept by concept."""
    left, right = 0.5 * weight, 0.5 * torch.eye(WIDTH)
    for some_keys, some_targets in parts:
        for keys, targets in zip(some_keys.split(ROWS), some_targets.split(ROWS), strict=True):
            left = left + (weight @ targets.mT) @ keys
            right = right + keys.mT @ keys
    return left @ torch.inverse(right)


def seconds(run: Any) -> float:
    """Of the processor, in all threads."""
    start = time.process_time()
    run()
    return time.process_time() - start


def timed(concepts: int, repeats: int) -> None:
    """The table of times."""
    stream, parts = stream_of(), list(in_parts(concepts))
    firsts = {out: next(w for w in stream.weights.values() if len(w) == out) for out in SIZES}
    contestants: dict[str, Any] = {"efface": lambda: uce(stream, parts)}
    contestants |= {f"released {out}": partial(released, w, parts) for out, w in firsts.items()}
    best = {name: min(seconds(run) for _ in range(repeats)) for name, run in contestants.items()}
    naive = sum(n * best[f"released {out}"] for out, n in SIZES.items())
    lines = [
        ("one factorisation, float64", f"{best['efface']:.2f}", "1"),
        ("an inverse a matrix, float32", f"{naive:.2f}", f"{naive / best['efface']:.1f}"),
    ]
    keys = f"{concepts} concepts, {ROWS * concepts} keys, 32 matrices, {torch.get_num_threads()} thread(s)"
    table(f"Closed form of {keys}; best of {repeats}", ("how", "CPU-s", "ratio"), lines)


def memory() -> None:
    """The table of memory."""
    setup = (
        f"import torch; torch.set_num_threads({torch.get_num_threads()}); from benchmarks import weights as b; "
        "s = b.stream_of(); b.uce(b.stream_of({320: 1}), b.in_parts(1))"
    )
    lines = []
    for concepts in (100, 1000):
        lines.append((concepts, f"{peak_memory(setup, f'c = b.uce(s, b.in_parts({concepts}))'):.0f}"))
    table("Peak above matrices and imports; concepts come 32 at a time", ("concepts", "MiB"), lines)


def methods(concepts: int) -> None:
    """Times of each method with one row a concept, and 100 rows to retain."""
    both, parts = stream_of(), list(in_parts(concepts, 1))
    kept = rows(100, torch.Generator().manual_seed(4), 1).flatten(0, 1)
    empty = rows(1, torch.Generator().manual_seed(5), 77)[0]
    keys, targets = (torch.cat(each).double() for each in zip(*parts, strict=True))
    mean = kept.double().mT @ kept.double() / len(kept)

    def rece() -> dict[str, Change]:
        gram, maps = gram_of(both, torch.zeros(WIDTH, WIDTH, dtype=torch.float64)), sums_of(parts).solve(0.1)
        for _ in range(3):
            back = bringing_back(gram, maps, 0.1)
            more: InputMap = sums_of((k.double() @ back.mT, t) for k, t in parts).solve(0.1)
            maps = maps.then(more)
        return both.changes(maps.of)

    def speed(one: Stream) -> Any:
        return Edits(one, sums_of(parts).scaled(1 / concepts), kept, empty, SpeedConfig()).changes(WAYS[0])

    def oce(one: Stream) -> Any:
        return [rotation(w.double(), keys, targets, kept.double(), mean, OceConfig()) for w in one.weights.values()]

    def of_values(run: Any) -> float:
        """One matrix of each size, times how many are values."""
        return sum(n // 2 * seconds(partial(run, stream_of({out: 1}))) for out, n in SIZES.items())

    times = {"uce": seconds(lambda: uce(both, parts)), "rece": seconds(rece)}
    times |= {"speed": of_values(speed), "oce": of_values(oce)}
    lines = [(name, f"{time:.1f}") for name, time in times.items()]
    table(f"{concepts} concepts, one row each, 100 to retain; one run", ("method", "CPU-s"), lines)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["time", "memory"])
    parser.add_argument("--concepts", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if "time" in args.sections:
        timed(args.concepts, args.repeats)
    if "memory" in args.sections:
        memory()
    if "methods" in args.sections:
        methods(args.concepts)


if __name__ == "__main__":
    main()
