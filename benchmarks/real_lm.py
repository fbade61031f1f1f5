"""SmolLM2-135M, a language model that others made, and parts of speech: what erasing them costs it, and what is left.

python -m benchmarks.real_lm table  --folder FOLDER     # table 1 of the LEACE paper: bits per byte, by way
python -m benchmarks.real_lm layers --folder FOLDER     # amnesic probing: one block's residual stream at a time
python -m benchmarks.real_lm cost   --folder FOLDER     # time and memory: measured, and by the cost model

What is done already is read from the folder, so that each may be stopped and called again, with `--ways` or
`--blocks` for a part. Erasers are fitted on 120 sequences of 256 tokens, and scored on 52 of other documents; intervals
resample documents. bfloat16 by default; `--dtype float32` takes three times as long.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import efface
import efface.audit
from benchmarks._measure import cell, table
from benchmarks.sizing import PASSES, hours
from efface.core.site import Site
from efface.scrubbing import Scrubber, collect, scrub
from efface.stats.intervals import bootstrap_interval, paired_interval
from efface_worlds.real import DOMAINS, PARTS_OF_SPEECH, load_smollm2, make_english
from efface_worlds.tokens import TokenWorld, next_token_nats, unigram_bits_per_byte

LENGTH = 256
BLOCKS = [0, 1, 2, 4, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29]
FIT = {"wordnet": 72, "python": 48}
SCORE = {"wordnet": 32, "python": 20}
LAYERS = {"wordnet": 10, "python": 6}
"""Sequences of each domain that the single blocks are scored on."""

METHODS = {"LEACE": "leace", "SAL": "orth"}
"""Way -> method. With one-hot labels SAL takes out the span of the class means, as `orth` does."""

KEPT = ", first token kept"
WAYS = (
    *("none", "random", "LEACE", "SAL", "LEACE, class x domain", "LEACE, labels shuffled"),
    *(f"{way}{KEPT}" for way in ("random", "LEACE", "SAL")),
)

PUBLISHED = {
    "none": (0.69, 0.66, 0.62, 0.90, 0.70, 0.64, 0.62),
    "random": (0.69, 0.66, 0.62, 0.99, 0.72, 0.66, 0.63),
    "LEACE": (1.73, 1.84, 1.96, 2.79, 2.25, 3.57, 3.20),
    "SAL": (3.24, 3.26, 3.16, 3.53, 3.44, 4.17, 4.69),
    "unigram entropy": (2.90, 2.90, 2.90, 2.66, 2.66, 2.66, 2.66),
}
"""Table 1 of arXiv:2306.03819: bits per byte of LLaMA 7B, 13B, 30B and Pythia 160M, 1.4B, 6.9B, 12B."""

THEIRS = ("LLaMA 7B", "13B", "30B", "Pythia 160M", "1.4B", "6.9B", "12B")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------- worlds


def joined(worlds: Sequence[TokenWorld]) -> TokenWorld:
    """Sequences of several worlds as one."""
    tensors = {name: torch.cat([getattr(w, name) for w in worlds]) for name in ("input_ids", "lexical_type", "n_bytes")}
    return replace(worlds[0], files=tuple(file for w in worlds for file in w.files), **tensors)


@dataclass(frozen=True)
class Run:
    """What results are of.

    Attributes:
        folder: Where they lie.
        dtype: Of the model's weights.
        begin: Whether each sequence is behind the token that begins a text, which has no label; else sequences are
            slices of documents, as in the paper.
    """

    folder: Path
    dtype: str
    begin: bool

    def path(self, name: str) -> Path:
        """Where a result lies."""
        return self.folder / f"{name} {self.dtype}{' begun' if self.begin else ''}"

    @property
    def model(self) -> Any:
        """The language model."""
        return loaded(self.dtype)[1]

    def world(self, split: Any, sizes: Mapping[str, int]) -> TokenWorld:
        """So many sequences of each domain."""
        make = {"length": LENGTH if self.begin else LENGTH + 1}
        tokenizer = loaded(self.dtype)[0]
        found = joined([make_english(split, tokenizer, sequences=sizes[d], domain=d, **make) for d in DOMAINS])
        cut = {name: getattr(found, name)[:, 1:] for name in ("input_ids", "lexical_type", "n_bytes")}
        return found if self.begin else replace(found, **cut)


def domains(of: TokenWorld) -> np.ndarray:
    return np.array([file.partition("/")[0] for file in of.files])


@cache
def loaded(dtype: str) -> Any:
    say("loading the model")
    return load_smollm2(dtype=getattr(torch, dtype))


# ---------------------------------------------------------------------------------------------------- table


def labels(way: str, of: TokenWorld) -> Tensor:
    """The concept of a way: parts of speech, those of each domain, or shuffled among the tokens that have one."""
    found, known = of.lexical_type.clone(), of.lexical_type >= 0
    if way == "LEACE, class x domain":
        number = torch.tensor([DOMAINS.index(d) for d in domains(of).tolist()])
        found[known] += (len(PARTS_OF_SPEECH) * number[:, None]).expand_as(found)[known]
    if way == "LEACE, labels shuffled":
        found[known] = found[known][torch.randperm(int(known.sum()), generator=torch.Generator().manual_seed(0))]
    return found


def fitted(way: str, at: Run) -> Scrubber:
    """The scrubber of a way, fitted or read."""
    path = at.path(f"scrubber {way}")
    if path.is_dir():
        return efface.load(path)  # type: ignore[return-value]
    train, lm = at.world("fit", FIT), at.model
    say(f"fitting {way} on {int((train.lexical_type >= 0).sum()):,} tokens")
    begun, spent = time.perf_counter(), time.process_time()
    found = scrub(
        lm,
        {"input_ids": train.input_ids},
        labels(way, train),
        sites="norms",
        method=METHODS.get(way, "leace"),
        activations="memory",
        batch_size=8,
        checkpoint=at.path(f"fitting {way}"),
    )
    cost = {"wall": time.perf_counter() - begun, "cpu": time.process_time() - spent, "tokens": train.input_ids.numel()}
    keep(at.path(f"fit {way}"), cost)
    found.save(path)
    return found


def first_kept(scrubber: Scrubber | None) -> Scrubber:
    """The same erasers, which leave the first token of each sequence alone: what attention rests on."""
    assert scrubber is not None

    def behind(eraser: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([x[:, :1], eraser(x[:, 1:])], dim=1)

    return Scrubber.at({str(site): behind(eraser) for site, eraser in scrubber.erasers.items()})


def scrubber_of(way: str, at: Run) -> Scrubber | None:
    if way == "none":
        return None
    if way.endswith(KEPT):
        return first_kept(scrubber_of(way.removesuffix(KEPT), at))
    return fitted("LEACE", at).random_control(0) if way == "random" else fitted(way, at)


def bits(lm: Any, of: TokenWorld, on: Scrubber | None) -> list[float]:
    with nullcontext() if on is None else on.on(lm):
        return of.sequence_bits(next_token_nats(lm, of, batch_size=4)).tolist()


def keep(path: Path, value: Any) -> Any:
    path.write_text(json.dumps(value), encoding="utf-8")
    return value


def known(path: Path, make: Callable[[], Any]) -> Any:
    """What is in a file, or is made and kept there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else keep(path, make())


