"""The worlds that have a name: what a command line, a benchmark or a demo asks for by it, and all it needs to know.

Nothing here imports torch, so that names are completed at once: a world's own room is imported when it is asked.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from efface._errors import InputError

_ROOMS = {"shapes": "efface_worlds.shapes", "emoji": "efface_worlds.emoji"}
_PICTURES = "efface_worlds.attribution"
_REAL = "efface_worlds.real.worlds"
_FEW, _NEAR, _SPARE = 12, 8, 3
"""So many other concepts stand for all of them where there are more, and so many siblings of them at most."""


@dataclass(frozen=True)
class PipelineWorld:
    """A world with a text-to-image pipeline, judges of what it draws, and concepts that are known.

    Attributes:
        name: What it is called.
        summary: One line.
        shown: Concepts that tables are of, unless others are named: things of several kinds, then styles.
        contrasts: Whether it has a contrastive pair, which says how well a picture goes with a text.
    """

    kind: ClassVar[str] = "pipeline"

    name: str
    summary: str
    shown: tuple[str, ...]
    contrasts: bool = False

    def of_room(self, name: str) -> Any:
        """A public name of the world's own room."""
        return getattr(importlib.import_module(_ROOMS[self.name]), name)

    def load_pipeline(self, variant: str = "base", *, folder: str | os.PathLike[str] | None = None) -> Any:
        """Its pipeline, or a gold model: one of `variants()`."""
        return self.of_room(f"load_{self.name}_pipeline")(variant, folder=folder)

    def variants(self) -> tuple[str, ...]:
        """What of it is at hand."""
        return self.of_room(f"{self.name}_variants")()

    def load_judge(self, which: int = 1) -> Any:
        """A judge of its pictures: select with one, score with the other."""
        return self.of_room("load_judge")(which)

    @property
    def sampling(self) -> dict[str, Any]:
        """Steps and guidance at which its quality is stated, as `PipelineView.sample` takes them."""
        generation = importlib.import_module(f"{_ROOMS[self.name]}.generation")
        return {"steps": generation.STEPS, "guidance": generation.GUIDANCE}

    def concept(self, word: str) -> Any:
        """The concept that a word means.

        Raises:
            InputError: If it means none; the text says what may be meant.
        """
        return self.of_room("concept")(word)

    def prompts_for(self, name: str | None = None, n: int = 1, **options: Any) -> Any:
        """Prompts about a concept, with what each asks for: `.texts` and `.scenes`."""
        return self.of_room("prompts_for")(name, n, **options)

    def gold_of(self, word: str) -> str | None:
        """The variant that never saw a concept, if one is at hand: of several, which lacks the least."""
        name, unseen = self.concept(word).name, self.of_room("unseen")
        found = [(len(without), variant) for variant in self.variants() if name in (without := unseen(variant))]
        return min(found)[1] if found else None

    def pictures_of(
        self, word: str, n: int, *, seed: int = 7, gold: str | None = None
    ) -> tuple[Any, list[str], Any, list[str]]:
        """N renderings that show a concept and n that do not, no model's own, each with a prompt in other templates.

        Args:
            word: The concept.
            n: How many of each; of those without it a few may be missing, where no gold model is named.
            seed: Of the scenes.
            gold: The variant that losses on them are compared with: neither pictures show what else it never saw,
                which would be held against its knowledge of the rest.

        Returns:
            Pictures `(n, 3, h, w)` and prompts with the concept, and the same without it.

        Raises:
            InputError: If too few show nothing else that the gold model never saw.
        """
        import torch

        render, name = self.of_room("render"), self.concept(word).name
        lacking = () if gold is None else tuple(each for each in self.of_room("unseen")(gold) if each != name)
        times = _SPARE if lacking else 1
        with_it = self.prompts_for(name, times * n, seed=seed, templates="held_out")
        kept = (~self._shows_any(with_it.scenes, lacking)).nonzero()[:n, 0]
        others = [other for other in self.others(name) if other not in lacking]
        spread = [self.prompts_for(other, times * n, seed=seed + 1, templates="held_out") for other in others]
        clean = [~self._shows_any(some.scenes, (name, *lacking)) for some in spread]
        order = [(i % len(spread), i) for i in range(times * n if spread else 0)]  # as many of each other concept
        without = [(k, i) for k, i in order if bool(clean[k][i])][:n]
        if lacking and min(len(kept), len(without)) < n:
            raise InputError(
                f"{len(kept)} scenes of {name} and {len(without)} without it show nothing else that {gold} never saw "
                f"({', '.join(lacking)}), of {n} that were asked for: write a smaller n"
            )
        scenes = torch.cat([render(spread[k].scenes[i : i + 1]) for k, i in without])
        texts = [with_it.texts[int(i)] for i in kept]
        return render(with_it.scenes[kept]), texts, scenes, [spread[k].texts[i] for k, i in without]

    def _shows_any(self, scenes: Any, names: Iterable[str]) -> Any:
        """Whether each scene shows any of these, `(n,)`."""
        import torch

        shows, found = self.of_room("shows"), torch.zeros(len(scenes), dtype=torch.bool)
        for name in names:
            found |= shows(scenes, name)
        return found

    def values_of(self, word: str) -> tuple[str, ...]:
        """Names of all concepts of a concept's factor that it draws."""
        return self._drawn(value.name for value in self.of_room("FACTORS")[self.concept(word).factor])

    def _drawn(self, names: Iterable[str]) -> tuple[str, ...]:
        out = self.of_room("left_out")()
        return tuple(name for name in names if name not in out)

    def siblings(self, word: str) -> tuple[str, ...]:
        """Names of the concepts that look like it, or mean nearly the same."""
        return self._drawn(self.of_room("siblings")(self.concept(word).name))

    def others(self, word: str) -> tuple[str, ...]:
        """Names of other concepts of its factor: all of them, or where they are many, some near and some far.

        The same every time: the first siblings, and strangers at equal distances in the list of all.
        """
        own = self.concept(word).name
        every = tuple(name for name in self.values_of(own) if name != own)
        if len(every) <= _FEW:
            return every
        near = self.siblings(own)[:_NEAR]
        far = self._drawn(self.of_room("strangers")(own))
        wanted = _FEW - len(near)
        return (*near, *(far[i * len(far) // wanted] for i in range(wanted)))

    def preserve(self, word: str) -> tuple[str, ...]:
        """What is to stay where nobody says so: siblings, and where there are none, other concepts."""
        return self.siblings(word) or self.others(word)


@dataclass(frozen=True)
class ClassifierWorld:
    """A world of pictures whose signal and distractors are known, with a small classifier that is trained at once.

    Attributes:
        name: What it is called.
        summary: One line.
        title: What its room calls it.
    """

    kind: ClassVar[str] = "classifier"

    name: str
    summary: str
    title: str

    def make(self, seed: int, *, train: int, test: int, epochs: int) -> tuple[Any, Any]:
        """Its pictures, and a classifier that was trained on them."""
        room: Any = importlib.import_module(_PICTURES)
        world = room.make_world(self.title, seed, train=train, test=test)
        return world, room.train_classifier(world, seed, epochs=epochs)

    def note(self, train: int) -> str:
        """What `make` does, in words."""
        return f"training a small classifier on {train} images of {self.title}, a few seconds"


@dataclass(frozen=True)
class RealClassifier:
    """A classifier that is not trained here, with pictures that others made.

    Attributes:
        name: What it is called.
        summary: One line.
        title: What it is.
    """

    kind: ClassVar[str] = "classifier"

    name: str
    summary: str
    title: str

    def make(self, seed: int, *, train: int, test: int, epochs: int) -> tuple[Any, Any]:
        """Its first pictures, and the classifier; neither depends on the seed, and nothing is trained."""
        return getattr(importlib.import_module(_REAL), f"{self.name}_world")(train, test)

    def note(self, train: int) -> str:
        """What `make` does, in words."""
        return f"reading {self.title}"


World = PipelineWorld | ClassifierWorld | RealClassifier

_OBJECTS = ("circle", "square", "diamond", "triangle", "star", "heart")
_EMOJI = (
    *("cat", "duck", "sunflower", "banana", "hot dog", "bicycle", "airplane", "castle"),
    *("guitar", "umbrella", "axe", "soccer ball", "padlock", "pilot"),
)
WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        PipelineWorld(
            "shapes",
            "captioned shapes: ten objects in colours, styles and backgrounds",
            (*_OBJECTS, "striped", "dotted", "shaded"),
            contrasts=True,
        ),
        PipelineWorld(
            "emoji",
            "emoji by four designers: real pictures and real words, siblings by Unicode",
            (*_EMOJI, "twemoji", "black and white"),
        ),
        ClassifierWorld("digits", "digits with a corner patch that goes with the class", "spurious digits"),
        ClassifierWorld("hard-digits", "digits among noise and a smaller digit of another hand", "hard digits"),
        ClassifierWorld("block-digits", "a digit in one tile of four, shuffled ones in the others", "block digits"),
        ClassifierWorld("shape-pairs", "two shapes, of which one is of a kind that is a class", "shape pairs"),
        RealClassifier(
            "fashion", "Fashion-MNIST, of Debian, and a small ResNet of it", "Fashion-MNIST and a small ResNet of it"
        ),
        RealClassifier("imagenet", "EfficientNet-Lite0, on emoji that show a class", "EfficientNet-Lite0 and emoji"),
    )
}
"""Name -> world."""


def names_of(kind: str) -> tuple[str, ...]:
    """Names of the worlds of a kind: `"pipeline"` or `"classifier"`."""
    return tuple(name for name, world in WORLDS.items() if world.kind == kind)


def find_world(name: str, kind: str) -> Any:
    """The world of a name.

    Args:
        name: Its name.
        kind: `"pipeline"` or `"classifier"`.

    Raises:
        InputError: If no world of this kind is called so; the text says which are, and what may be meant.
    """
    found = WORLDS.get(name)
    if found is not None and found.kind == kind:
        return found
    from efface._validate import did_you_mean  # it brings torch

    known = names_of(kind)
    other, none = "a world of another kind", f"no world of this kind{did_you_mean(name, known)}"
    said = none if found is None else f"{other} ({found.summary})"
    raise InputError(f"{name!r} is {said}: worlds with a {kind} are {', '.join(known)}")
