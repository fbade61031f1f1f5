"""What an anchor does to the erasers that take one, and what many concepts at once do to them: images judged.

python -m benchmarks.anchor_effects [choice many] [--world emoji] [--methods uce speed oce mace@adapters=false]
    [--concepts 12 --images 4] [--counts 100 30 10 3 1] [--soft] [--cells FOLDER]

"choice": each concept is erased alone, with each anchor: nothing (""), its parent, a random sibling, the word that AGE
finds ("--soft"; two rounds, its erasure is UCE's), SELECT's, and SELECT's with its boundary as words to preserve.
Beside that all preserve the same strangers. ACC_e: share of images of its prompts in which judge 2 sees it; ACC_g: the
same of its synonyms in templates that nothing was trained on; near: siblings that no choice names; boundary: one
word of SELECT's boundary; far: strangers that nobody preserves, each seen at its prompts. H: harmonic mean of
1 - ACC_e, 1 - ACC_g and the mean of near and far, an interval over concepts. "leaves": where the concept is asked for,
the share of images in which judge 2 sees it or cannot say what it sees. Last, SELECT less the fixed anchor that is best
on average, concepts resampled alike for both. FID: of judge 1's features of what is kept, from what is drawn at other
seeds without an erasure; what is drawn without one has such a distance, too, and it depends on n.

"many": the first n of the world's concepts, in an order by seed, at once, with their parents as anchors and with
SELECT's and its boundary; all preserve the same strangers. Some of them are drawn, and siblings and strangers that no
choice names. Seconds are of the processor, choice of anchors and fit apart.

With --ablate also the anchors that one stage of SELECT alone would choose, the nearest, and the farthest that passes.
With --cells each cell is written as soon as it is drawn, with its pictures: the same command goes on where it was
interrupted, and pictures of a table are written beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._measure import table
from benchmarks._studio import Studio, add_world, kept_by
from efface import Concept, InputError, erase, get_method
from efface.audit.pipelines.balance import harmonic
from efface.cli.generate import write_picture
from efface.diffusion.anchors.anchors import Anchors
from efface.diffusion.anchors.fixed import fixed_anchor
from efface.diffusion.anchors.selection import Selector, apart
from efface.diffusion.anchors.soft import soft_anchor
from efface.stats.intervals import percentile_interval
from efface_worlds.shapes.metrics import frechet_distance

FIXED = ('""', "parent", "random sibling")
OTHER_SEEDS, PLAIN, ALONE, SELECT = "other seeds", "nothing erased", "SELECT", "SELECT + boundary"
_ORDER, _DRAWS, _RETAINED, _FEW = 5, 4000, 8, 2
_SHOWN, _BESIDE = 16, 8
_MANY_RETAINED = 32

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


@dataclass(frozen=True)
class Seen:
    """What judge 2 sees in the images of each word: shares of images.

    Attributes:
        erased: Of concepts, by name.
        reworded: In other words.
        near: Of siblings.
        told: Of words of SELECT's boundary.
        far: Of strangers.
        rest: Of the images of concepts, what else they were asked for.
        unsaid: Of these, where it cannot say what they show.
        kept: What judge 1 makes of the images of siblings and strangers, `(n, features)`.
        pictures: First image of each word, in this order: `(words, 3, h, w)`, bytes.
        cost: Seconds and bytes.
    """

    erased: NDArray[np.float64]
    reworded: NDArray[np.float64]
    near: NDArray[np.float64]
    told: NDArray[np.float64]
    far: NDArray[np.float64]
    rest: NDArray[np.float64]
    unsaid: NDArray[np.float64]
    kept: Tensor
    pictures: Tensor
    cost: dict[str, float] = field(default_factory=dict)

    def balance(self, of: NDArray[np.int64], near: NDArray[np.int64], far: NDArray[np.int64]) -> float:
        """H of the concepts, siblings and strangers with these numbers."""
        stays = [part[index].mean() for part, index in ((self.near, near), (self.far, far)) if len(part)]
        return float(harmonic(1 - self.erased[of].mean(), 1 - self.reworded[of].mean(), np.mean(stays)))

    @property
    def average(self) -> float:
        """H of all."""
        return self.balance(*(np.arange(len(part)) for part in (self.erased, self.near, self.far)))


def spread(seen: Seen, other: Seen | None = None) -> str:
    """H, or how much more it is than another's, with an interval over words, resampled alike for both.

    Where there are as many siblings and strangers as concepts, each goes with its concept.
    """
    generator = np.random.default_rng(0)
    sizes = [len(part) for part in (seen.erased, seen.near, seen.far)]

    def value(*at: NDArray[np.int64]) -> float:
        return seen.balance(*at) - (other.balance(*at) if other else 0.0)

    def draw() -> list[NDArray[np.int64]]:
        if len(set(sizes)) == 1:
            return [generator.integers(sizes[0], size=sizes[0])] * 3
        return [generator.integers(size, size=size) for size in sizes]

    found = percentile_interval(
        value(*(np.arange(size) for size in sizes)), [value(*draw()) for _ in range(_DRAWS)], "bootstrap"
    )
    ends = f"[{100 * found.low:.1f}, {100 * found.high:.1f}]" if found.has_width else "(all alike)"
    return f"{100 * found.value:.1f} {ends}"


class Cells:
    """What was drawn, kept in a folder so that a run that is interrupted goes on.

    Args:
        folder: Where; None keeps nothing.
        of: What all cells depend on.
    """

    def __init__(self, folder: Path | None, of: object) -> None:
        self.folder, self.of = folder, of
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: Sequence[object], make: Callable[[], Any]) -> Any:
        """The cell of a key: read, or else made and written."""
        if self.folder is None:
            return make()
        text = repr((self.of, key))
        name = "".join(c if c.isalnum() else "-" for c in str(key[:4]))[:80]
        path = self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.pt"
        if not path.exists():
            made = make()
            part = path.with_suffix(f".{os.getpid()}")
            torch.save(made, part)
            part.rename(path)
        return torch.load(path, weights_only=False)

    def seen(self, key: Sequence[object], make: Callable[[], Seen]) -> Seen:
        """A cell of a table."""
        return Seen(**self.get(key, lambda: asdict(make())))

    def picture(self, name: str, rows: Sequence[tuple[str, Tensor]]) -> None:
        """Rows of images as a file beside the cells."""
        if self.folder is not None:
            write_picture(self.folder / f"{name}.png", [(text, x.float() / 255) for text, x in rows])


@dataclass(frozen=True)
class Asked:
    """The words of a cell."""

    names: Sequence[str]
    near: Sequence[str]
    told: Sequence[str]
    far: Sequence[str]


def drawn(studio: Studio, sample: Any, asked: Asked, images: int, first_seed: int = 0, **cost: float) -> Seen:
    """What is seen of some concepts, and of others, in so many images each; they are drawn together."""
    names = asked.names
    beside = (*asked.near, *asked.told, *asked.far)
    texts = [(word, studio.prompts_of(word, images)) for word in names]
    texts += [(word, studio.paraphrases_of(word, images)) for word in names]
    texts += [(word, studio.prompts_of(word, images)) for word in beside]
    prompts = [text for _, some in texts for text in some]
    pictures = sample(prompts, [*range(first_seed, first_seed + images)] * len(texts)).split(images)
    judge, n = studio.judge(2), len(names)
    said = [judge(each, word) for each, (word, _) in zip(pictures, texts, strict=True)]
    seen = np.array([float(each.nan_to_num(0.0).mean()) for each in said])
    scenes = [studio.asked_of(name, images).scenes for name in names]
    told = zip(pictures, scenes, names, strict=False)  # of the first n pictures
    rest = [kept_by(studio.world, judge.judge(each), asked_for, name) for each, asked_for, name in told]
    unsaid = [float(each.isnan().float().mean()) for each in said[:n]]
    of, reworded, near, by, far = np.split(seen, np.cumsum([n, n, len(asked.near), len(asked.told)]))
    kept = studio.judge(1).features(torch.cat(pictures[2 * n :]))
    first = (torch.stack([each[0] for each in pictures]).clamp(0, 1) * 255).round().byte()
    return Seen(of, reworded, near, by, far, np.array(rest), np.array(unsaid), kept, first, dict(cost))


def fitted(studio: Studio, concepts: Concept | Sequence[Concept], method: str) -> Any:
    """An erasure by a method, "mace@adapters=false" with options."""
    name, _, given = method.partition("@")
    texts = given.split("+") if given else []
    return erase(studio.view, concepts, name, **get_method(name, "pipeline").config.parse(texts, method=name))


def parent_of(studio: Studio, name: str) -> str:
    """What a concept is a kind of: its group, in the world's own words or ours."""
    concept = studio.world.concept(name)
    subgroup = getattr(concept, "subgroup", "")
    return PARENTS.get(subgroup) or subgroup.rpartition("-")[2] or concept.factor


