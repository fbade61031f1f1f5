"""Options of CGCE: the source leaves most of them open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from efface._errors import InputError
from efface.core.config import Config, option
from efface.pipelines.embedding_parts import Reads

Pooled = Literal["refine", "keep"]
"""`"refine"`: pooled vectors have classifiers of their own and are refined; `"keep"`: they stay, concept and all."""

Normalise = Literal["none", "l2", "token_l2", "sign"]
"""What is made of the gradient g of a prompt e of N rows, with `s = |e|_F / sqrt(N)`, the length of a typical row.

`"l2"`: `s g / |g|_F`. `"token_l2"`: each row becomes `s_i g_i / |g_i|`, with `s_i = |e_i| / sqrt(N)`. `"sign"`:
`s sign(g) / sqrt(number of entries)`. A step of these three is eta s long. `"none"`: g.
"""

Preset = Literal["recommended", "published"]
Along = Literal["anchor", "gradient"]
"""`"gradient"`: down the gradient of the classifiers; `"anchor"`: on the straight way to where the prompt would have
the concept's anchor in its place (see `Contrast`), as far as the classifiers ask, and down the gradient from there."""

_ALONG: dict[Preset, Along] = {"recommended": "anchor", "published": "gradient"}

AT_APPLY = ("threshold", "until", "along", "eta", "normalise", "max_iter")
"""Options that a fitted erasure can be tuned by."""


@dataclass(frozen=True, kw_only=True)
class CgceConfig(Config):
    """Options of CGCE: of the pairs, the gate, the refinement, the parts that are read, and the training."""

    preset: Preset = option("recommended", "ours, or what is known of the paper's; where along is None, it decides")
    n_pairs: int = option(400, "pairs to ask for, or to make of a concept at most; the paper has 1000")
    contexts: bool = option(True, "whether pairs of a concept also have it beside other words")
    truncate: bool = option(False, "allow the ends of pairs' prompts to be lost")
    reads: Reads = option("encoder", "whether text encoders are told apart")
    pooled: Pooled = option("refine", "what becomes of pooled vectors")
    threshold: float = option(0.5, "probability of a concept above which a prompt is refined", above=0, below=1)
    until: float | Literal["typical", "threshold"] = option(
        "typical", "down to which it is: the median of prompts without the concept, the threshold, or a probability"
    )
    along: Along | None = option(None, "which way it is refined: straight to its anchor, or down the gradient")
    eta: float = option(1.0, "length of a step, in typical rows; 1.0 in the paper, whose scale is not known", above=0)
    normalise: Normalise = option("l2", "what is made of the gradient")
    max_iter: int = option(50, "steps at most", least=1)
    seed: int = option(0, "of the split, weights, order, and rows dropped")
    width: int = option(64, "width of each member of a classifier", least=1)
    heads: int = option(4, "heads of its attention", least=1)
    members: int = option(4, "how many members", least=1)
    # The concept is in nearly all rows of a prompt (CLIP is causal, and its padding carries the whole prompt); seeing
    # all of them, a classifier reads a few, and a gradient that changes those leaves the concept in the others.
    keep_rows: float = option(0.1, "share of a prompt's rows that are seen in a step", above=0, most=1)
    learning_rate: float = option(1e-3, "of AdamW", above=0, most=1)
    weight_decay: float = option(0.01, "of AdamW", least=0)
    epochs: int = option(40, "epochs at most", least=1)
    patience: int = option(8, "epochs without a lower loss on the pairs held out for stopping", least=1)
    batch: int = option(32, "pairs a step", least=1)
    hold_out: float = option(0.2, "share of pairs for stopping, and as many for the figures", above=0, most=0.4)
    least_auroc: float = option(0.75, "what is refused below", least=0.5, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.until, str) and not 0 < self.until <= self.threshold:
            raise InputError(f"until={self.until}: write a probability above 0 and up to threshold={self.threshold}")
        if self.width % self.heads:
            hint = f"write a multiple, e.g. {4 * self.heads}"
            raise InputError(f"width={self.width} does not divide into heads={self.heads}: {hint}")

    @property
    def way(self) -> Along:
        """Along which way prompts are refined."""
        return self.along or _ALONG[self.preset]

    @property
    def limit(self) -> float:
        """The logit of the threshold."""
        return _logit(self.threshold)

    def stop(self, typical: float) -> float:
        """The logit down to which a prompt is refined, for a classifier with a typical logit of prompts without."""
        if self.until == "typical":
            return min(typical, self.limit)
        return self.limit if isinstance(self.until, str) else _logit(self.until)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))
