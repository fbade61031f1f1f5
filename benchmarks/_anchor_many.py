"""Many concepts at once: each method with each choice of anchors, and how far SPEED's ways let the concepts move."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from benchmarks._anchor_choice import ALONE, ORDER, SELECT, parent_of
from benchmarks._measure import table
from benchmarks._seen import HEADER, OTHER_SEEDS, PLAIN, Asked, Cells, Seen, bases, drawn, making, shares, spread
from benchmarks._studio import Studio
from efface import Concept, InputError, erase
from efface.diffusion.anchors.anchors import Anchors
from efface.diffusion.anchors.fixed import fixed_anchor
from efface.diffusion.anchors.selection import Selector, apart
from efface.diffusion.weights.closed_form import all_rows
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.projections import Stream, streams_of
from efface.diffusion.weights.rows import Phrase, Span
from efface.diffusion.weights.speed import WAYS

PARENT, SIBLING = "parent", "random sibling"
KINDS = (PARENT, SIBLING, ALONE, SELECT)
AS_RELEASED = "speed@key_span=last+null_of=all+least_free=0+filtered=true"
"""SPEED with the rows that its released code edits, its filter, and a null space of all rows together."""

_SHOWN, _BESIDE = 16, 8
_RETAINED = 32


@dataclass(frozen=True)
class Crowd:
    """Concepts that are erased together.

    Attributes:
        names: The concepts.
        chosen: SELECT's anchors for them; none where no table asks for these.
        spent: CPU seconds of that choice.
        order: All of the world's, in an order by seed.
    """

    names: Sequence[str]
    chosen: Sequence[Anchors]
    spent: float
    order: Sequence[str]

    def cast(self, studio: Studio) -> tuple[Asked, list[str]]:
        """The words that are drawn, and strangers that are preserved; nobody's choice is among the others drawn."""
        boundary = {word for each in self.chosen for word in each.boundary}
        named = {*self.names, *boundary, *self.parents(studio).values(), *(each.anchor for each in self.chosen)}
        every = list(dict.fromkeys(word for name in self.names for word in studio.world.siblings(name)))
        near = _some([word for word in every if word not in named], _BESIDE)
        strangers = [word for word in self.order if word not in named and word not in every]
        if len(strangers) < _BESIDE + _RETAINED:  # nearly all groups have one that is erased
            strangers = [word for word in self.order if word not in {*named, *near}]
        far = _some(strangers, _BESIDE)
        kept = _some([word for word in strangers if word not in far], _RETAINED)
        told = _some(sorted(boundary & set(self.order)), _BESIDE // 2)
        return Asked(_some(self.names, _SHOWN), near, told, far), kept

    def parents(self, studio: Studio) -> dict[str, str]:
        """What each is a kind of; where that is erased, too, a thing."""
        found = {name: parent_of(studio, name) for name in self.names}
        return {name: "thing" if parent in self.names else parent for name, parent in found.items()}

    def concepts(self, studio: Studio, kinds: Sequence[str]) -> tuple[dict[str, list[Concept]], Asked]:
        """The concepts with each kind of anchor, and the words that are drawn."""
        asked, kept = self.cast(studio)
        first, *others = self.names
        given = {first: Concept(first, preserve=kept)} | {name: Concept(name) for name in others}
        parents = self.parents(studio)
        taken = {*self.names, *kept, *asked.near, *asked.far}
        anchors = {PARENT: parents}
        if SIBLING in kinds:
            anchors[SIBLING] = {name: _sibling(studio, name, taken) or parents[name] for name in self.names}
        if self.chosen:
            anchors[ALONE] = {name: each.anchor for name, each in zip(self.names, self.chosen, strict=True)}
        found = {
            kind: [Concept(name, anchor=of[name], preserve=given[name].preserve) for name in self.names]
            for kind, of in anchors.items()
        }
        if self.chosen:
            found[SELECT] = [each.fill(given[name]) for each, name in zip(self.chosen, self.names, strict=True)]
        return {kind: found[kind] for kind in kinds}, asked


def _sibling(studio: Studio, name: str, taken: set[str]) -> str | None:
    """A sibling at random that is neither erased, preserved nor drawn."""
    left = [word for word in studio.world.siblings(name) if word not in taken]
    try:
        return fixed_anchor(studio.view, name, "random-sibling", left).anchor if left else None
    except InputError:
        return None


def _some(words: Sequence[str], most: int) -> list[str]:
    return random.Random(ORDER).sample(list(words), min(most, len(words)))


def crowds(studio: Studio, cells: Cells, counts: Sequence[int], last: bool, select: bool) -> list[Crowd]:
    """The first n of the world's concepts in an order by seed, or the last, with SELECT's choices for them."""
    world = studio.world
    every = [n for n in world.values_of(world.shown[0]) if not getattr(world.concept(n), "profession", None)]
    order = random.Random(ORDER).sample(every, len(every))
    order = order[::-1] if last else order
    found = []
    for count in counts:
        names = order[:count]
        chosen: tuple[tuple[Anchors, ...], float] = (), 0.0
        if select:
            chosen = cells.get(("many anchors", *names), lambda names=names: selected(studio, names))
            print(f"{count}: " + "; ".join(f"{each.concept} -> {each.anchor}" for each in chosen[0]), flush=True)
        found.append(Crowd(names, *chosen, order))
    return found


def selected(studio: Studio, names: Sequence[str]) -> tuple[tuple[Anchors, ...], float]:
    """SELECT's choices that go together, among siblings, or where none is left the vocabulary; and CPU seconds."""
    start = time.process_time()
    selector = Selector.of(studio.view, {})
    found = []
    for name in names:
        siblings: Any = [word for word in studio.world.siblings(name) if word not in names]
        try:
            chosen = selector.choose(Concept(name), names, siblings or "vocabulary", None, None, None)
        except InputError:
            chosen = selector.choose(Concept(name), names, "vocabulary", None, None, None)
        found.append(chosen)
    return apart(found), time.process_time() - start


def many(
    studio: Studio,
    cells: Cells,
    methods: Sequence[str],
    kinds: Sequence[str],
    of: Sequence[Crowd],
    images: int,
    distance: bool = True,
) -> None:
    """Each method with each kind of anchors, of n concepts at once."""
    for crowd in of:
        concepts, asked = crowd.concepts(studio, kinds)
        cells.words(studio, asked.names)
        count = len(crowd.names)
        found: dict[tuple[str, str], Seen] = {}
        for kind, first in bases(images, distance):
            found["", kind] = cells.seen(
                ("many", count, kind, asked),
                lambda asked=asked, first=first: drawn(studio, studio.plain, asked, images, first),
            )
        released = [(AS_RELEASED, PARENT)] * ("speed" in methods and PARENT in concepts)
        for method, kind in [*released, *((method, kind) for method in methods for kind in concepts)]:
            key = ("many", count, method, kind, concepts[kind], asked)
            found[method, kind] = cells.seen(key, making(studio, concepts[kind], method, asked, images))
            print(f"{count} {method} {kind}: {spread(found[method, kind])}", flush=True)
        _tables(cells, found, asked, crowd, images)


def _tables(cells: Cells, found: Mapping[tuple[str, str], Seen], asked: Asked, crowd: Crowd, images: int) -> None:
    other = found.get(("", OTHER_SEEDS))
    rows = []
    for (method, kind), seen in found.items():
        if kind != OTHER_SEEDS:
            chose = crowd.spent * (kind in (ALONE, SELECT))
            seconds = f"{chose:.1f} + {seen.cost['seconds']:.2f}" if seen.cost else ""
            size = f"{seen.cost['bytes'] / 2**20:.2f}" if seen.cost else ""
            rows.append((method, kind, *shares(seen, other), seconds, size))
    words = f"{len(asked.names)} drawn, {len(asked.near)} near, {len(asked.far)} far"
    header = ("method", *HEADER, "CPU-s", "MiB")
    table(f"{len(crowd.names)} concepts at once; {words}, {images} images a word", header, rows)
    for against in (("speed", PARENT), (AS_RELEASED, PARENT)):
        if against in found:
            less = [(m, k, spread(s, found[against])) for (m, k), s in found.items() if m and (m, k) != against]
            table(f"H less that of {against[0]} with parents", ("method", "anchor", "more"), less)
    n = len(asked.names)
    shown = [*range(min(n, 8)), *range(n, n + min(n, 4)), *range(2 * n, len(found["", PLAIN].pictures))][:24]
    cells.picture(f"many-{len(crowd.names)}", [(f"{m} {k}", seen.pictures[shown]) for (m, k), seen in found.items()])


# ------------------------------------------------------------------------------------------- how far they move


def reached(studio: Studio, kinds: Sequence[str], of: Sequence[Crowd]) -> None:
    """By each of SPEED's ways, how far the concepts' keys move of how far they would, and values of words.

    Of the concepts and the preserved words those of their own last rows, of the others of all rows from these on.
    """
    moves = ("concepts' own", "preserved own", "preserved", "near", "far")
    header = ("n", "anchor", "preserved", *asdict(WAYS[0]), "reached", *moves)
    streams = streams_of(studio.view, "values")
    rows = []
    for crowd in of:
        concepts, asked = crowd.concepts(studio, kinds)
        for kind, some in concepts.items():
            kept = [word for each in some for word in each.preserve]
            told: list[Sequence[str]] = [crowd.names, kept, kept, asked.near, asked.far]
            spans: list[Span] = ["last", "last", "last_to_end", "last_to_end", "last_to_end"]
            groups = [
                all_rows(studio.view, streams, [Phrase(word, word) for word in words], span)
                for words, span in zip(told, spans, strict=True)
            ]
            for way in WAYS:
                erasure = erase(studio.view, some, "speed", **asdict(way))
                by = sorted(fact["reached"] for fact in erasure.report["layers"].values())
                by_words = [f"{_moved(studio, streams, erasure, words):.2f}" for words in groups]
                of_way = (*asdict(way).values(), f"{by[len(by) // 2]:.2f}")
                rows.append((len(crowd.names), kind, len(kept), *of_way, *by_words))
    table("SPEED: what moves; values in lengths of themselves", header, rows)


def _moved(studio: Studio, streams: Sequence[Stream], erasure: WeightErasure, rows: Sequence[Tensor]) -> float:
    """Mean length by which values of rows move, in lengths of these values, in the middle of the matrices."""
    before = [{path: w.double() for path, w in stream.weights.items()} for stream in streams]
    with erasure.on(studio.view):
        after = [{path: w.double() for path, w in stream.weights.items()} for stream in streams]
    found = []
    for x, old, new in zip(rows, before, after, strict=True):
        for path, w in old.items():
            found.append(float(((x @ (new[path] - w).mT).norm(dim=1) / (x @ w.mT).norm(dim=1)).mean()))
    return sorted(found)[len(found) // 2]
