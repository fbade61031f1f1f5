"""What a fit at sizes that no machine here has would cost: a cost model, checked where it can be, and what it says.

python -m benchmarks.sizing [passes models rows tree processes] [--width 4096] [--tokens 1000000]
    [--gflops 0 --disk 1.0 --network 1.25] [--workers 1 10 100 1000]

"passes": multiplications of whole scrubs of a small Llama, counted by torch (FlopCounterMode), against the model's.
"models": the architectures of 7B and 70B models, built without memory, whose forward passes up to each site are
counted in the same way; what the statistics, the passes and the memory of each order of a fit come to. "rows": a fit of
1e9 rows of that width: this machine's rate of products, of reading them, of a merge and of the solve are measured, the
rest is arithmetic (--disk and --network in GB/s a worker, --gflops of a worker; 0 takes the rate that is measured
here). "tree": merges of so many workers' statistics as a simulation of events, with the measured time of a merge, a
link a worker and workers that are done at different times: along a binary tree, along one of eight children, and all
by one process. "processes": the same rows fitted by one process and by two, a thread each (torch.distributed, gloo).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._measure import interleaved, peak_memory, table
from benchmarks.scale import together

ORDERS: dict[str, dict[str, Any]] = {
    "recompute": {},
    "memory or disk": {"activations": "memory"},
    "parallel": {"order": "parallel"},
}
PASSES: dict[str, Callable[[int], float]] = {
    "recompute": lambda sites: sites / 2 + 1,
    "memory or disk": lambda _: 2.5,
    "parallel": lambda _: 2.0,
}
"""Forward passes of a fit with two norms a block, with the one that measures what is left (docs/scrubbing.md)."""

LLAMAS: dict[str, dict[str, Any]] = {
    "7B (Llama)": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    "70B (Llama 2)": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80},
}
_HEADS = {"7B (Llama)": (32, 32), "70B (Llama 2)": (64, 8)}
_GIB = 2**30


class _Stop(Exception):
    """The pass has come to its site."""


def hours(flops: float, rate: float = 1e14) -> float:
    """Of so many floating point operations, at so many a second."""
    return flops / rate / 3600


# --------------------------------------------------------------------------------------------------- models


def llama(sizes: dict[str, Any], heads: tuple[int, int], device: str = "cpu", vocabulary: int = 32000) -> nn.Module:
    """An untrained Llama of these sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    given: Any = sizes | {"num_attention_heads": heads[0], "num_key_value_heads": heads[1], "vocab_size": vocabulary}
    config = LlamaConfig(**given, attn_implementation="eager")  # pyright: ignore[reportCallIssue]
    with torch.device(device):
        return LlamaForCausalLM(config).eval()


def up_to(model: nn.Module, ids: Tensor, path: str) -> int:
    """Floating point operations of a forward pass that ends where a module has run."""

    def stop(*_: Any) -> None:
        raise _Stop

    mask = ids.new_zeros(
        len(ids), 1, ids.shape[1], ids.shape[1], dtype=torch.float32
    )  # made from ids, it would be read
    handle = model.get_submodule(path).register_forward_hook(stop)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        try:
            mask = torch.zeros(
                len(ids), 1, ids.shape[1], ids.shape[1], device=ids.device
            )  # one of no data is not looked at
            model(ids, attention_mask=mask, use_cache=False)
        except _Stop:
            pass
        finally:
            handle.remove()
    return counter.get_total_flops()


def norms(model: Any) -> list[str]:
    """The norms in the order in which a pass comes by them."""
    blocks = [
        f"model.layers.{i}.{name}"
        for i in range(len(model.model.layers))
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
    return [*blocks, "model.norm"]


def passes() -> None:
    """Whole scrubs of a small model, counted, against the formulas."""
    import efface

    sizes, length = {"hidden_size": 64, "intermediate_size": 1024, "num_hidden_layers": 6}, 32
    model: Any = llama(sizes, (4, 4), vocabulary=100)
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 100, (64, length), generator=source)
    labels = torch.randint(0, 2, (64, length), generator=source)
    sites = norms(model)
    whole = up_to(model, ids, "model.norm")
    exact = sum(up_to(model, ids, site) for site in sites) / whole + 1
    rows = []
    for name, options in ORDERS.items():
        with FlopCounterMode(display=False) as counter:
            efface.scrub(model, {"input_ids": ids}, labels, sites=sites, batch_size=2, **options)
        # What is of the width alone, statistics and erasers, counts, too, and each look at the first of 32 batches.
        counted = counter.get_total_flops() / whole
        said = PASSES[name](len(sites))
        more = f"{exact:.1f}" if name == "recompute" else ""
        rows.append((name, f"{counted:.1f}", f"{said:.1f}", more, f"{counted / said:.2f}"))
    header = ("order", "counted", "by the cost model", "site by site", "ratio")
    table(f"Forward passes of a scrub at {len(sites)} norms of a Llama of six blocks", header, rows)


