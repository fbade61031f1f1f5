"""Many concepts and many sites: what a fit of K concepts on the same rows costs, and a whole model within a budget.

python -m benchmarks.scale_concepts [concepts sites plans] [--width 1024] [--rows 16384] [--concepts 1 8 64]
    [--repeats 3] [--sequences 64] [--budgets "8 GiB" "16 GiB"]

"concepts": `ConceptsFitter` of K concepts of two classes (a column each) against K `LeaceFitter`s one after the other,
and against one symmetric product of these rows at this machine's rate: seconds of gathering, of solving all erasers,
the memory of the sums, and the largest difference of an eraser from that of its own fit. Float32 rows.
"sites": a parallel scrub of all norms of a llama of that width (random weights, 6 blocks), without a budget and within
some, each in a process of its own: what is planned, by how much the resident set peaks above what it was before the
fit, processor seconds against those without a budget, and whether the erasers are the same bits.
"plans": what would be planned for the 161 norms of a Llama of 70B, by budget; arithmetic, nothing is run.
"""

from __future__ import annotations

import argparse
import gc
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks._measure import table
from efface import ConceptsFitter, LeaceFitter, Site
from efface._memory import bytes_of, size_in_words
from efface.scrubbing.forward import Passed
from efface.scrubbing.planning import need, planned


