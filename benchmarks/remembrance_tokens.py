"""Which words does a scrubbed language model still predict? Keywords of Python are erased, all others are asked for.

    python -m benchmarks.remembrance_tokens [--fit 200] [--asked 150] [--page PAGE.html]

LEACE at every norm of the language model of efface-worlds (`tokens`), "is a keyword" against the rest, fitted on other
files than those asked; a word is a token by its text, of those that occur often enough. The placebo is a random
subspace of equal rank at every norm.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from efface.audit.remembrance import Registry
from efface.audit.remembrance.by_tokens import remembered_by_tokens
from efface.scrubbing import scrub
from efface_worlds.tokens import load_token_model, load_token_tokenizer, make_tokens

_FEWEST, _SHOWN = 30, 12


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=int, default=200)
    parser.add_argument("--asked", type=int, default=150)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    model, tokenizer = load_token_model("llama"), load_token_tokenizer()
    fit = make_tokens("train", length=128, sequences=args.fit, kind="library", max_files=160)
    asked = make_tokens("heldout", length=128, sequences=args.asked)
    keyword = asked.names.index("keyword")
    labels = torch.where(fit.lexical_type < 0, -100, (fit.lexical_type == keyword).long())
    scrubber = scrub(model, {"input_ids": fit.input_ids}, labels, sites="norms", activations="memory")
    ids, types = asked.input_ids, asked.lexical_type
    count = np.bincount(ids[:, 1:].flatten(), minlength=int(ids.max()) + 1)
    often = {t: repr(tokenizer.decode([t])) for t in np.flatnonzero(count >= _FEWEST).tolist()}
    # A text that is of several types is of the one that it mostly is.
    kind = {t: int(torch.bincount(types[ids == t].clamp_min(0), minlength=len(asked.names)).argmax()) for t in often}
    words = [[often.get(t, "") for t in row] for row in ids.tolist()]
    registry = Registry.of(
        list(often.values()),
        relation=["target" if kind[t] == keyword else "unrelated" for t in often],
        popularity=[int(count[t]) for t in often],
        groups={"type": [asked.names[kind[t]] for t in often]},
        ambiguous="apart",  # ' ' and '    ' are two tokens
    )
    audit = remembered_by_tokens(
        model, scrubber, ids, np.array(words), registry=registry, placebos=[scrubber.random_control()], smallest_cell=3,
        listed=_SHOWN,
    )  # fmt: skip
    print(audit)
    if args.page:
        audit.save(args.page)
    print(
        f"{args.fit} sequences fitted, {args.asked} asked, {len(often)} words: {time.process_time() - start:.0f} CPU-s"
    )


if __name__ == "__main__":
    main()