def models(tokens: float, length: int = 2048) -> None:
    """Real architectures without memory."""
    lines = []
    for name, sizes in LLAMAS.items():
        model, ids = llama(sizes, _HEADS[name], "meta"), torch.zeros(1, length, dtype=torch.long, device="meta")
        sites, width = norms(model), sizes["hidden_size"]
        each = [up_to(model, ids, site) / length for site in sites]
        whole, matrix = each[-1], 8 * width**2
        parameters = sum(p.numel() for p in model.parameters())
        statistics = len(sites) * width**2 * tokens  # half of a symmetric product is formed
        total = {
            "recompute": sum(each) + whole,
            "memory or disk": 2.5 * whole,
            "parallel": 2 * whole,
        }
        memory = {
            "recompute": f"{3 * matrix / _GIB:.2f} GiB",
            "memory or disk": f"{3 * matrix / _GIB:.2f} + {2 * tokens * width / _GIB:.1f} GiB",
            "parallel": f"{(len(sites) + 2) * matrix / _GIB:.1f} GiB",
        }
        for order, flops in total.items():
            work = flops * tokens
            lines.append(
                (
                    f"{name}, {parameters / 1e9:.1f}e9, {len(sites)} norms",
                    order,
                    f"{flops / whole:.1f}",
                    f"{work:.1e}",
                    f"{statistics:.1e}",
                    memory[order],
                    f"{hours(work + statistics):.1f} h",
                )
            )
    header = (
        "model",
        "order",
        "passes",
        "flop of passes",
        "of statistics",
        "memory besides the model",
        "at 100 TFLOP/s",
    )
    table(f"A fit on {tokens:.0e} tokens, sequences of {length}, states of 2 bytes", header, lines)


# ----------------------------------------------------------------------------------------------------- rows