# ----------------------------------------------------------------------------------------------- one at a time


def family(studio: Studio, name: str) -> list[str]:
    """What can stand in a concept's place: its siblings, or of a small world all others of its factor."""
    siblings = studio.world.siblings(name)
    return [*siblings] if len(siblings) > _FEW else [*studio.world.others(name)]


def anchored(studio: Studio, name: str, soft: bool) -> dict[str, Anchors]:
    """The choices for a concept, by the kind of anchor."""
    view, siblings = studio.view, family(studio, name)
    found = {'""': fixed_anchor(view, name, "empty")}
    found["parent"] = fixed_anchor(view, name, "parent", siblings, parent=parent_of(studio, name))
    found["random sibling"] = fixed_anchor(view, name, "random-sibling", siblings)
    if soft:
        found["AGE"] = soft_anchor(view, name, lambda c: erase(view, c, "uce"), siblings, rounds=2)
    options = {} if studio.world.siblings(name) == tuple(siblings) else {"boundary": _FEW}  # some must be left
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
    kept = random.Random(_ORDER).sample(strangers, min(_RETAINED, len(strangers)))
    return Asked([name], near, boundary[: each // 2], far[-each:]), kept


def ablated(chosen: Anchors) -> dict[str, str]:
    """Other anchors among the candidates that pass SELECT's filters: by one stage alone, and by nearness alone."""
    passed = [row for row in chosen.table if row.score is not None]

    def most(score: str, sign: int = 1) -> str:
        return max(passed, key=lambda row: (sign * (getattr(row, score) or 0.0), row.word)).word

    found = {"most context": most("context"), "most coherence": most("coherence")}
    return found | {"nearest": most("near"), "farthest": most("near", -1)}


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
        lines.append(f"{name}: " + ", ".join(f"{kind} {each.anchor!r}" for kind, each in chosen.items()))
        lines[-1] += f"; boundary {', '.join(chosen[SELECT].boundary)}; near {', '.join(asked.near)}"
        for kind, first in _bases(images, distance):
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
                make = _erased(studio, concept, method, asked, images)
                found.setdefault((method, kind), []).append(cells.seen(key, make))
        print(f"{len(lines)} of {len(names)}: {lines[-1]} ({time.process_time():.0f} CPU-s)", flush=True)
    _tables(studio, cells, methods, found, names, images)


def _erased(
    studio: Studio, concepts: Concept | Sequence[Concept], method: str, asked: Asked, images: int
) -> Callable[[], Seen]:
    def make() -> Seen:
        start = time.process_time()
        erasure = fitted(studio, concepts, method)
        cost = {"seconds": time.process_time() - start, "bytes": erasure.nbytes}
        return drawn(studio, studio.erased(erasure), asked, images, **cost)

    return make


def _tables(
    studio: Studio,
    cells: Cells,
    methods: Sequence[str],
    found: Mapping[tuple[str, str], list[Seen]],
    names: Sequence[str],
    images: int,
) -> None:
    kinds = list(dict.fromkeys(kind for _, kind in found))
    gains = []
    for method in methods:
        of = {kind: _together(found[method, kind]) for kind in kinds}
        best = max(FIXED, key=lambda kind, of=of: of[kind].average)
        against = [kind for kind in of if kind not in (OTHER_SEEDS, PLAIN, ALONE, SELECT)]
        less = [spread(of[SELECT], of[kind]) for kind in against]
        gains.append((method, best, spread(of[ALONE], of[best]), spread(of[SELECT], of[best]), *less))
        rows = [(kind, *_cells(seen, of.get(OTHER_SEEDS))) for kind, seen in of.items() if kind != OTHER_SEEDS]
        table(f"{method} on {studio.world.name}, {len(names)} concepts x {images} images, per cent", _HEADER, rows)
        pictures = [(kind, torch.stack([seen.pictures[0] for seen in found[method, kind]])) for kind in kinds]
        words = [(f"{kind}, other words", torch.stack([s.pictures[1] for s in found[method, kind]])) for kind in kinds]
        cells.picture(f"choice-{method}", [*pictures, *words])
    header = ("method", "best fixed", "SELECT less it", f"{SELECT} less it", *(f"less {kind}" for kind in against))
    table("SELECT less fixed anchors and AGE, H", header, gains)


_HEADER = ("anchor", "ACC_e", "ACC_g", "near", "boundary", "far", "H", "leaves", "rest kept", "FID of kept")


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


def _bases(images: int, distance: bool) -> list[tuple[str, int]]:
    """What is drawn without an erasure, and from which seed on."""
    return [*([(OTHER_SEEDS, images)] if distance else []), (PLAIN, 0)]


def _cells(seen: Seen, other: Seen | None) -> list[str]:
    parts = (seen.erased, seen.reworded, seen.near, seen.told, seen.far)
    means = [f"{100 * part.mean():.1f}" if len(part) else "" for part in parts]
    left = 100 * (seen.erased + seen.unsaid).mean()
    distance = "" if other is None else f"{frechet_distance(seen.kept, other.kept):.0f}"
    return [*means, spread(seen), f"{left:.1f}", f"{100 * seen.rest.mean():.0f}", distance]


# ---------------------------------------------------------------------------------------------------- at once


def many(
    studio: Studio,
    cells: Cells,
    methods: Sequence[str],
    counts: Sequence[int],
    images: int,
    distance: bool = True,
) -> None:
    """Each method with the parents and with SELECT's anchors, of n concepts at once."""
    world = studio.world
    every = [n for n in world.values_of(world.shown[0]) if not getattr(world.concept(n), "profession", None)]
    order = random.Random(_ORDER).sample(every, len(every))
    for count in counts:
        names = order[:count]
        chosen, spent = cells.get(("many anchors", *names), lambda names=names: selected(studio, names))
        concepts, asked = at_once(studio, names, chosen, order)
        print(f"{count}: " + "; ".join(f"{each.concept} -> {each.anchor}" for each in chosen), flush=True)
        found: dict[tuple[str, str], Seen] = {}
        for kind, first in _bases(images, distance):
            found["", kind] = cells.seen(
                ("many", count, kind, asked),
                lambda asked=asked, first=first: drawn(studio, studio.plain, asked, images, first),
            )
        released = [(AS_RELEASED, "parent")] * ("speed" in methods)
        for method, kind in [*released, *((method, kind) for method in methods for kind in concepts)]:
            key = ("many", count, method, kind, concepts[kind], asked)
            found[method, kind] = cells.seen(key, _erased(studio, concepts[kind], method, asked, images))
        _many_tables(cells, found, asked, count, images, spent)


AS_RELEASED = "speed@key_span=last+null_of=all+least_free=0+filtered=true"
"""SPEED with the rows that its released code edits, its filter, and a null space of all rows together."""


def _many_tables(
    cells: Cells, found: Mapping[tuple[str, str], Seen], asked: Asked, count: int, images: int, spent: float
) -> None:
    other = found.get(("", OTHER_SEEDS))
    rows = []
    for (method, kind), seen in found.items():
        if kind != OTHER_SEEDS:
            seconds = f"{spent * (kind == SELECT):.1f} + {seen.cost['seconds']:.2f}" if seen.cost else ""
            size = f"{seen.cost['bytes'] / 2**20:.2f}" if seen.cost else ""
            rows.append((method, kind, *_cells(seen, other), seconds, size))
    words = f"{len(asked.names)} drawn, {len(asked.near)} near, {len(asked.far)} far"
    header = ("method", *_HEADER, "CPU-s", "MiB")
    table(f"{count} concepts at once; {words}, {images} images a word", header, rows)
    for against in (("speed", "parent"), (AS_RELEASED, "parent")):
        if against in found:
            less = [(m, k, spread(s, found[against])) for (m, k), s in found.items() if m and (m, k) != against]
            table(f"H less that of {against[0]} with parents", ("method", "anchor", "more"), less)
    n = len(asked.names)
    shown = [*range(min(n, 8)), *range(n, n + min(n, 4)), *range(2 * n, len(found["", PLAIN].pictures))][:24]
    cells.picture(f"many-{count}", [(f"{m} {k}", seen.pictures[shown]) for (m, k), seen in found.items()])


def _some(words: Sequence[str], most: int) -> list[str]:
    return random.Random(_ORDER).sample(list(words), min(most, len(words)))


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


def at_once(
    studio: Studio, names: Sequence[str], chosen: Sequence[Anchors], order: Sequence[str]
) -> tuple[dict[str, list[Concept]], Asked]:
    """The concepts with their parents and with SELECT's anchors, and the words that are drawn."""
    boundary = {word for each in chosen for word in each.boundary}
    parents = {name: parent_of(studio, name) for name in names}
    parents = {name: "thing" if parent in names else parent for name, parent in parents.items()}
    named = {*names, *boundary, *parents.values(), *(each.anchor for each in chosen)}
    every = list(dict.fromkeys(word for name in names for word in studio.world.siblings(name)))
    near = _some([word for word in every if word not in named], _BESIDE)
    strangers = [word for word in order if word not in named and word not in every]
    if len(strangers) < _BESIDE + _MANY_RETAINED:  # nearly all groups have one that is erased
        strangers = [word for word in order if word not in {*named, *near}]
    far = _some(strangers, _BESIDE)
    kept = _some([word for word in strangers if word not in far], _MANY_RETAINED)
    asked = Asked(_some(names, _SHOWN), near, _some(sorted(boundary & set(order)), _BESIDE // 2), far)
    first, *others = names
    given = {first: Concept(first, preserve=kept)} | {name: Concept(name) for name in others}
    ours = [each.fill(given[name]) for each, name in zip(chosen, names, strict=True)]
    fixed = [Concept(name, anchor=parents[name], preserve=given[name].preserve) for name in names]
    return {"parent": fixed, SELECT: ours}, asked


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["choice", "many"], help="choice, many (default: both)")
    add_world(parser)
    parser.add_argument("--methods", nargs="*", default=["uce", "rece", "speed", "oce", "mace@adapters=false"])
    parser.add_argument("--concepts", type=int, default=12)
    parser.add_argument(
        "--names", nargs="*", help="these concepts; several processes may draw some each into one folder"
    )
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--counts", nargs="*", type=int, default=[100, 30, 10, 3, 1])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--each", type=int, default=2, help="of choice: how many siblings and strangers are drawn")
    parser.add_argument("--distance", action=argparse.BooleanOptionalAction, default=True, help="FID")
    parser.add_argument("--soft", action="store_true")
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--cells", type=Path)
    args = parser.parse_args()
    studio = Studio.of(args, steps=args.steps)
    cells = Cells(args.cells, (args.world, str(args.pipeline), sorted(studio.options.items()), args.images))
    things = [n for n in studio.world.shown if studio.world.concept(n).factor == _factor(studio)]
    things = [n for n in things if not getattr(studio.world.concept(n), "profession", None)]
    things = [n for n in things if len(family(studio, n)) > _FEW]
    if "choice" in args.sections:
        things = args.names or things[: args.concepts]
        more = (args.soft, args.ablate, args.each, args.distance)
        choice(studio, cells, args.methods, things, args.images, *more)
    if "many" in args.sections:
        many(studio, cells, args.methods, args.counts, args.images, args.distance)


def _factor(studio: Studio) -> str:
    return studio.world.concept(studio.world.shown[0]).factor


if __name__ == "__main__":
    main()
