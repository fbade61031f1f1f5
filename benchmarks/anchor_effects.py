"""What an anchor does to the erasers that take one, and what many concepts at once do to them: images judged.

python -m benchmarks.anchor_effects [choice many] [--world emoji] [--methods uce rece speed oce]
    [--concepts 12 --images 4] [--counts 1 3 10 30 100] [--soft]

"choice": each concept is erased alone, with each anchor: nothing (""), its parent, a random sibling, the word that AGE
finds ("--soft", the slowest), SELECT's, and SELECT's with its boundary as words to preserve; nothing else is
preserved. ACC_e: share of images of its prompts in which judge 2 sees it; ACC_g: the same of its synonyms in templates
that nothing was trained on; near, far: two siblings, and two strangers, seen at their prompts. H: harmonic mean of
1 - ACC_e, 1 - ACC_g and the mean of near and far, an interval over concepts. Last, SELECT with its boundary less the
fixed anchor that is best on average, concept by concept. An image of which the judge cannot say shows nothing. FID: of
judge 1's features of what is kept, from what is drawn at other seeds without an erasure; what is drawn without one has
such a distance, too, and it depends on n.

"many": the first n of the world's concepts, in an order by seed, at once, with the parent as anchor and with SELECT's
and its boundary. At most 24 of them are drawn, and as many siblings and strangers that are not erased. Seconds are of
the processor, choice of anchors and fit apart.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._measure import table
from benchmarks._studio import Studio, add_world, kept_by
from efface import Concept, erase
from efface.audit.pipelines.balance import harmonic
from efface.diffusion.anchors.fixed import fixed_anchor
from efface.diffusion.anchors.selection import apart, select_anchors, select_for_each
from efface.diffusion.anchors.soft import soft_anchor
from efface.stats.intervals import percentile_interval
from efface_worlds.shapes.metrics import frechet_distance

FIXED = ('""', "parent", "random sibling")
OTHER_SEEDS, PLAIN, SELECT = "other seeds", "nothing erased", "SELECT + boundary"
_ORDER, _DRAWS, _DRAWN, _EACH = 5, 4000, 24, 2


@dataclass(frozen=True)
class Seen:
    """Shares of images a word: of the concepts by name and in other words, of siblings, of strangers; the rest."""

    erased: NDArray[np.float64]
    reworded: NDArray[np.float64]
    near: NDArray[np.float64]
    far: NDArray[np.float64]
    rest: NDArray[np.float64]
    kept: Tensor
    """What judge 1 makes of the images of siblings and strangers, `(n, features)`."""

    def balance(self, of: NDArray[np.int64], kept: NDArray[np.int64]) -> float:
        """H of the concepts and of the kept words with these numbers."""
        stays = np.concatenate([self.near, self.far])[kept].mean()
        return float(harmonic(1 - self.erased[of].mean(), 1 - self.reworded[of].mean(), stays))


def spread(seen: Seen, other: Seen | None = None) -> str:
    """H, or how much more it is than another's, with an interval over words, resampled alike for both."""
    n, m = len(seen.erased), len(seen.near) + len(seen.far)
    generator = np.random.default_rng(0)

    def value(of: NDArray[np.int64], kept: NDArray[np.int64]) -> float:
        return seen.balance(of, kept) - (other.balance(of, kept) if other else 0.0)

    draws = [value(generator.integers(n, size=n), generator.integers(m, size=m)) for _ in range(_DRAWS)]
    found = percentile_interval(value(np.arange(n), np.arange(m)), draws, "bootstrap")
    ends = f"[{100 * found.low:.1f}, {100 * found.high:.1f}]" if found.has_width else "(all alike)"
    return f"{100 * found.value:.1f} {ends}"


