"""What words are to a concept, says WordNet: who to look at where the concept is erased."""

from __future__ import annotations

import os
from collections.abc import Sequence

from efface._errors import InputError
from efface.core.doors import check_call
from efface.diffusion.anchors import wordnet


def wordnet_relations(
    concept: str,
    others: Sequence[str],
    *,
    synset: str | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> dict[str, str]:
    """Relation of each of some words to a concept: of all meanings of a word the nearest counts.

    `"alias"`: another word for it. `"superclass"` and `"subclass"`: what it is a kind of, and kinds of it. `"sibling"`:
    sister terms and their kinds. `"neighbour"`: cousins, two steps up. `"unrelated"`: all else, and what WordNet does
    not know.

    Args:
        concept: What is erased, a noun.
        others: The words.
        synset: WordNet's name of the meaning, `"mouse.n.04"`; None takes the most frequent.
        folder: Of a WordNet; None looks for one.

    Raises:
        InputError: If WordNet does not know the concept or the synset.
        MissingExtraError: If there is no WordNet, or nltk is not installed.
    """
    check_call(wordnet_relations, locals())
    if synset is None:
        known = wordnet.meanings(concept, folder)
        if not known:
            raise InputError(f"WordNet does not know {concept!r}: write synset= of what is meant, or relations by hand")
        synset = known[0].name
    found = dict.fromkeys(others, "unrelated") | wordnet.related(synset, others, folder)
    return {**found, **dict.fromkeys({concept} & {*others}, "target")}
