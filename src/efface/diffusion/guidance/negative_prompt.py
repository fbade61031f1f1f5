"""The negative prompt: the baseline that every paper forgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.edits import OnText
from efface.core.erasure import Erasure
from efface.core.method import Method, register
from efface.core.run import Run
from efface.diffusion.format_1 import rest_of, upgraded_erasure
from efface.diffusion.guidance.away import check_guided, tell_unguided, text_of, with_negative
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView

NAME = "negative-prompt"


@dataclass(frozen=True, kw_only=True)
class NegativePromptConfig(Config):
    """Options of the negative prompt."""

    text: str | None = option(None, "the negative prompt; None takes all words with commas between them")


@dataclass(frozen=True, eq=False, repr=False)
class NegativePromptErasure(Erasure):
    """Guide away from the concept: where classifier-free guidance has the empty prompt, it has the concept.

    The prediction is `e(concept) + s (e(prompt) - e(concept))` instead of `e("") + s (e(prompt) - e(""))` (Ho and
    Salimans, arXiv:2207.12598, with the negative prompt in place of the unconditional branch). It costs nothing. A
    negative prompt of the user's own stays: the concept is written behind it.

    Does not guarantee: anything where there is no guidance (scale 1 or less, distilled models), which is warned of or
    refused; nor that the concept is unknown to the model: it is guided away from, and a user of the weights can leave
    that out. Where the user hands in `negative_prompt_embeds`, whose text is not known, they are replaced.

    Attributes:
        text: The negative prompt.
    """

    text: str
    config: NegativePromptConfig = field(default=NegativePromptConfig(), kw_only=True, repr=False)

    @property
    def edits(self) -> tuple[OnText, ...]:
        """The negative branch, replaced."""
        return (OnText(self.edited, suits=partial(check_guided, method=NAME)),)

    def edited(self, embedding: PromptEmbedding, run: Run) -> PromptEmbedding | None:
        """The prompts with the concept in their negative prompt; None without guidance."""
        if embedding.negative is None:
            return tell_unguided(self, run, len(embedding))
        run.count("prompts", len(embedding))
        return with_negative(embedding, self.text, run.view)

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Data of format 1 as those of today."""
        config = {"text": plain["text"], **rest_of(plain, "text")}
        return upgraded_erasure(plain, config, text=plain["text"]), tensors


def fit(view: PipelineView, concepts: Sequence[Concept], config: NegativePromptConfig) -> NegativePromptErasure:
    """Nothing is learnt.

    Raises:
        InputError: If the pipeline has no negative prompt, or does not know the words.
    """
    check_guided(view, NAME)
    text = text_of(view, concepts, config.text)
    return NegativePromptErasure(text, method=NAME, concepts=tuple(concepts), config=config)


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="the concept as negative prompt of classifier-free guidance",
        paper="arXiv:2207.12598",
        fit=fit,
        erasure=NegativePromptErasure,
        config=NegativePromptConfig,
        reads=("synonyms",),
        reads_with=lambda config, data: () if config.text is not None else ("synonyms",),
        access=("prompts",),
        access_on=("prompts", "embeddings"),
        guarantee="the same pictures as with this negative prompt, bit for bit, at no cost",
        no_guarantee="anything without guidance, or against who leaves this out",
    )
)
