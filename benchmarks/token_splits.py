"""What held-out probes read of the lexical type after three ways to fit: `python -m benchmarks.token_splits`.

About half of the training sequences are of tests, the held-out split has none. Erased of a mixture, class means are
equal over the mixture, and in each kind by itself only as far as the kinds are alike. So the concept can be erased
from sequences of one kind, or together with the kind: one class for each lexical type in each kind.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import efface.audit
from efface.audit.audit import Audit
from efface.scrubbing.collecting import collect
from efface.scrubbing.fitting import scrub
from efface_worlds.tokens import TokenWorld, load_token_model, make_tokens

IGNORE = -100
PROBE, BITS = "linear probe", "information"


@dataclass(frozen=True)
class Sizes:
    """How much is used: sequences of the fit and of the probes, their length, files read, tokens probed."""

    fit: int
    test: int
    length: int
    files: int
    rows: int


FULL, SMALL = Sizes(600, 120, 256, 300, 4000), Sizes(200, 48, 128, 120, 1500)


def fits(sizes: Sizes, seed: int) -> dict[str, tuple[TokenWorld, Tensor]]:
    """Way to fit -> sequences and labels."""
    options: dict[str, Any] = {"length": sizes.length, "sequences": sizes.fit, "max_files": sizes.files, "seed": seed}
    mixed, one = make_tokens("train", **options), make_tokens("train", kind="library", **options)
    kinds = mixed.is_test.long()[:, None] * len(mixed.names)
    crossed = torch.where(mixed.lexical_type == IGNORE, IGNORE, mixed.lexical_type + kinds)
    share = f"{mixed.is_test.float().mean():.0%} tests"
    return {
        f"lexical type, {share}": (mixed, mixed.lexical_type),
        f"lexical type x kind, {share}": (mixed, crossed),
        "lexical type, modules alone": (one, one.lexical_type),
    }


def probe(world: TokenWorld, train: TokenWorld, labels: Tensor, sizes: Sizes, seed: int) -> Audit:
    """Fresh probes of held-out modules at every norm, before and after LEACE."""
    model = load_token_model("llama")
    scrubber = scrub(model, {"input_ids": train.input_ids}, labels, sites="norms", activations="memory", batch_size=16)
    data = {"input_ids": world.input_ids}
    options = {"sites": "norms", "max_rows": sizes.rows, "seed": seed, "batch_size": 16}
    plain = collect(model, data, world.lexical_type, **options)
    erased = collect(model, data, world.lexical_type, scrubber=scrubber, **options)
    counts = torch.bincount(plain.labels)
    kept = (counts[plain.labels] >= 20).nonzero().flatten()
    files = np.array(world.files)[plain.sequence[kept].numpy()]
    before, after = ({site: x[kept] for site, x in side.x.items()} for side in (plain, erased))
    return efface.audit.sites(before, after, plain.labels[kept], groups=files, name="the lexical type", seed=seed)


def main() -> None:
    """Print, for each way to fit, what is read before and after: mean and worst norm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few minutes on one core")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sizes = SMALL if args.small else FULL
    world = make_tokens("heldout", length=sizes.length, sequences=sizes.test, seed=args.seed)
    print("fit | read before | after, mean of norms | after, worst norm (interval) | chance | bits after, mean")
    for name, (train, labels) in fits(sizes, args.seed).items():
        audit = probe(world, train, labels, sizes, args.seed)
        before, after, bits = (
            [f for f in audit.findings if (f.family, f.condition) == wanted]
            for wanted in ((PROBE, "before"), (PROBE, "after"), (BITS, "after"))
        )
        worst = max(after, key=lambda f: f.value)
        print(
            f"{name} | {np.mean([f.value for f in before]):.1%} | {np.mean([f.value for f in after]):.1%} | "
            f"{worst.value:.1%} ({worst.low:.1%} to {worst.high:.1%}) | {worst.chance:.1%} | "
            f"{np.mean([f.value for f in bits]):+.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
