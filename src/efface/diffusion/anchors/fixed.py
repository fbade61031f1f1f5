"""The anchors that are in use where nobody chooses: what a choice has to beat."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any, Literal

from efface._errors import InputError
from efface.core.concept import Concept, ConceptLike
from efface.core.doors import check_call, check_word
from efface.diffusion.anchors.anchors import Anchors
from efface.diffusion.anchors.candidates import ruled_out
from efface.diffusion.anchors.selection import Selector, Source

Fixed = Literal["empty", "space", "parent", "random-sibling"]
"""`""`; `" "`, which some tokenizers read otherwise; what the concept is a kind of; any word beside it."""

_PLAIN: dict[str, str] = {"empty": "", "space": " "}


def fixed_anchor(
    pipe: Any,
    concept: ConceptLike,
    kind: Fixed,
    candidates: Source | Sequence[str] = "wordnet",
    *,
    parent: str | None = None,
    synset: str | None = None,
    wordnet: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Anchors:
    """An anchor by a rule that looks at no score, without a boundary.

    Args:
        pipe: A pipeline, or a view of it.
        concept: The concept.
        kind: Which rule.
        candidates: Of what a random sibling is one; as in `select_anchors`, which say the parent too.
        parent: What the concept is a kind of.
        synset: As in `select_anchors`.
        wordnet: As in `select_anchors`.
        seed: Which of the siblings.

    Raises:
        InputError: If there is no such rule, no parent, or no candidate that words alone do not rule out.
    """
    check_call(fixed_anchor, locals())
    check_word(kind, Fixed, "kind")
    single = Concept.of(concept)
    if kind in _PLAIN:
        return Anchors(single.name, _PLAIN[kind], how=f"fixed: {kind}")
    if kind == "parent" and parent is not None:
        return Anchors(single.name, parent, how="fixed: parent")
    selector = Selector.of(pipe, {})
    pool = selector.pool(single, candidates, parent, synset, wordnet)
    if kind == "parent":
        if pool.parent is None:
            raise InputError(f"nobody says what {single.name!r} is a kind of: give parent=")
        return Anchors(single.name, pool.parent, how="fixed: parent, by WordNet", sense=pool.sense)
    out = ruled_out(pool, single, single.words, selector.vocabulary, selector.config.pieces)
    if not (left := sorted(set(pool.words) - set(out))):
        raise InputError(
            f"no sibling of {single.name!r} is left: {'; '.join(f'{w!r} {why}' for w, why in out.items())}"
        )
    return Anchors(single.name, random.Random(seed).choice(left), how=f"fixed: sibling {seed}", sense=pool.sense)
