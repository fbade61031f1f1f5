"""One concept at a time, with each anchor: the table of each method, and what SELECT gains over fixed anchors."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._measure import table
from benchmarks._seen import HEADER, OTHER_SEEDS, PLAIN, Asked, Cells, Seen, bases, drawn, making, shares, spread
from benchmarks._studio import Studio
from efface import Concept, erase
from efface.diffusion.anchors.anchors import Anchors
from efface.diffusion.anchors.fixed import fixed_anchor
from efface.diffusion.anchors.selection import Selector
from efface.diffusion.anchors.soft import soft_anchor

FIXED = ('""', "parent", "random sibling")
ALONE, SELECT = "SELECT", "SELECT + boundary"
ORDER, FEW = 5, 2
_RETAINED = 8
_CONTEXT, _COHERENCE, _NEAREST, _FARTHEST = "most context", "most coherence", "nearest", "farthest"
_OPPOSED = ((_CONTEXT, _COHERENCE), (_NEAREST, _FARTHEST))

PARENTS = {
    "animal-bug": "insect",
    "animal-marine": "sea animal",
    "plant-other": "plant",
    "food-prepared": "food",
    "food-asian": "food",
    "food-sweet": "dessert",
    "place-map": "map",
    "place-geographic": "landscape",
    "place-religious": "building",
    "place-other": "place",
    "transport-ground": "vehicle",
    "transport-water": "boat",
    "transport-air": "aircraft",
    "hotel": "object",
    "time": "clock",
    "sky-weather": "weather",
    "award-medal": "award",
    "arts-crafts": "tool",
    "phone": "telephone",
    "light-video": "device",
    "book-paper": "paper",
    "writing": "stationery",
    "office": "stationery",
    "science": "instrument",
    "medical": "medicine",
    "other-object": "object",
}
"""What the members of a subgroup are, where its last word does not say it."""


def parent_of(studio: Studio, name: str) -> str:
    """What a concept is a kind of: its group, in the world's own words or ours."""
    concept = studio.world.concept(name)
    subgroup = getattr(concept, "subgroup", "")
    return PARENTS.get(subgroup) or subgroup.rpartition("-")[2] or concept.factor


def family(studio: Studio, name: str) -> list[str]:
    """What can stand in a concept's place: its siblings, or of a small world all others of its factor."""
    siblings = studio.world.siblings(name)
    return [*siblings] if len(siblings) > FEW else [*studio.world.others(name)]


def anchored(studio: Studio, name: str, soft: bool) -> dict[str, Anchors]:
    """The choices for a concept, by the kind of anchor."""
    view, siblings = studio.view, family(studio, name)
    found = {'""': fixed_anchor(view, name, "empty")}
    found["parent"] = fixed_anchor(view, name, "parent", siblings, parent=parent_of(studio, name))
    found["random sibling"] = fixed_anchor(view, name, "random-sibling", siblings)
    if soft:
        found["AGE"] = soft_anchor(view, name, lambda c: erase(view, c, "uce"), siblings, rounds=2)
    options = {} if studio.world.siblings(name) == tuple(siblings) else {"boundary": FEW}  # some must be left
    return found | {SELECT: Selector.of(view, options).choose(Concept(name), [name], siblings, None, None, None)}