def scored(way: str, split: str, at: Run) -> np.ndarray:
    """Bits of each sequence."""

    def make() -> list[float]:
        on, of = scrubber_of(way, at), at.world(split, SCORE)
        say(f"scoring {way} on {split}")
        begun = time.process_time()
        found = bits(at.model, of, on)
        say(f"{of.input_ids.numel() / (time.process_time() - begun):.0f} tokens a second of a processor")
        return found

    return np.array(known(at.path(f"bits {way} {split}"), make))


def table_one(ways: Sequence[str], split: str, at: Run) -> None:
    held, train = at.world(split, SCORE), at.world("fit", FIT)
    print(
        f"fit: {int((train.lexical_type >= 0).sum()):,} tokens with a label of {len(set(train.files))} documents; "
        f"scored: {held.input_ids[:, 1:].numel():,} of {len(set(held.files))} ({split}); {at.dtype}"
    )
    plain = scored("none", split, at)
    rows = []
    for way in ways:
        found = scored(way, split, at)
        cells = [interval(bootstrap_interval, found, of=held, keep_rows=k) for k in (None, *DOMAINS)]
        change = "" if way == "none" else interval(paired_interval, found, plain, of=held)
        theirs = (f"{value:.2f}" for value in PUBLISHED.get(way, ()))
        rows.append([way, cells[0], change, *cells[1:], *theirs])
    entropy = [unigram_bits_per_byte(held), *(unigram_bits_per_byte(some(held, domains(held) == d)) for d in DOMAINS)]
    counted = unigram_bits_per_byte(held, train=train)
    rows.append(["unigram entropy", f"{entropy[0]:.3f}", "", *(f"{e:.3f}" for e in entropy[1:])])
    rows[-1] += [f"{value:.2f}" for value in PUBLISHED["unigram entropy"]]
    rows.append(["unigram model of the fit", f"{counted:.3f}"])
    header = ["erased at every norm", "bits per byte", "change", *DOMAINS, *THEIRS]
    table("Parts of speech erased from SmolLM2-135M (left), and as published (right)", header, rows)
    for way in {*METHODS, "LEACE, class x domain", "LEACE, labels shuffled"} & {*ways}:
        summary = fitted(way, at).summary()
        ranks = sorted({row["rank"] for row in summary})
        residual = max(row["residual"] or 0.0 for row in summary)
        edit = np.median([row["edit"] for row in summary if row["edit"] is not None] or [math.nan])
        print(f"{way}: {len(summary)} sites, ranks {ranks}, largest correlation left {residual:.1e}, edit {edit:.3f}")


