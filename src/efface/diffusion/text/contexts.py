"""The prompts that a concept is learnt from: its words, and others in their place, in templates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from efface._errors import InputError
from efface.core.concept import TEMPLATES, Concept
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView

GENERAL = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a picture of {}",
    "a drawing of a {}",
    "a {} object",
    "an image in the style of {}",
)
"""Templates for any word, a thing's name or an attribute, where the concept has none of its own, or too few.

All are short: scores of prompts with and without a concept then lie far apart, and a threshold between them fits
longer prompts too, in which both lie nearer.
"""

_FEWEST = 5
_AT_ONCE = 32


def templates_of(concept: Concept) -> tuple[str, ...]:
    """A concept's own templates; the general ones where it names none, and beside its own where these are under 5.

    >>> templates_of(Concept("star")) == GENERAL, len(templates_of(Concept("star", templates=["one {}"])))
    (True, 9)
    """
    if tuple(concept.templates) == TEMPLATES:
        return GENERAL
    own = tuple(dict.fromkeys(concept.templates))
    return own if len(own) >= _FEWEST else tuple(dict.fromkeys((*own, *GENERAL)))


def others_of(concept: Concept) -> tuple[str, ...]:
    """The words that a concept is told from: its anchor, and what it is to leave alone."""
    return tuple(dict.fromkeys(word for word in (concept.anchor, *concept.preserve) if word))


def filled(templates: Sequence[str], words: Sequence[str]) -> list[str]:
    """Every template with every word, each prompt once."""
    return list(dict.fromkeys(template.replace("{}", word) for template in templates for word in words))


class Encoded:
    """Prompts, each encoded once.

    Attributes:
        view: The pipeline.
        all: Their embeddings.
        row: Prompt -> its place among them.
    """

    def __init__(self, view: PipelineView, texts: Sequence[str]) -> None:
        self.view = view
        self.row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        each = list(self.row)
        # Templates may have words that a small tokenizer does not know: they are the same in all prompts compared.
        parts = [view.encode(each[i : i + _AT_ONCE], allow_unknown=True) for i in range(0, len(each), _AT_ONCE)]
        self.all = PromptEmbedding.cat(part.replace(negative=None) for part in parts)
        for name, value in self.all.tensors().items():
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"the {name} of {each[:3]} is not finite: convert the text encoder to float32")

    def of(self, texts: Sequence[str]) -> PromptEmbedding:
        """The embeddings of some of them, in this order."""
        at = torch.tensor([self.row[text] for text in texts])
        changed: dict[str, Any] = {name: value[at.to(value.device)] for name, value in self.all.tensors().items()}
        return dataclasses.replace(self.all, **changed, prompts=tuple(texts))