def cast(studio: Studio, name: str, chosen: Mapping[str, Anchors], each: int = 2) -> tuple[Asked, list[str]]:
    """The words that are drawn beside a concept, and strangers that all preserve; nobody's choice is among them."""
    boundary = chosen[SELECT].boundary
    named = {name, parent_of(studio, name), *boundary, *(each.anchor for each in chosen.values())}
    beside = dict.fromkeys((*studio.world.siblings(name), *family(studio, name)))
    near = [word for word in beside if word not in named][:each]
    out = {*studio.world.siblings(name), *named, *near}
    far = [word for word in studio.others_of(name) if word not in out]
    strangers = [word for word in studio.world.values_of(name) if word not in {*out, *far[-each:]}]
    kept = random.Random(ORDER).sample(strangers, min(_RETAINED, len(strangers)))
    return Asked([name], near, boundary[: each // 2], far[-each:]), kept


def ablated(chosen: Anchors) -> dict[str, str]:
    """Other anchors among the candidates that pass SELECT's filters: by one stage alone, and by nearness alone."""
    passed = [row for row in chosen.table if row.score is not None]

    def most(score: str, sign: int = 1) -> str:
        return max(passed, key=lambda row: (sign * (getattr(row, score) or 0.0), row.word)).word

    found = {_CONTEXT: most("context"), _COHERENCE: most("coherence")}
    return found | {_NEAREST: most("near"), _FARTHEST: most("near", -1)}


def choice(
    studio: Studio,
    cells: Cells,
    methods: Sequence[str],
    names: Sequence[str],
    images: int,
    soft: bool,
    ablate: bool = False,
    each: int = 2,
    distance: bool = True,
) -> None:
    """The table of each method, and what SELECT gains over the best fixed anchor."""
    found: dict[tuple[str, str], list[Seen]] = {}
    lines = []
    for name in names:
        chosen: dict[str, Anchors] = cells.get(("anchors", name, soft), lambda name=name: anchored(studio, name, soft))
        asked, kept = cast(studio, name, chosen, each)
        cells.words(studio, [name])
        lines.append(f"{name}: " + ", ".join(f"{kind} {each.anchor!r}" for kind, each in chosen.items()))
        lines[-1] += f"; boundary {', '.join(chosen[SELECT].boundary)}; near {', '.join(asked.near)}"
        for kind, first in bases(images, distance):
            plain = cells.seen(
                ("choice", name, kind, asked),
                lambda asked=asked, first=first: drawn(studio, studio.plain, asked, images, first),
            )
            for method in methods:
                found.setdefault((method, kind), []).append(plain)
        concepts = {kind: Concept(name, anchor=each.anchor, preserve=kept) for kind, each in chosen.items()}
        concepts = {(ALONE if kind == SELECT else kind): concept for kind, concept in concepts.items()}
        concepts[SELECT] = chosen[SELECT].fill(Concept(name, preserve=kept))
        others = ablated(chosen[SELECT]) if ablate else {}
        concepts |= {kind: Concept(name, anchor=word, preserve=kept) for kind, word in others.items()}
        lines[-1] += "".join(f"; {kind} {word!r}" for kind, word in others.items())
        for method in methods:
            for kind, concept in concepts.items():
                key = ("choice", name, method, kind, concept, asked)
                make = making(studio, concept, method, asked, images)
                found.setdefault((method, kind), []).append(cells.seen(key, make))
        print(f"{len(lines)} of {len(names)}: {lines[-1]} ({time.process_time():.0f} CPU-s)", flush=True)
    _tables(studio, cells, methods, found, names, images)


def _tables(
    studio: Studio,
    cells: Cells,
    methods: Sequence[str],
    found: Mapping[tuple[str, str], list[Seen]],
    names: Sequence[str],
    images: int,
) -> None:
    kinds = list(dict.fromkeys(kind for _, kind in found))
    gains, opposed = [], []
    for method in methods:
        of = {kind: _together(found[method, kind]) for kind in kinds}
        best = max(FIXED, key=lambda kind, of=of: of[kind].average)
        against = [kind for kind in of if kind not in (OTHER_SEEDS, PLAIN, ALONE, SELECT)]
        for kind in against:
            name = f"{kind} (the best fixed)" if kind == best else kind
            gains.append((method, name, spread(of[ALONE], of[kind]), spread(of[SELECT], of[kind])))
        rows = [(kind, *shares(seen, of.get(OTHER_SEEDS))) for kind, seen in of.items() if kind != OTHER_SEEDS]
        table(f"{method} on {studio.world.name}, {len(names)} concepts x {images} images, per cent", HEADER, rows)
        pictures = [(kind, torch.stack([seen.pictures[0] for seen in found[method, kind]])) for kind in kinds]
        words = [(f"{kind}, other words", torch.stack([s.pictures[1] for s in found[method, kind]])) for kind in kinds]
        cells.picture(f"choice-{method}", [*pictures, *words])
        for one, other in _OPPOSED:
            if {one, other} <= {*of}:
                opposed.append((method, f"{one} less {other}", spread(of[one], of[other])))
    table("SELECT less other anchors, H", ("method", "anchor", f"{ALONE} less it", f"{SELECT} less it"), gains)
    if opposed:
        table("Stages and nearness, H", ("method", "anchors", "difference"), opposed)


def _together(each: Sequence[Seen]) -> Seen:
    """Concepts that were erased one at a time as one: of the words beside each the mean, where it has any."""
    shares = ("erased", "reworded", "near", "told", "far", "rest", "unsaid")
    parts: dict[str, Any] = {part: np.array([_mean(getattr(seen, part)) for seen in each]) for part in shares}
    for part in ("near", "told", "far"):  # who has none says nothing of it
        there = parts[part][~np.isnan(parts[part])]
        parts[part] = np.where(np.isnan(parts[part]), there.mean(), parts[part]) if len(there) else there
    return Seen(**parts, kept=torch.cat([s.kept for s in each]), pictures=torch.cat([s.pictures for s in each]))


def _mean(part: NDArray[np.float64]) -> float:
    return float(part.mean()) if len(part) else float("nan")