def interval(
    make: Callable[..., Any], *values: np.ndarray, of: TokenWorld, keep_rows: str | None = None, digits: int = 3
) -> str:
    rows = np.ones(len(of), dtype=bool) if keep_rows is None else domains(of) == keep_rows
    found = make(*(v[rows] for v in values), of.sequence_bytes.numpy()[rows], groups=np.array(of.files)[rows])
    sign = "+" if make is paired_interval else ""
    return f"{found.value:{sign}.{digits}f} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"


def some(of: TokenWorld, rows: np.ndarray) -> TokenWorld:
    where = torch.from_numpy(rows.nonzero()[0])
    cut = {name: getattr(of, name)[where] for name in ("input_ids", "lexical_type", "n_bytes")}
    return replace(of, files=tuple(of.files[i] for i in where.tolist()), **cut)


# ---------------------------------------------------------------------------------------------------- layers


def alone(at: Run) -> Scrubber:
    """Erasers of the residual stream behind each block, each fitted on the plain model."""
    path = at.path("scrubber residual")
    if path.is_dir():
        return efface.load(path)  # type: ignore[return-value]
    train = at.world("fit", FIT)
    say("fitting each block's residual stream on the plain model")
    data = {"input_ids": train.input_ids}
    found = scrub(at.model, data, train.lexical_type, sites="residual", order="parallel", batch_size=8)
    found.save(path)
    return found


def single(way: str, site: Site | None, at: Run) -> np.ndarray:
    """Bits of each sequence with one site erased."""

    def make() -> list[float]:
        erasers, of = alone(at), at.world("heldout", LAYERS)
        on = erasers.random_control(0) if way.startswith("random") else erasers
        on = first_kept(on.only(site)) if way.endswith(KEPT) and site else on
        say(f"{way} at {site}")
        return bits(at.model, of, None if site is None else on if len(on.sites) == 1 else on.only(site))

    return np.array(known(at.path(f"single {way} {site}"), make))


def layers(blocks: Sequence[int], probed: Sequence[int], at: Run, rows: int) -> None:
    held = at.world("heldout", LAYERS)
    plain = single("none", None, at)
    sites = alone(at).sites
    found = []
    for i in blocks:
        ways = {way: single(way, sites[i], at) for way in ("LEACE", "random", "LEACE, first token kept")}
        cells = [interval(paired_interval, values, plain, of=held) for values in ways.values()]
        beyond = interval(paired_interval, ways["LEACE"], ways["random"], of=held)
        accuracy = probes(i, at, rows) if i in probed else ["", "", ""]
        found.append([i, *cells, beyond, *accuracy])
    base = interval(bootstrap_interval, plain, of=held)
    print(f"base {base} bits per byte; {held.input_ids[:, 1:].numel():,} tokens of {len(set(held.files))} documents")
    header = ["behind block", "LEACE: change", "random: change", "LEACE but for the first token", "LEACE minus random"]
    header += ["read there before, %", "after", "behind the last block after"]
    table("Amnesic probing: parts of speech erased behind one block of SmolLM2-135M, bits per byte", header, found)


def probes(block: int, at: Run, rows: int) -> list[str]:
    """What fresh linear probes read of held-out text: there before and after, and at the end of the model after."""

    def make() -> list[str]:
        of, lm, erasers = at.world("heldout", LAYERS), at.model, alone(at)
        site, last = erasers.sites[block], erasers.sites[-1]
        data, options = {"input_ids": of.input_ids}, {"max_rows": rows, "batch_size": 8}
        plain = collect(lm, data, of.lexical_type, sites=[str(site), str(last)], **options)
        erased = collect(
            lm, data, of.lexical_type, sites=[str(site), str(last)], scrubber=erasers.only(site), **options
        )
        kept = (torch.bincount(plain.labels, minlength=len(PARTS_OF_SPEECH))[plain.labels] >= 20).nonzero().flatten()
        say(f"probing block {block} on {len(kept)} tokens")
        audit = efface.audit.sites(
            {site: x[kept] for site, x in plain.x.items()},
            {site: x[kept] for site, x in erased.x.items()},
            [PARTS_OF_SPEECH[i] for i in plain.labels[kept].tolist()],
            groups=np.array(of.files)[plain.sequence[kept].numpy()],
            folds=3,
        )
        asked = [(str(site), "before"), (str(site), "after"), (str(last), "after")]
        return [said(audit.find("linear probe", *where)) for where in asked]

    return known(at.path(f"probes {block} {rows}"), make)


