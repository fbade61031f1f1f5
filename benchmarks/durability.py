"""Does the lexical type come back to a language model of the token world? Rounded, tuned on, states put back.

python -m benchmarks.durability [--arch llama] [--fit 300] [--sequences 60] [--rows 3000] [--folds 3]
    [--steps 50] [--rate 3e-4]

Erasers of all norms are fitted on sequences of the training split, modules alone, one norm after the other. The audit
is of other files of that split (held-out modules differ in their class means), tuning on a third part of it. By hooks
and folded into the weights; then noise in place of the last norm, which has to be called broken.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import efface.audit
from efface.scrubbing import Scrubber, scrub
from efface_worlds.tokens import TokenWorld, load_token_model, make_tokens

_FEWEST = 20


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
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, total = load_token_model(args.arch), args.fit + 2 * args.sequences
    options = {"kind": "library", "max_files": 160, "seed": args.seed}
    world = make_tokens("train", length=128, sequences=total, **options)
    shares = (args.fit / total, args.sequences / total, args.sequences / total)
    fit, asked, other = split(world, shares, args.seed)
    scrubber = scrub(model, {"input_ids": fit.input_ids}, fit.lexical_type, sites="norms", activations="memory")
    last = str(scrubber.sites[-1])
    broken = Scrubber.at({last: noise})
    fold = scrubber.folded(model)
    layers = [fold.layers[0], fold.layers[-2]]  # the last is the head
    for name, erasure, sites in (("folded", fold, layers), ("noise", broken, [last]), ("hooks", scrubber, [last])):
        start = time.process_time()
        audit = efface.audit.durability(
            model,
            erasure,
            asked.input_ids,
            labels_of(asked),
            tuning=other.input_ids,
            name="the lexical type",
            sites=sites,
            steps=args.steps,
            rate=args.rate,
            max_rows=args.rows,
            folds=args.folds,
            seed=args.seed,
        )
        print(f"\n=== {name}: {len(fit)} fitted, {len(asked)} asked, {time.process_time() - start:.0f} CPU-s")
        print(audit.text[0])
        for f in audit.findings:
            if f.is_scored and f.family in ("linear probe", "loss on text", "put back", "change since erasure"):
                ends = "" if f.low is None else f" [{f.low:.3f}, {f.high:.3f}]"
                print(f"  {f.family}, {f.name}, {f.condition}: {f.value:.3f}{ends} {f.verdict}")
        print(*audit.conclusions, sep="\n", flush=True)


if __name__ == "__main__":
    main()
