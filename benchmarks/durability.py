"""Does the lexical type come back to a language model of the token world? Rounded, tuned on, states put back.

python -m benchmarks.durability [--arch llama] [--fit 300] [--sequences 60] [--rows 3000] [--folds 3]
    [--steps 50] [--rate 3e-4] [--by sequence] [--only folded noise hooks] [--folder FOLDER]

With `--by file` folds and intervals are of files, which are few; a file's sequences are more alike than others.
Erasers of all norms are fitted on sequences of the training split, modules alone, one norm after the other. The audit
is of other files of that split (held-out modules differ in their class means), tuning on a third part of it. By hooks
and folded into the weights; then noise in place of the last norm, which has to be called broken. With a folder the
erasers that were fitted are kept there, and each audit's page as soon as it is done, which is then read.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import efface.audit
from efface import load
from efface.audit import Audit
from efface.scrubbing import Scrubber, scrub
from efface_worlds.tokens import TokenWorld, load_token_model, make_tokens

_FEWEST = 20
_ERASURES = ("folded", "noise", "hooks")


def part(world: TokenWorld, rows: list[int]) -> TokenWorld:
    """Some of the sequences."""
    cut = {name: getattr(world, name)[rows] for name in ("input_ids", "lexical_type", "n_bytes")}
    return replace(world, files=tuple(world.files[i] for i in rows), **cut)


def split(world: TokenWorld, shares: tuple[float, ...], seed: int) -> list[TokenWorld]:
    """Parts of no common file."""
    files = np.random.default_rng(seed).permutation(sorted(set(world.files)))
    ends = np.cumsum([0, *shares]) * len(files)
    return [
        part(world, [i for i, file in enumerate(world.files) if file in {*files[int(a) : int(b)]}])
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]


def labels_of(world: TokenWorld) -> Tensor:
    """Types with enough tokens for every fold; of others none."""
    counts = torch.bincount(world.lexical_type.clamp_min(0).flatten(), minlength=len(world.names))
    rare = counts[world.lexical_type.clamp_min(0)] < _FEWEST * 10
    return torch.where(rare, -100, world.lexical_type)


def noise(x: Tensor) -> Tensor:
    """States that say nothing."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x) * x.std()


def fitted(args: argparse.Namespace, model: Any, fit: TokenWorld) -> Scrubber:
    """Erasers of all norms, from the folder if they were fitted before."""
    place = None if args.folder is None else args.folder / f"scrubber-{args.arch}-{args.fit}-{args.seed}"
    if place is not None and place.exists():
        return load(place)
    found = scrub(model, {"input_ids": fit.input_ids}, fit.lexical_type, sites="norms", activations="memory")
    if place is not None:
        found.save(place)
    return found


def audited(args: argparse.Namespace, model: Any, name: str, erasure: Any, sites: Any, asked: Any, other: Any) -> Audit:
    """The audit of one erasure, from the folder if it was done before."""
    settings = (
        args.arch,
        args.fit,
        args.sequences,
        args.rows,
        args.folds,
        args.steps,
        f"{args.rate:g}",
        args.seed,
        args.by,
    )
    place = None if args.folder is None else args.folder / f"{name}-{'-'.join(map(str, settings))}.json"
    if place is not None and place.exists():
        return Audit.from_dict(json.loads(place.read_text()))
    audit = efface.audit.durability(
        model,
        erasure,
        asked.input_ids,
        labels_of(asked),
        tuning=other.input_ids,
        name="the lexical type",
        sites=sites,
        groups=list(asked.files) if args.by == "file" else None,
        steps=args.steps,
        rate=args.rate,
        max_rows=args.rows,
        folds=args.folds,
        seed=args.seed,
    )
    if place is not None:
        audit.save(place)
    return audit


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=("llama", "gpt_neox"), default="llama")
    parser.add_argument("--fit", type=int, default=300)
    parser.add_argument("--sequences", type=int, default=60)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by", choices=("sequence", "file"), default="sequence", help="what is never split")
    parser.add_argument("--only", nargs="*", choices=_ERASURES, default=_ERASURES)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, total = load_token_model(args.arch), args.fit + 2 * args.sequences
    options = {"kind": "library", "max_files": 160, "seed": args.seed}
    world = make_tokens("train", length=128, sequences=total, **options)
    shares = (args.fit / total, args.sequences / total, args.sequences / total)
    fit, asked, other = split(world, shares, args.seed)
    scrubber = fitted(args, model, fit)
    last = str(scrubber.sites[-1])
    print(f"{len(fit)} sequences fitted, {len(asked)} asked of {len({*asked.files})} files, {len(other)} tuned on")
    for name in args.only:
        start = time.process_time()
        erasure: Any = Scrubber.at({last: noise}) if name == "noise" else scrubber
        erasure = scrubber.folded(model) if name == "folded" else erasure
        sites = [erasure.layers[0], erasure.layers[-2]] if name == "folded" else [last]  # the last is the head
        audit = audited(args, model, name, erasure, sites, asked, other)
        print(f"\n=== {name}: {time.process_time() - start:.0f} CPU-s")
        print(audit.text[0])
        for f in audit.findings:
            if f.is_scored and f.family in ("linear probe", "loss on text", "put back", "change since erasure"):
                ends = "" if f.low is None else f" [{f.low:.3f}, {f.high:.3f}]"
                print(f"  {f.family}, {f.name}, {f.condition}: {f.value:.3f}{ends} {f.verdict}")
        print(*audit.conclusions, sep="\n", flush=True)


if __name__ == "__main__":
    main()