def said(finding: Any) -> str:
    return f"{cell(finding)} (chance {100 * finding.chance:.1f})"


# ------------------------------------------------------------------------------------------------------ cost

MODELS = {
    "SmolLM2-135M": (134.5e6, 30, 576),
    "Pythia 160M": (162e6, 12, 768),
    "LLaMA 7B": (6.74e9, 32, 4096),
    "LLaMA 13B": (13.0e9, 40, 5120),
    "LLaMA 30B": (32.5e9, 60, 6656),
}
"""Parameters, blocks, width."""

PAPER_TOKENS = 2**22


def cost(at: Run) -> None:
    """Measured against predicted time here, and what the same model says of the paper's sizes."""
    parameters, blocks, width = MODELS["SmolLM2-135M"]
    per_token, per_update, per_eigen = known(at.path("speed"), lambda: speeds(at))
    rows = []
    for way in ("LEACE", "SAL", "LEACE, class x domain", "LEACE, labels shuffled"):
        path = at.path(f"fit {way}")
        if path.is_file():
            spent = json.loads(path.read_text(encoding="utf-8"))
            n, sites = spent["tokens"], 2 * blocks + 1
            parts = (2.5 * n * per_token, sites * n * per_update, sites * per_eigen)
            rows.append([way, f"{spent['cpu']:.0f}", f"{sum(parts):.0f}", *(f"{part:.0f}" for part in parts)])
    header = ["fit", "CPU-s, measured", "predicted", "2.5 forward passes", "statistics", "erasers"]
    table(f"Time of a fit at 61 norms of SmolLM2-135M, {at.dtype}, one thread", header, rows)
    rows = []
    for name, (parameters, blocks, width) in MODELS.items():
        sites = 2 * blocks + 1
        flops = {way: passes(sites) * 2 * parameters * PAPER_TOKENS for way, passes in PASSES.items()}
        statistics = sites * 2 * width**2 * PAPER_TOKENS
        rows.append(
            [
                name,
                *(f"{found / 1e18:.2g}" for found in flops.values()),
                f"{statistics / 1e18:.2g}",
                f"{8 * width**2 / 2**20:.0f} MiB",
                f"{sites * 8 * width**2 / 2**30:.1f} GiB",
                f"{2 * PAPER_TOKENS * width / 2**30:.1f} GiB",
                *(f"{hours(found + statistics):.1f} h" for found in flops.values()),
            ]
        )
    header = ["model", *(f"{way}: EFLOP" for way in PASSES), "statistics: EFLOP", "one site's matrix"]
    header += ["parallel: all of them", "activations kept, 2 bytes", *(f"{way}, at 100 TFLOP/s" for way in PASSES)]
    table("A fit on the paper's 2^22 tokens at all norms, by the cost model", header, rows)


def speeds(at: Run) -> list[float]:
    """CPU-seconds of a token's forward pass through the blocks, of its update at one site, and of one eraser."""
    from efface.erasers.leace import LeaceFitter

    lm, of = at.model, at.world("heldout", {"wordnet": 8, "python": 8})
    x, z = torch.randn(2048, 576), torch.randint(17, (2048,))
    fitter = LeaceFitter(576, 17)
    with torch.inference_mode():
        forward = fastest(lambda: lm.model(of.input_ids[:8], use_cache=False)) / of.input_ids[:8].numel()
    update = fastest(lambda: fitter.update(x, torch.nn.functional.one_hot(z, 17))) / len(x)

    def eraser() -> Any:
        fitter.update(x[:64], torch.nn.functional.one_hot(z[:64], 17))
        return fitter.eraser

    return [forward, update, fastest(eraser)]


def fastest(run: Callable[[], Any], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "layers", "cost"))
    parser.add_argument("--folder", type=Path, required=True, help="where results lie, and are read from")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="rows of the table")
    parser.add_argument("--blocks", nargs="+", type=int, default=BLOCKS, help="blocks of `layers`")
    parser.add_argument("--probed", nargs="*", type=int, default=[0, 15, 29], help="blocks that are probed")
    parser.add_argument("--rows", type=int, default=1200, help="tokens that probes see")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--split", choices=("heldout", "fit"), default="heldout", help="what the table is scored on")
    parser.add_argument("--begin", action="store_true", help="each sequence behind the token that begins a text")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    at = Run(args.folder, args.dtype, args.begin)
    if args.what == "table":
        table_one(args.ways, args.split, at)
    elif args.what == "layers":
        layers(args.blocks, args.probed, at, args.rows)
    else:
        cost(at)


if __name__ == "__main__":
    main()