def drawn(
    studio: Studio, sample: Any, names: Sequence[str], near: Any, far: Any, images: int, first_seed: int = 0
) -> Seen:
    """What is seen of some concepts, and of others, in so many images each; they are drawn together."""
    asked = [(word, studio.prompts_of(word, images)) for word in names]
    asked += [(word, studio.paraphrases_of(word, images)) for word in names]
    asked += [(word, studio.prompts_of(word, images)) for word in (*near, *far)]
    texts = [text for _, prompts in asked for text in prompts]
    pictures = sample(texts, [*range(first_seed, first_seed + images)] * len(asked)).split(images)
    judge, n = studio.judge(2), len(names)
    words = [word for word, _ in asked]
    seen = [float(judge(each, word).nan_to_num(0.0).mean()) for each, word in zip(pictures, words, strict=True)]
    scenes = [studio.asked_of(name, images).scenes for name in names]
    told = zip(pictures, scenes, names, strict=False)  # of the first n pictures
    rest = [kept_by(studio.world, judge.judge(each), asked_for, name) for each, asked_for, name in told]
    of, reworded, of_near, of_far = np.split(np.array(seen), [n, 2 * n, 2 * n + len(near)])
    kept = studio.judge(1).features(torch.cat(pictures[2 * n :]))
    return Seen(of, reworded, of_near, of_far, np.array(rest), kept)


# ----------------------------------------------------------------------------------------------- one at a time


def anchored(studio: Studio, name: str, soft: str | None) -> dict[str, Concept]:
    """The concept with each anchor that there is for it."""
    view = studio.view
    siblings = [*studio.world.siblings(name)]
    chosen = select_anchors(view, name, siblings)
    found = {'""': Concept(name, anchor="")}
    found["parent"] = fixed_anchor(view, name, "parent", siblings, parent=_parent(studio, name)).fill(name)
    found["random sibling"] = fixed_anchor(view, name, "random-sibling", siblings).fill(name)
    if soft is not None:
        found["AGE"] = soft_anchor(view, name, lambda c: erase(view, c, soft), siblings).fill(name)
    return found | {"SELECT": Concept(name, anchor=chosen.anchor), SELECT: chosen.fill(name)}


def _parent(studio: Studio, name: str) -> str:
    """What a concept is a kind of: its group, in the world's own words."""
    concept = studio.world.concept(name)
    return getattr(concept, "subgroup", "").rpartition("-")[2] or concept.factor


def choice(studio: Studio, methods: Sequence[str], names: Sequence[str], images: int, soft: bool) -> None:
    """The table of each method, and what SELECT gains over the best fixed anchor."""
    near = {name: studio.world.siblings(name)[:_EACH] for name in names}
    far = {name: [o for o in studio.others_of(name) if o not in studio.world.siblings(name)][-_EACH:] for name in names}
    gains = []
    for method in methods:
        concepts = {name: anchored(studio, name, method if soft else None) for name in names}
        found: dict[str, Seen] = {}
        for kind in (OTHER_SEEDS, PLAIN, *concepts[names[0]]):
            each = []
            for name in names:
                bare = kind in (OTHER_SEEDS, PLAIN)
                sample = studio.plain if bare else studio.erased(erase(studio.view, concepts[name][kind], method))
                first = images if kind == OTHER_SEEDS else 0
                each.append(drawn(studio, sample, [name], near[name], far[name], images, first))
            found[kind] = _together(each)
        best = max(FIXED, key=lambda kind: _average(found[kind]))
        gains.append((method, best, spread(found[SELECT], found[best]), spread(found["SELECT"], found[best])))
        rows = [(kind, *_cells(seen, found[OTHER_SEEDS])) for kind, seen in found.items() if kind != OTHER_SEEDS]
        table(f"{method} on {studio.world.name}, {len(names)} concepts x {images} images, per cent", _HEADER, rows)
        print("anchors: " + "; ".join(f"{n}: {c['SELECT'].anchor}" for n, c in concepts.items()))
    table("SELECT less the best fixed anchor, H", ("method", "best fixed", "with its boundary", "anchor alone"), gains)


_HEADER = ("anchor", "ACC_e", "ACC_g", "near", "far", "H", "rest kept", "FID of kept")


