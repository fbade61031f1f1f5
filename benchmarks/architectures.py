"""What works on which architecture: erasing by hooks, folding, generation with a cache, bfloat16. All is measured.

python -m benchmarks.architectures
python -m benchmarks.architectures roles    # every text architecture of which transformers builds a small model

Models are tiny (32 wide, 2 blocks) and made from configs; the concept has three classes, one a token (one an image for
ViT). Sites are the outputs of all norms, fitted in sequence. A gap is the largest distance of a class mean from the
mean, in standard deviations of a feature, in float64, with all sites edited at once.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import transformers
from tests.models import FAMILIES, GENERATE, concept, data, gap, generate, hidden_states, labelled_rows, tiny
from torch import Tensor

from benchmarks._measure import table
from benchmarks._roles import roles
from efface import Scrubber, foldable, scrub

GOOD = 1e-5
"""What is left in float32 must be rounding; what is more is called FAILED."""


def gaps(model: Any, name: str, inputs: dict[str, Tensor], scrubber: Scrubber) -> float:
    """The largest gap of all sites."""
    paths = [site.path for site in scrubber.sites]
    found = []
    for path, x in hidden_states(model, inputs, paths).items():
        decoder = "decoder_input_ids" in inputs and path.startswith("decoder")
        mask = inputs.get("decoder_attention_mask" if decoder else "attention_mask")
        found.append(gap(*labelled_rows(x, concept(name), mask)))
    return max(found)


def verdict(good: bool, text: str) -> str:
    return f"ok: {text}" if good else f"FAILED: {text}"


def hooked(model: Any, name: str, scrubber: Scrubber) -> str:
    before = gaps(model, name, data(name), scrubber)
    with scrubber.on(model):
        after = gaps(model, name, data(name), scrubber)
    return verdict(after < GOOD, f"{after:.0e} (was {before:.1f}) at {len(scrubber.sites)} sites")


def folded(model: Any, name: str, scrubber: Scrubber) -> str:
    found = foldable(model, scrubber.sites)
    sites = [site for site, layers in found.items() if not isinstance(layers, str)]
    why = [part for layers in found.values() if isinstance(layers, str) for part in _short(layers)]
    reason = ", ".join(dict.fromkeys(why))
    if not sites:
        return f"n/a: all sites are also read by {reason}"
    chosen = scrubber.only(*sites)
    with torch.no_grad():
        with chosen.on(model):
            expected = model(**data(name))[0]
        with chosen.folded(model).on(model):
            error = float((model(**data(name))[0] - expected).abs().max() / expected.abs().max())
    if error >= GOOD or not why:
        return verdict(error < GOOD, f"{error:.0e}")
    return f"partly: {len(sites)} of {len(found)} sites, {error:.0e}; the others are also read by {reason}"


def _short(reason: str) -> list[str]:
    readers = reason.removeprefix("it is also read by ").split("; ")
    return [reader.removesuffix(" outside of any linear layer").partition(":")[0] for reader in readers]


def generated(model: Any, name: str, scrubber: Scrubber) -> str:
    if name not in GENERATE:
        return f"n/a: {type(model).__name__} generates nothing"
    plain = generate(model, name)
    with scrubber.on(model):
        cached, whole = (generate(model, name, use_cache=use) for use in (True, False))
    changed = sum(a != b for a, b in zip(cached, plain, strict=True))
    return verdict(cached == whole, f"cached = uncached in {len(cached)} texts, {changed} not as unscrubbed")


def halved(name: str) -> str:
    model = tiny(name).bfloat16()
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in data(name).items()}
    scrubber = scrub(model, inputs, concept(name), sites="norms")
    before = gaps(model, name, inputs, scrubber)
    with scrubber.on(model):
        after = gaps(model, name, inputs, scrubber)
    return verdict(after < 0.01, f"{after:.0e} (was {before:.1f})")


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = []
    for name in FAMILIES:
        model = tiny(name)
        scrubber = scrub(model, data(name), concept(name), sites="norms")
        cells = [check(model, name, scrubber) for check in (hooked, folded, generated)]
        rows.append([name, *cells, halved(name)])
    title = f"Architectures, transformers {transformers.__version__}, torch {torch.__version__}"
    header = ["`model_type`", "hooks: gap", "folded: logits, relative", "generate", "bfloat16: gap after rounding"]
    table(title, header, rows)


if __name__ == "__main__":
    roles() if sys.argv[1:] == ["roles"] else main()
