"""Options of Semantic Surgery, and the two forms that it has: as published, and as recommended here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from efface.core.config import Config, option
from efface.diffusion.text.semantic_surgery.biopsy import Score

Preset = Literal["recommended", "published"]
Towards = Literal["anchor", "neutral"]
"""`"anchor"`: what a concept has that its anchor has not is taken out, by kind of row (see `Contrast`); `"neutral"`:
what all active words in one prompt have that the neutral prompt has not, which all words have in large part."""

Order = Literal["present", "listed"]
"""Which active word comes first: the most present one, or the one that was named first."""


class Form(NamedTuple):
    """What a preset stands for."""

    scores: tuple[Score, ...]
    candidates: tuple[Score, ...]
    towards: Towards
    order: Order


PRESETS: Mapping[Preset, Form] = {
    "recommended": Form(("last", "per-token"), get_args(Score), "anchor", "present"),
    "published": Form(("per-token",), (), "neutral", "listed"),
}
"""Of several scores a gate has the first by which its calibration tells prompts apart, unless it errs clearly more
often than another candidate (see `choosing`)."""


@dataclass(frozen=True, kw_only=True)
class SemanticSurgeryConfig(Config):
    """Options of Semantic Surgery; where one is None, it is the preset's. The paper's thresholds are .06 to .30."""

    preset: Preset = option("recommended", "ours, or the released code's")
    threshold: float | Literal["auto"] = option(
        "auto", "beta; 'auto' calibrates it on templates with the concept against those with anchor and preserve"
    )
    sharpness: float = option(0.02, "gamma, where the threshold is given", above=0)
    score: Score | None = option(
        None, "which cosine of a prompt with the word's direction; None lets calibration choose"
    )
    towards: Towards | None = option(None, "what the concept's direction starts from")
    order: Order | None = option(None, "which active word comes first")
    active_from: float = option(0.5, "tau: the presence from which on a word is active", above=0, below=1)

    @property
    def form(self) -> Form:
        """The preset's form, with what was given in its place."""
        form = PRESETS[self.preset]
        scores = form.scores if self.score is None else (self.score,)
        candidates = form.candidates if self.score is None else ()
        return Form(scores, candidates, self.towards or form.towards, self.order or form.order)