def _together(each: Sequence[Seen]) -> Seen:
    shares = ("erased", "reworded", "near", "far", "rest")
    parts = {part: np.concatenate([getattr(seen, part) for seen in each]) for part in shares}
    return Seen(**parts, kept=torch.cat([seen.kept for seen in each]))


def _average(seen: Seen) -> float:
    return seen.balance(np.arange(len(seen.erased)), np.arange(len(seen.near) + len(seen.far)))


def _cells(seen: Seen, other: Seen) -> list[str]:
    means = [f"{100 * part.mean():.1f}" for part in (seen.erased, seen.reworded, seen.near, seen.far)]
    distance = frechet_distance(seen.kept, other.kept)
    return [*means, spread(seen), f"{100 * seen.rest.mean():.0f}", f"{distance:.0f}"]


# ---------------------------------------------------------------------------------------------------- at once


def many(studio: Studio, methods: Sequence[str], counts: Sequence[int], images: int) -> None:
    """Each method with the parents and with SELECT's anchors, of n concepts at once."""
    world = studio.world
    every = [n for n in world.values_of(world.shown[0]) if not getattr(world.concept(n), "profession", None)]
    order = random.Random(_ORDER).sample(every, len(every))
    for count in counts:
        names = order[:count]
        near = list(dict.fromkeys(s for n in names for s in world.siblings(n) if s not in names))
        far = [n for n in order[count:] if n not in near]
        near, far, shown = (_some(words) for words in (near, far, names))
        concepts, spent = at_once(studio, names)
        plain, other = (drawn(studio, studio.plain, shown, near, far, images, first) for first in (0, images))
        rows, found = [("none", "", *_cells(plain, other), "", "")], {}
        for method, (kind, given) in ((m, k) for m in methods for k in concepts.items()):
            start = time.process_time()
            erasure: Any = erase(studio.view, given, method)
            fit = time.process_time() - start
            seen = found[method, kind] = drawn(studio, studio.erased(erasure), shown, near, far, images)
            cost = (f"{spent[kind]:.1f} + {fit:.1f}", f"{erasure.nbytes / 2**20:.2f}")
            rows.append((method, kind, *_cells(seen, other), *cost))
        header = ("method", *_HEADER, "CPU-s", "MiB")
        table(f"{count} concepts at once, {len(shown)} of them drawn, {images} images a word", header, rows)
        against = ("speed", "parent")
        if against in found:
            gains = [(m, k, spread(seen, found[against])) for (m, k), seen in found.items() if (m, k) != against]
            table("H less that of speed with parents", ("method", "anchor", "more"), gains)


def _some(words: Sequence[str]) -> list[str]:
    return random.Random(_ORDER).sample(list(words), min(_DRAWN, len(words)))


def at_once(studio: Studio, names: Sequence[str]) -> tuple[dict[str, list[Concept]], Mapping[str, float]]:
    """The concepts with their anchors, of which none is erased itself, and what choosing took."""
    parents = [Concept(name, anchor=_parent(studio, name)) for name in names]
    start = time.process_time()
    chosen = apart(select_for_each(studio.view, list(names), "vocabulary"))
    took = time.process_time() - start
    return {"parent": parents, SELECT: [a.fill(n) for a, n in zip(chosen, names, strict=True)]}, {
        "parent": 0,
        SELECT: took,
    }


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=["choice", "many"], default=["choice", "many"])
    add_world(parser)
    parser.add_argument("--methods", nargs="*", default=["uce", "rece", "speed", "oce"])
    parser.add_argument("--concepts", type=int, default=12)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--counts", nargs="*", type=int, default=[1, 3, 10, 30, 100])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--soft", action="store_true")
    args = parser.parse_args()
    studio = Studio.of(args, steps=args.steps)
    things = [
        n
        for n in studio.world.shown
        if studio.world.concept(n).factor == studio.world.concept(studio.world.shown[0]).factor
    ]
    if "choice" in args.sections:
        choice(studio, args.methods, things[: args.concepts], args.images, args.soft)
    if "many" in args.sections:
        many(studio, args.methods, args.counts, args.images)


if __name__ == "__main__":
    main()