def rows_of(n: int, width: int, concepts: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Float32 rows, and labels of two classes that they give away."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=source)
    noise = torch.randn(n, concepts, generator=source)
    return x, {f"concept {i}": (x[:, i % width] + noise[:, i] > 0).long() for i in range(concepts)}


def seconds(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The least processor time of some runs on one thread, and what the last gave."""
    best, found = float("inf"), run()
    for _ in range(repeats):
        found = None
        gc.collect()
        start = time.process_time()
        found = run()
        best = min(best, time.process_time() - start)
    return best, found


def one_product(x: Tensor, repeats: int) -> float:
    """Seconds of X^T X by its upper triangle at the machine's rate: half a dense product, which nothing here beats."""
    return seconds(lambda: x.mT @ x, repeats)[0] / 2


def concepts(n: int, width: int, counts: Sequence[int], repeats: int) -> None:
    """One fitter of K concepts against K fitters; of more than eight of these, eight are run and the rest reckoned."""
    lines = []
    for count in counts:
        x, z = rows_of(n, width, count)
        shared, many = partial(_shared, x, z), partial(_apart, x, dict([*z.items()][:8]))
        gathered, fitter = seconds(shared, repeats)
        solved, _ = seconds(lambda fitter=fitter: [*fitter.copy().erasers.values()], repeats)
        of_each, fitters = seconds(many, repeats)
        of_each_solved, _ = seconds(lambda fitters=fitters: [f.copy().eraser for f in fitters.values()], repeats)
        share = count / len(fitters)
        far = max(float((fitter.erasers[name].P - f.eraser.P).abs().max()) for name, f in fitters.items())
        sums, of_many = sum_bytes(fitter) / 2**20, count * sum_bytes(next(iter(fitters.values()))) / 2**20
        both = ((gathered, share * of_each), (solved, share * of_each_solved))
        lines.append(
            (
                *(count, f"{gathered / one_product(x, repeats):.2f}"),
                *(f"{a:.2f} s, {b:.2f} s, {b / a:.1f}x" for a, b in both),
                *(f"{sums:.1f} MiB, {of_many:.0f} MiB", f"{far:.1e}"),
            )
        )
    header = ("concepts", "gathering / one product", "gathering: shared, apart", "solving: shared, apart", "sums")
    table(f"{n} float32 rows of width {width}", (*header, "largest difference of P"), lines)


def _shared(x: Tensor, z: dict[str, Tensor]) -> ConceptsFitter:
    return ConceptsFitter(x.shape[1], dict.fromkeys(z, 1)).update(x, z)


def _apart(x: Tensor, z: dict[str, Tensor]) -> dict[str, LeaceFitter]:
    return {name: LeaceFitter(x.shape[1], 1).update(x, labels) for name, labels in z.items()}


def sum_bytes(fitter: Any) -> int:
    """Bytes of the sums."""
    return sum(t.numel() * t.itemsize for t in fitter.moments.state_dict().values())


_SITES = """
import gc, time, torch, efface, transformers as tf
from pathlib import Path
torch.set_num_threads(1)
torch.manual_seed(0)
small = dict(intermediate_size=64, num_attention_heads=8, vocab_size=64)
model = tf.LlamaForCausalLM(tf.LlamaConfig(hidden_size={width}, num_hidden_layers=6, **small)).eval()
ids = torch.randint(3, 64, ({sequences}, 64))
given = dict(sites="norms", order="parallel", batch_size=4)
few = tf.LlamaForCausalLM(tf.LlamaConfig(hidden_size=64, num_hidden_layers=2, **small)).eval()
efface.scrub(few, ids[:8], ids[:8] % 3, **given, beyond="disk", memory="100 MiB")  # what is imported is not counted
with torch.no_grad():
    model(ids[:4])
budget = dict({budget})
print(efface.scrubbing.plan(model, ids, ids % 3, **given, **budget))
gc.collect()

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
start = time.process_time()
scrubber = efface.scrub(model, ids, ids % 3, **given, **budget)
print(time.process_time() - start, status("VmHWM") - before, scrubber.digest)
"""
_BUDGETS = ("", "memory='128 MiB'", "memory='80 MiB'", "memory='80 MiB', beyond='disk'")


def sites(width: int, sequences: int) -> None:
    """A whole model within budgets; in MiB for width 1024, and as many squares of other widths."""
    lines, free = [], None
    for budget in _BUDGETS:
        given = re.sub(r"\d+", lambda number: str(int(number[0]) * width**2 // 2**20), budget)
        code = _SITES.format(width=width, sequences=sequences, budget=given)
        out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
        planned, found = out.stdout.splitlines()[-2:]
        spent, peak, digest = found.split()
        free = free or (float(spent), digest)
        same = "yes" if digest == free[1] else "NO"
        lines.append((given or "no budget", planned, f"{float(peak):.0f} MiB", f"{float(spent) / free[0]:.2f}x", same))
    header = ("budget", "plan", "peak above the model", "time", "same bits")
    table(f"13 norms of width {width}, {sequences * 64} tokens, one thread", header, lines)


def plans(budgets: Sequence[str]) -> None:
    """Plans for 161 sites of width 8192 in bfloat16, a concept of 10 classes, batches of 4,096 tokens."""
    seen = Passed(1, 4096, 8192, torch.bfloat16, torch.device("cpu"))
    one = need(LeaceFitter(1, 1), seen, 10, 4096, merging=False)
    needs = {Site(str(i)): one for i in range(161)}
    lines = []
    for budget in budgets:
        for beyond in ("passes", "disk"):
            found = planned(needs, memory=bytes_of(budget), beyond=beyond)
            each = max(map(len, found.passes))
            sizes = (size_in_words(found.peak), size_in_words(found.disk) if found.on_disk else "none")
            lines.append((budget, beyond, len(found.passes), each, f"{found.forward:.1f}", *sizes))
    header = ("budget", "beyond", "passes", "sites in one", "forward passes", "at most", "in files")
    table("161 sites of width 8192", header, lines)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["concepts", "sites", "plans"])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--concepts", nargs="*", type=int, default=[1, 8, 64])
    parser.add_argument("--budgets", nargs="*", default=["8 GiB", "16 GiB", "32 GiB", "64 GiB", "96 GiB"])
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if "concepts" in args.sections:
        concepts(args.rows, args.width, args.concepts, args.repeats)
    if "sites" in args.sections:
        sites(args.width, args.sequences)
    if "plans" in args.sections:
        plans(args.budgets)


if __name__ == "__main__":
    main()
