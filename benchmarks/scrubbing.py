"""Scrubbing measured: what it costs a language model, what is left in MiniLM, and what it costs the user.

    python -m benchmarks.scrubbing tokens              # table 1 of the LEACE paper, and amnesic probing by layer
    python -m benchmarks.scrubbing tokens --arch gpt_neox
    python -m benchmarks.scrubbing layers              # MiniLM: gender at each of its sites, similarities
    python -m benchmarks.scrubbing overhead            # of statistics, of erasers applied, of folded ones
    python -m benchmarks.scrubbing memory              # peak against the number of tokens
    python -m benchmarks.scrubbing tokens --quick --out FOLDER

`--out` also writes report.html and report.json with the figures. `overhead` needs an idle machine: its figures are
ratios of medians of interleaved runs, but of two threads that others use they are still noise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._measure import once, peak_memory, table
from efface.audit import Audit, Figure, Series
from efface.scrubbing import Scrubber, scrub
from efface_worlds.demo.minilm_layers import layers
from efface_worlds.demo.token_world import FULL, TokenSizes, tokens

WAYS = ("parallel", "recompute", "disk", "memory")
"""How `scrub` gets from site to site; only the last is meant to keep all activations in memory."""


def show(audit: Audit, out: Path | None) -> None:
    print(audit)
    if out is not None:
        print(*audit.save(out), sep="\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------- overhead


def gpt2_sized(width: int) -> Any:
    """Twelve blocks of GPT-2's shape without a head, random weights: the head would only make ratios smaller."""
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": width, "n_layer": 12, "n_head": width // 64, "n_positions": 128}
    sizes |= {"vocab_size": 1000, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2Model(transformers.GPT2Config(**sizes)).eval()


def overhead(widths: list[int], repeats: int) -> None:
    rows = [overhead_row(width, repeats) for width in widths]
    header = [
        "d",
        "statistics: forward passes per fitted site",
        "applied at all 25 norms: share of a forward pass",
        "the same per site",
        "folded",
    ]
    title = f"Overhead, 12 blocks, 8 x 128 tokens, float32, {torch.get_num_threads()} threads"
    table(title, header, rows)


def overhead_row(width: int, repeats: int) -> list[object]:
    model = gpt2_sized(width)
    ids = torch.randint(1000, (8, 128), generator=torch.Generator().manual_seed(0))
    labels = ids % 2
    scrubber = scrub(model, {"input_ids": ids}, labels, sites="norms", order="parallel")
    with torch.inference_mode():
        fitting = statistics_overhead(model, ids, labels, scrubber, repeats)
        plain, applied = paired_medians(
            lambda: model(ids), lambda: model(ids), repeats, partial(scrubber.on, model, check=False)
        )
    plain_model, part = gpt2_sized(width), scrubber.only(*foldable_sites(scrubber))
    with torch.inference_mode(), part.folded(model).on(model):
        reference, folded = paired_medians(lambda: plain_model(ids), lambda: model(ids), repeats)
    total = applied / plain - 1
    return [width, *map(percent, (fitting, total, total / len(scrubber.sites), folded / reference - 1))]


def foldable_sites(scrubber: Scrubber) -> list[Any]:
    """Norms of GPT-2's blocks are read by linear layers alone; the last has no reader without a head."""
    return [site for site in scrubber.sites if not site.path.startswith("ln_f")]


def statistics_overhead(model: Any, ids: Tensor, labels: Tensor, scrubber: Scrubber, repeats: int) -> float:
    """Time that updating the statistics of all sites adds to a forward pass, per site."""
    from efface.erasers.leace import LeaceFitter
    from efface.scrubbing.batches import Batches
    from efface.scrubbing.forward import run_to, taking

    batch = next(iter(Batches({"input_ids": ids}, labels, batch_size=len(ids))))
    fitters = {site: LeaceFitter(model.config.n_embd, 1) for site in scrubber.sites}

    def take(site: Any) -> Any:
        def update(x: Tensor, z: Tensor, counted: Tensor) -> None:
            fitters[site].update(x, z)

        return taking(batch, site, update, -100)

    edits = {site: take(site) for site in scrubber.sites}
    plain, fitted = paired_medians(lambda: model(ids), lambda: run_to(model, batch, edits), repeats)
    return (fitted / plain - 1) / len(fitters)


def paired_medians(first: Any, second: Any, repeats: int, put_on: Any = nullcontext) -> tuple[float, float]:
    """Medians of interleaved times; what is put on is on in the second."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 2):
        a = once(first)
        with put_on():
            b = once(second)
        if turn >= 2:
            times[0].append(a)
            times[1].append(b)
    return statistics.median(times[0]), statistics.median(times[1])


def percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


# ------------------------------------------------------------------------------------------------------ memory

_SETUP = """
import sys, torch, transformers
sys.path.insert(0, "")
from efface.scrubbing import scrub
torch.set_num_threads(1)
torch.manual_seed(0)
config = transformers.LlamaConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
                                  vocab_size=512)
model = transformers.LlamaForCausalLM(config).eval()

class Texts(torch.utils.data.Dataset):
    # made when asked for, so that the data themselves take no memory
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i):
        return {{"input_ids": torch.randint(512, (128,), generator=torch.Generator().manual_seed(i))}}

def run(n):
    data = torch.utils.data.DataLoader(Texts(n), batch_size=16)
    scrub(model, data, lambda batch: batch["input_ids"] % 4, sites="norms", {options})
run(32)
"""
_OPTIONS = {"parallel": 'order="parallel"'} | {way: f'activations="{way}"' for way in WAYS[1:]}


def memory(sequences: list[int], out: Path | None) -> None:
    peaks = {way: [peak_memory(_SETUP.format(options=_OPTIONS[way]), f"run({n})") for n in sequences] for way in WAYS}
    thousands = [n * 128 / 1000 for n in sequences]
    header = ["way", *(f"{k:.0f}k tokens" for k in thousands)]
    rows = [[way, *(f"{peak:.0f}" for peak in found)] for way, found in peaks.items()]
    table("Peak memory of scrub() above the model (MiB), Llama with d = 256, 9 norms", header, rows)
    if out is not None:
        series = tuple(Series(way, tuple(thousands), tuple(found)) for way, found in peaks.items())
        figure = Figure(
            "Peak memory of scrub() against the number of tokens",
            series,
            kind="lines",
            x_label="tokens (thousands)",
            y_label="MiB above the model",
            caption="A process for each point. Only activations='memory' is meant to grow.",
            from_zero=True,
        )
        print(*Audit("Memory of scrubbing", figures=(figure,)).save(out), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokens", "layers", "overhead", "memory"))
    parser.add_argument("--arch", choices=("llama", "gpt_neox"), default="llama")
    parser.add_argument("--quick", action="store_true", help="small sizes, as in the demo")
    parser.add_argument("--out", type=Path, help="folder for report.html and report.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="+", default=[768, 1024])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="transformers")
    torch.set_num_threads(args.threads)
    if args.what == "tokens":
        show(tokens(0, say, arch=args.arch, sizes=TokenSizes() if args.quick else FULL), args.out)
    elif args.what == "layers":
        show(layers(0, say, **({} if args.quick else {"jobs": 24, "rows": 6000})), args.out)
    elif args.what == "overhead":
        overhead(args.widths, args.repeats)
    else:
        memory([64, 128] if args.quick else [128, 512, 1024, 2048], args.out)


if __name__ == "__main__":
    main()
