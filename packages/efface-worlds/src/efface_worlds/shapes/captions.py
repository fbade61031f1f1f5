"""Captions of scenes: templates, synonyms, general words, and what a caption says as a vector of requirements.

Three readers: `"train"` is what the denoiser reads; `"text"` adds the synonyms that only the text encoder reads, and
bare concepts; `"held_out"` has templates that neither has read, with all synonyms. Every word of a held-out template
occurs in training templates. `"joined"` has some more of these, in which "and" joins what it never joined in training:
there it stands between two objects or before the background, and so the pipeline takes it for two objects.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from efface_worlds.shapes.concepts import COLOURS, FACTORS, OBJECTS, STYLES, Concept
from efface_worlds.shapes.scenes import NONE, Scenes

Reader = Literal["train", "text", "held_out", "joined", "plain"]

GENERAL = {
    "round": "round shape",
    "boxes": "angular shape",
    "pointed": "pointed shape",
    "warm": "warm",
    "cool": "cool",
    "pattern": "patterned",
    "smooth": "smooth",
}
"""Word for any concept of a family."""

_ANY_OBJECT = ("shape", "object", "figure")
_PREFIXES = (
    "",
    "",
    "a photo of ",
    "a picture of ",
    "an image of ",
    "a drawing of ",
    "there is ",
    "this is ",
    "one can see ",
)
_CORES = {
    "cs": (
        "a {c} {s} {o}",
        "a {s} {c} {o}",
        "a {c} {o} with {n}",
        "a {o} in {c} with {n}",
        "a {s} {o} in {c}",
        "a {c} {o} in the style of {n}",
    ),
    "c": ("a {c} {o}", "a {o} in {c}", "the {o} is {c}"),
    "s": ("a {s} {o}", "a {o} with {n}", "the {o} is {s}", "a {o} in the style of {n}"),
    "": ("a {o}", "the {o}", "{o}"),
}
_PAIRS = {
    "cs": ("a {c} {s} {o} and a {d} {s} {p}", "a {c} {o} and a {d} {p} with {n}"),
    "c": ("a {c} {o} and a {d} {p}", "two objects , a {c} {o} and a {d} {p}"),
    "s": ("a {s} {o} and a {s} {p}", "a {o} and a {p} with {n}"),
    "": ("a {o} and a {p}", "two objects , a {o} and a {p}"),
}
_GROUNDS = (" on a {b} background", " on a {b} background", " on {b}", " and the background is {b}")
_BARE = ("{w}", "a {w}", "a photo of a {w}", "a drawing of a {w}", "the style of {w}", "with {w}", "in {w}")
_HELD_OUT = (
    "on a {b} background , a {o} in {c} with {n}",
    "there is a drawing of a {o} in {c} , the style is {s} , on {b}",
    "the {o} is {c} , the style is {s} , the background is {b}",
    "this is a picture of a {s} {o} , {c} , with a {b} background",
    "one can see {b} , on {b} a {c} {o} in the style of {n}",
    "the background is {b} , the {s} {o} is in {c}",
)
_JOINED = (
    "on a {b} background , a {o} in {c} and {s}",
    "the {o} is {c} and {s} and the background is {b}",
    "one can see {b} and , on {b} , a {c} and {s} {o}",
    "the background is {b} and a {o} is in {c} with {n}",
)
_NEVER_READ = {"held_out": _HELD_OUT, "joined": _JOINED}
_PLAIN = ("a {c} {s} {o} on a {b} background",)

_NAMES = 0.75  # share of words that are the concept's own name


def caption(scenes: Scenes, *, reader: Reader, seed: int, synonyms: bool = True) -> list[str]:
    """A caption a scene.

    Args:
        scenes: What is to be told.
        reader: Which templates and words. `"plain"` names every factor in one fixed template.
        seed: Of the choices.
        synonyms: Whether words other than the concepts' names may occur.
    """
    return [text for text, _ in _tell(scenes, reader, seed, synonyms)]


def requirements(scenes: Scenes, *, reader: Reader, seed: int) -> tuple[list[str], Tensor]:
    """The captions of `caption`, and the attributes that each one names, `(n, attributes)`, 0 or 1."""
    told = _tell(scenes, reader, seed, True)
    required = torch.zeros(len(told), len(ATTRIBUTES))
    for row, (_, named) in enumerate(told):
        required[row, [_COLUMN[name] for name in named]] = 1
    return [text for text, _ in told], required


def attributes(scenes: Scenes) -> Tensor:
    """The attributes that each scene has, `(n, attributes)`, 0 or 1; `requirements` is met where none is missing."""
    held = torch.zeros(len(scenes), len(ATTRIBUTES))
    for row, (objects, colours, style, ground) in enumerate(_rows(scenes)):
        names = [*_styles(style), f"background:{ground}", f"count:{len(objects)}"]
        for o, c in zip(objects, colours, strict=True):
            names += [*_named("object", o), *_named("colour", c), f"pair:{o}:{c}"]
        held[row, [_COLUMN[name] for name in names]] = 1
    return held


def _named(factor: str, label: int) -> list[str]:
    family = FACTORS[factor][label].family
    return [f"{factor}:{label}", *([f"family:{family}"] if family else [])]


def _styles(style: int) -> list[str]:
    return _named("style", style)


def _rows(scenes: Scenes) -> list[tuple[list[int], list[int], int, int]]:
    columns = (scenes.objects.tolist(), scenes.colours.tolist(), scenes.style.tolist(), scenes.background.tolist())
    result = []
    for objects, colours, style, ground in zip(*columns, strict=True):
        there = [i for i in (0, 1) if objects[i] != NONE]
        result.append(([objects[i] for i in there], [colours[i] for i in there], style, ground))
    return result


ATTRIBUTES = (
    *(f"{factor}:{i}" for factor, values in FACTORS.items() for i in range(len(values))),
    *(f"family:{name}" for name in GENERAL),
    *(f"count:{n}" for n in (1, 2)),
    *(f"pair:{o}:{c}" for o in range(len(OBJECTS)) for c in range(len(COLOURS))),
)
_COLUMN = {name: i for i, name in enumerate(ATTRIBUTES)}


def _tell(scenes: Scenes, reader: Reader, seed: int, synonyms: bool) -> list[tuple[str, list[str]]]:
    draw = random.Random(seed)
    teller = _Teller(draw, reader, synonyms)
    return [teller.tell(*row) for row in _rows(scenes)]


class _Teller:
    """Writes captions, and notes what each one says."""

    def __init__(self, draw: random.Random, reader: Reader, synonyms: bool) -> None:
        self.draw, self.reader, self.synonyms = draw, reader, synonyms

    def tell(self, objects: Sequence[int], colours: Sequence[int], style: int, ground: int) -> tuple[str, list[str]]:
        if self.reader == "text" and self.draw.random() < 0.25:
            return self._bare(objects, colours, style)
        self.named: list[str] = []
        text = self._template(len(objects))
        words = self._words(text, objects, colours, style, ground)
        return tidy(text.format(**words)), self.named

    def _template(self, count: int) -> str:
        pick = self.draw.choice
        if self.reader == "plain":
            return _PLAIN[0] if count == 1 else _PAIRS["cs"][0] + _GROUNDS[0]
        if self.reader in _NEVER_READ and count == 1:
            return pick(_NEVER_READ[self.reader])
        cores = _CORES if count == 1 else _PAIRS
        named = self.draw.choices(("cs", "c", "s", ""), (0.55, 0.15, 0.15, 0.15))[0]
        core = pick(cores[named])
        prefix = pick(_PREFIXES) if core.startswith("a ") else ""
        return prefix + core + (pick(_GROUNDS) if self.draw.random() < 0.7 else "")

    def _words(
        self, text: str, objects: Sequence[int], colours: Sequence[int], style: int, ground: int
    ) -> dict[str, str]:
        words = {}
        for i, (o, c) in enumerate((("o", "c"), ("p", "d"))[: len(objects)]):
            if f"{{{o}}}" in text:
                words[o] = self._object(objects[i])
            if f"{{{c}}}" in text:
                words[c] = self._word("colour", colours[i])
                exact = {f"object:{objects[i]}", f"colour:{colours[i]}"} <= set(self.named)
                self.named += [f"pair:{objects[i]}:{colours[i]}"] if exact else []
        if "{s}" in text:
            words["s"] = self._word("style", style)
        if "{n}" in text:
            words["n"] = self._noun(style)
        if "{b}" in text:
            words["b"] = self._word("background", ground)
        if len(objects) == 2:
            self.named.append("count:2")
        return words

    def _object(self, label: int) -> str:
        if self.reader in ("train", "text") and self.draw.random() < 0.05:
            return self.draw.choice(_ANY_OBJECT)
        return self._word("object", label)

    def _word(self, factor: str, label: int) -> str:
        found = FACTORS[factor][label]
        if self.reader in ("train", "text") and found.family and self.draw.random() < 0.08:
            self.named.append(f"family:{found.family}")
            return GENERAL[found.family]
        self.named.append(f"{factor}:{label}")
        return self._name(found)

    def _name(self, found: Concept) -> str:
        others = found.synonyms if self.reader == "train" else (*found.synonyms, *found.unread)
        if not self.synonyms or self.reader == "plain" or self.draw.random() < _NAMES:
            return found.name
        return self.draw.choice(others)

    def _noun(self, style: int) -> str:
        self.named.append(f"style:{style}")
        return STYLES[style].noun

    def _bare(self, objects: Sequence[int], colours: Sequence[int], style: int) -> tuple[str, list[str]]:
        self.named = []
        which = self.draw.randrange(len(objects))
        labels = {"object": objects[which], "colour": colours[which], "style": style}
        factor = self.draw.choices(("object", "colour", "style", "none"), (0.42, 0.22, 0.31, 0.05))[0]
        if factor == "none":
            return tidy(self.draw.choice(("", "a photo", "a drawing", "a photo of a shape", "a shape"))), []
        noun = factor == "style" and self.draw.random() < 0.3
        word = self._noun(style) if noun else self._word(factor, labels[factor])
        return tidy(self.draw.choice(_BARE).format(w=word)), self.named


def tidy(text: str) -> str:
    """Articles put right.

    >>> tidy("a orange circle and a oval")
    'an orange circle and an oval'
    """
    return re.sub(r"\ba (?=[aeiou])", "an ", text).replace(" a no pattern", " no pattern").strip()


def every_word() -> list[str]:
    """All words that captions are made of, for the vocabulary."""
    texts = [*_PREFIXES, *_GROUNDS, *_BARE, *_HELD_OUT, *_PLAIN, *GENERAL.values(), *_ANY_OBJECT, "an"]
    texts += [t for group in (*_CORES.values(), *_PAIRS.values()) for t in group]
    for values in FACTORS.values():
        texts += [w for c in values for w in (c.name, *c.synonyms, *c.unread, c.noun)]
    words = {w for text in texts for w in re.findall(r"[a-z]+|,", re.sub(r"\{.\}", " ", text))}
    return sorted(words)