@cache
def measured(width: int) -> dict[str, float]:
    """Seconds of a row's product, of a merge and of a solve at this width, here, and operations a second."""
    from efface import LeaceFitter

    rows = max(4096, 2**24 // width)
    x, z = torch.randn(rows, width), torch.randint(0, 2, (rows,))
    fitter, other = LeaceFitter(width, 2).update(x, z), LeaceFitter(width, 2).update(x, z)
    best = interleaved(
        {"row": lambda: fitter.update(x, z), "merge": lambda: fitter.merge(other), "copy": lambda: other.copy()}, 3
    )
    start = time.perf_counter()
    _ = other.eraser
    solve = time.perf_counter() - start
    return {"row": best["row"] / rows, "merge": best["merge"], "solve": solve, "rate": width**2 * rows / best["row"]}


def peak(width: int) -> float:
    """How many matrices of the sums a fit and its eraser hold at most, in a process of their own."""
    setup = f"""
import torch
from efface import LeaceFitter
x, z = torch.randn(4096, {width}), torch.randint(0, 2, (4096,))
_ = LeaceFitter(64, 2).update(x[:, :64], z).eraser"""
    return peak_memory(setup, f"_ = LeaceFitter({width}, 2).update(x, z).eraser") * 2**20 / (8 * width**2)


def rows(count: float, width: int, workers: Sequence[int], gflops: float, disk: float, network: float) -> None:
    """A table of vectors too long for a machine."""
    here = measured(width)
    rate = gflops * 1e9 or here["rate"]
    matrix = 8 * width**2
    print(
        f"\nmeasured here ({torch.get_num_threads()} threads): {1e6 * here['row']:.1f} us a row of width {width} "
        f"({here['rate'] / 1e9:.0f} GFLOP/s of the half that is formed), {here['merge']:.2f} s a merge, "
        f"{here['solve']:.1f} s a solve; a state is {matrix / 2**20:.0f} MiB, a fit and its eraser hold "
        f"{peak(width):.1f} of these at most"
    )
    lines = []
    for kind, size in (("float32", 4), ("float16", 2)):
        for n in workers:
            mine = count / n
            reading, products = mine * width * size / (disk * 1e9), mine * width**2 / rate
            levels = int(np.ceil(np.log2(n)))
            merging = levels * (matrix / (network * 1e9) + here["merge"])
            whole = max(reading, products) + merging + here["solve"]
            lines.append(
                (
                    kind,
                    n,
                    f"{mine * width * size / 1e12:.3g} TB",
                    f"{reading / 3600:.2f}",
                    f"{products / 3600:.2f}",
                    f"{merging:.0f} s",
                    f"{matrix * (n - 1) / 1e9:.1f} GB",
                    f"{whole / 3600:.2f}",
                )
            )
    header = ("stored as", "workers", "each reads", "reading, h", "products, h", "merging", "all that travels", "hours")
    table(
        f"{count:.0e} rows of width {width}, {disk} GB/s of disk and {network} GB/s of network a worker", header, lines
    )


# ----------------------------------------------------------------------------------------------------- tree


def simulated(done: Sequence[float], children: int, merge: float, travel: float) -> float:
    """When the whole is there: a worker sends its part as soon as it has those below it, one after the other.

    Args:
        done: When each worker has its own part, in seconds.
        children: Whose parts a worker takes in at each level, itself among them.
        merge: Seconds of a merge.
        travel: Seconds of a part on a link; a worker receives one at a time.
    """
    ready = list(done)
    step = 1
    while step < len(ready):
        for place in range(0, len(ready), step * children):
            for other in range(place + step, min(place + step * children, len(ready)), step):
                ready[place] = max(ready[place], ready[other]) + travel + merge
        step *= children
    return ready[0]


def tree(width: int, workers: Sequence[int], network: float, seconds: float = 600.0, spread: float = 0.1) -> None:
    """Merging, when workers take so long, give or take."""
    merge, travel = measured(width)["merge"], 8 * width**2 / (network * 1e9)
    lines = []
    for n in workers:
        source = np.random.default_rng(0)
        found = []
        for _ in range(20):
            done = seconds * np.exp(spread * source.standard_normal(n))
            last = done.max()
            found.append([simulated(done.tolist(), c, merge, travel) - last for c in (2, 8, n)])
        lines.append((n, *(f"{each:.1f}" for each in np.median(found, axis=0))))
    header = ("workers", "binary tree, s", "eight children, s", "all by one, s")
    title = f"From the last worker's own part to the whole: width {width}, {merge:.2f} s a merge, {travel:.2f} s a link"
    table(title, header, lines)


# ------------------------------------------------------------------------------------------------ processes


def processes(width: int = 1024, batches: int = 32, repeats: int = 5) -> None:
    """One process against two, a thread each; the clock runs from when all are there to when all have the whole.

    Beside it two processes that merge nothing: what two cores of this machine give.
    """
    import torch.distributed as dist

    from efface import LeaceFitter

    def work(rank: int) -> list[list[float]]:
        size, times = dist.get_world_size(), [[], []]
        x = torch.randn(8192, width, generator=torch.Generator().manual_seed(rank))
        z = (x[:, 0] > 0).long()
        for turn in range(2 * repeats + 2):
            fitter = LeaceFitter(width, 2)
            dist.barrier()
            start = time.perf_counter()
            for _ in range(batches // size):
                fitter.update(x, z)
            if turn % 2:
                fitter.all_reduce()
            dist.barrier()
            times[turn % 2].append(time.perf_counter() - start)
        return [each[1:] for each in times]

    best = {size: [min(each) for each in together(size, work, 600)[0]] for size in (1, 2)}
    lines: list[tuple[object, ...]] = [(size, *(f"{each:.2f}" for each in both)) for size, both in best.items()]
    lines.append(("ratio", *(f"{one / two:.2f}" for one, two in zip(best[1], best[2], strict=True))))
    title = f"{8192 * batches} rows of width {width}, seconds, best of {repeats}"
    table(title, ("processes", "apart, nothing merged", "as one fit"), lines)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["passes", "models", "rows", "tree", "processes"])
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--tokens", type=float, default=1e6)
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--gflops", type=float, default=0.0)
    parser.add_argument("--disk", type=float, default=1.0)
    parser.add_argument("--network", type=float, default=1.25)
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 10, 100, 1000])
    args = parser.parse_args()
    if "passes" in args.sections:
        passes()
    if "models" in args.sections:
        models(args.tokens)
    if "rows" in args.sections:
        rows(args.rows, args.width, args.workers, args.gflops, args.disk, args.network)
    if "tree" in args.sections:
        tree(args.width, [n for n in args.workers if n > 1], args.network)
    if "processes" in args.sections:
        processes()


if __name__ == "__main__":
    main()
