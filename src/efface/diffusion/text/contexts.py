"""The prompts that a concept is learnt from: its words, and others in their place, in templates."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from efface._errors import EffaceWarning, InputError
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


Others = Callable[[Concept], Sequence[str]]
"""The words that a concept is told from."""


def check_others(concepts: Sequence[Concept], aim: str, otherwise: str, others: Others = others_of) -> None:
    """Refuse concepts that are to be told from others, and name none.

    Args:
        concepts: The concepts.
        aim: What for, with `{}` for their names.
        otherwise: What may be done instead.
        others: Which words count.

    Raises:
        InputError: If one names none.
    """
    if bare := _bare(concepts, others):
        raise InputError(
            f"there is nothing to {aim.format(bare)}: name what has to stay, Concept(..., preserve=[siblings and "
            f"others]), or what to show instead, anchor=..., or {otherwise}"
        )


def warn_of_no_anchor(concepts: Sequence[Concept], so: str, others: Others = others_of, *, stacklevel: int = 4) -> bool:
    """Whether a concept names nothing that could be shown in its place; if so, it is told, with what comes of it."""
    bare = _bare(concepts, others)
    if bare:
        warnings.warn(
            f"there is nothing to show in place of {bare}, so {so}: name what to show, Concept(..., anchor=...), or "
            "what has to stay, preserve=[...], of which the nearest is taken",
            EffaceWarning,
            stacklevel=stacklevel,
        )
    return bool(bare)


def _bare(concepts: Sequence[Concept], others: Others) -> str:
    return ", ".join(each.name for each in concepts if not others(each))


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
