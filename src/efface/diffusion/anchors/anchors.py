"""The anchors that were chosen for a concept, and why: a value that fills a concept."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from efface._errors import InputError
from efface.core.concept import Concept, ConceptLike, word_key
from efface.core.doors import check_call, check_fields

Role = Literal["anchor", "boundary", "kept", "dropped"]
"""What became of a candidate: what to show instead; to be kept beside it; neither; left out by a filter."""

_COLUMNS = ("near", "sibling", "exclusive", "context", "coherence", "score")


@dataclass(frozen=True)
class Candidate:
    """One candidate, what was found out about it, and what became of it; None where it was not asked any more.

    Attributes:
        word: The word.
        source: Where it comes from.
        role: What became of it.
        why: The reason, in words.
        near: How near it is to the concept, next to any word: 0 is any word, 1 the concept.
        sibling: The same of the middle of the family.
        exclusive: How much of what tells the concept from its family it has too: 1 is the concept itself.
        context: Stage one: how alike the words around it are to the denoiser, next to the concept's.
        coherence: Stage two: how near its whole prompt is to the family's.
        score: Stage one times stage two.
    """

    word: str
    source: str
    role: Role
    why: str
    near: float | None = None
    sibling: float | None = None
    exclusive: float | None = None
    context: float | None = None
    coherence: float | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Anchors:
    """What to show in place of a concept, and what to keep beside it.

    Attributes:
        concept: Name of the concept.
        anchor: The word to show instead; may be empty or a space, which mean nothing.
        boundary: The nearest words that are not the concept: where an erasure does harm first.
        table: Every candidate, the best first, then those dropped.
        how: How they were chosen.
        sense: Which meaning of the concept was taken, where WordNet was asked.

    >>> chosen = Anchors("cat", "dog", ("lion",), how="by hand")
    >>> chosen.fill("cat").anchor, chosen.fill("cat").preserve
    ('dog', ('lion',))
    """

    concept: str
    anchor: str
    boundary: tuple[str, ...] = ()
    table: tuple[Candidate, ...] = ()
    how: str = ""
    sense: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "boundary", tuple(self.boundary))
        object.__setattr__(self, "table", tuple(self.table))
        if self.anchor in self.boundary:
            raise InputError(f"the anchor {self.anchor!r} is in the boundary: the boundary is what is left beside it")

    def fill(self, concept: ConceptLike) -> Concept:
        """The concept with the anchor, and with the boundary among what it preserves; all else stays.

        Args:
            concept: The concept that these were chosen for.

        Raises:
            InputError: If it is another one, or erases the anchor or what is in the boundary.
        """
        check_call(Anchors.fill, locals())
        found = Concept.of(concept)
        if word_key(found.name) != word_key(self.concept):
            raise InputError(f"these anchors were chosen for {self.concept!r}, not for {found.name!r}: choose anew")
        known = {word_key(word) for word in found.preserve}
        more = [word for word in self.boundary if word_key(word) not in known]
        return dataclasses.replace(found, anchor=self.anchor, preserve=(*found.preserve, *more))

    @property
    def relations(self) -> dict[str, str]:
        """Relation of each word to the concept: the anchor, the boundary and what else passed are its siblings."""
        passed = [each.word for each in self.table if each.role == "kept"]
        return dict.fromkeys((*filter(str.strip, [self.anchor]), *self.boundary, *passed), "sibling")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table as plain data, a dictionary a candidate: `pandas.DataFrame(anchors.rows)`."""
        return [dataclasses.asdict(each) for each in self.table]

    def __str__(self) -> str:
        head = [f"{self.concept} -> {self.anchor!r}; boundary: {', '.join(self.boundary) or 'none'}"]
        head += [f"({self.how})"] * bool(self.how) + [f"meaning: {self.sense}"] * bool(self.sense)
        if not self.table:
            return "\n".join(head)
        cells = [["candidate", *_COLUMNS, "role", "why"]]
        for each in self.table:
            numbers = [getattr(each, name) for name in _COLUMNS]
            shown = ["" if n is None else f"{n:.3f}" for n in numbers]
            cells.append([each.word, *shown, each.role, each.why])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(_aligned(row, widths)) for row in cells]
        return "\n".join([*head, *(line.rstrip() for line in lines)])


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    """Cells of equal width: words to the left, numbers to the right."""
    numbers = range(1, 1 + len(_COLUMNS))
    return [c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
