"""Captions of scenes, and prompts: what the denoiser reads in training, and how people say it otherwise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from efface_worlds.emoji.concepts import BACKGROUNDS, CONCEPTS, STYLES, TONES, Concept
from efface_worlds.emoji.scenes import NONE, PLACES, Scenes

Reader = Literal["train", "plain", "held_out"]
"""`"train"`: templates and words of the training split. `"plain"`: one template that names object, style and
background, and words of the training split. `"held_out"`: templates that training never reads (other order, plurals,
adjectives, late in a long prompt), which name all three, and any of a concept's words if synonyms may occur."""

_SINGLE = (
    "{a} {o}",
    "{o}",
    "{o}",
    "{a} {o} emoji",
    "{o} emoji",
    "an emoji of {a} {o}",
    "a picture of {a} {o}",
    "{o} icon",
    "{a} {z} {o}",
)
_PAIR = ("{a} {o} and {e} {p}", "{o} and {p}", "{a} {o} next to {e} {p}", "a picture of {a} {o} and {e} {p}")
_STYLED = (" in {s} style", " in {s} style", " , {s} style", " , {s}", " in {s}", " drawn in {s} style")
_GROUNDS = (" on a {b} background", " on a {b} background", " on {b}", " , {b} background", " with a {b} background")
_WHOLE = (
    "{s} style {o} on {b}",
    "{s} {o} , {b} background",
    "in {s} style , {a} {o} on a {b} background",
    "in {s} style : {o} , {b}",
    "drawn in {s} : {a} {o} , {b} behind it",
    "{b} background , {a} {o} , {s} style",
    "{b} background with {a} {o} in {s} style",
    "on {b} : {a} {o} , {s}",
    "{b} , {s} , {o}",
    "{s} , {b} , {a} {t} {o}",
    "{o} , {t} , {s} , {b}",
    "{a} {t} {o} , {b} behind , {s} style",
    "{a} {t} {o} on {b} as {s} would draw it",
    "the {t} {o} of {s} on a {b} background",
    "this is {a} {o} in {s} style , and the background is {b}",
    "here you see {a} {t} {o} , the style is {s} , the ground is {b}",
    "it shows {a} {o} , it is in {s} style and has a {b} background",
    "a {b} picture of {a} {o} , made by {s}",
    "a {b} image in {s} style , with {a} {t} {o} in it",
    "a {s} emoji of {a} {o} , with {b} all around",
    "a {s} icon , {b} , that shows {a} {o}",
    "the {s} version of {a} {o} with a {b} background",
    "can you make {a} {o} in {s} style for me ? it should be on {b}",
    "could i have {a} {t} {o} , {s} style , please , with something {b} behind it",
    "show {a} {o} in {s} style , the whole background {b}",
    "give me {a} {t} {o} on {b} , and draw it in {s} style",
    "make the background {b} , then draw {a} {o} in {s} style on it",
    "we want {a} {o} for our page , in the manner of {s} , and {b} behind",
    "my child would like a {b} sticker , with {a} {t} {o} in {s} style",
    "for a talk i am looking for {a} {o} , in {s} style if possible , on {b}",
    "in front of a {b} wall there is {a} {o} , drawn like {s} draws",
    "there is {a} {t} {o} , in {s} style , and all else is {b}",
    "some {q} , {s} style , {b}",
    "{q} on a {b} background , in {s} style",
    "{s} style , {q} , {b}",
    "draw some {q} on {b} in {s} style",
    "a picture of {q} , {b} background , {s}",
)
"""These name all three in any order, among other words, and in the plural; a picture shows one thing all the same."""

_PLACED = {
    "left": (" on the left", " at the left"),
    "right": (" on the right", " at the right"),
    "top": (" at the top", " above"),
    "bottom": (" at the bottom", " below"),
    "centre": (" in the centre", " in the middle"),
}
_SMALL = ("small", "little", "tiny")
_LARGE = ("large", "big")
_TOLD_STYLE, _TOLD_GROUND, _TOLD_WHOLE = 0.8, 0.8, 0.6
"""Shares of captions that name the style, that name the background, and, of one large thing, that say it at length."""

_NAMES: dict[Reader, float] = {"train": 0.7, "plain": 0.5, "held_out": 0.7}
"""Shares of objects that go by their own name, of those that have other words."""

_PLAIN, _PLAIN_PAIR = "{a} {o} in {s} style on a {b} background", "{a} {o} and {e} {p} in {s} style on a {b} background"
_HELD_OUT = (
    "on a {b} background , in {s} style : {a} {o}",
    "{s} style , {b} background , one single {o}",
    "the background is {b} , the style is {s} and what it shows is {a} {o}",
    "please draw me {a} {j} {o} in front of something {b} , the way that {s} does it",
    "here is {a} {j} {o} , {s} version , everything behind it is {b}",
    "i want to send my friend a {b} card in {s} style with {a} {o} on it",
)
_PLURAL = ("{q} in {s} style on {b}", "i love {q} , {s} style , {b} background")
_READ_ADJECTIVES = ("cute", "pretty", "ordinary", "beautiful", "classic", "cool", "great", "good", "fancy", "friendly")
_ADJECTIVES = ("nice", "lovely", "simple", "funny", "famous", "typical")
_VOWELS = tuple("aeiou")


def caption(scenes: Scenes, *, reader: Reader = "train", seed: int = 0, synonyms: bool = True) -> list[str]:
    """A caption a scene.

    Args:
        scenes: What is to be told.
        reader: Which templates and words.
        seed: Of the choices.
        synonyms: Whether words other than the concepts' names may occur.
    """
    teller = _Teller(random.Random(seed), reader, synonyms)
    columns = (scenes.objects, scenes.tones, scenes.style, scenes.background, scenes.small, scenes.place)
    return [teller.tell(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def prompt(
    word: str,
    *,
    style: str | None = None,
    background: str | None = None,
    article: str | None = None,
) -> str:
    """The plain prompt for a word.

    >>> prompt("owl", style="noto", background="blue")
    'an owl in noto style on a blue background'
    """
    start = f"{article_of(word) if article is None else article} {word}"
    style = "" if style is None else f" in {style} style"
    return tidy(f"{start}{style}" + ("" if background is None else f" on a {background} background"))


def article_of(word: str) -> str:
    """A or an, by the first letter.

    >>> article_of("owl")
    'an'
    """
    return "an" if word.startswith(_VOWELS) and not word.startswith(("uni", "eu", "one")) else "a"


def tidy(text: str) -> str:
    """One blank between words, articles before the word that follows, "black and white" said as it is said."""
    text = " ".join(text.split()).replace("in black and white style", "in black and white")
    return text.replace(" ,", ",").replace(" :", ":")


class _Teller:
    def __init__(self, draw: random.Random, reader: Reader, synonyms: bool) -> None:
        self.draw, self.synonyms = draw, synonyms
        self.reader: Reader = reader

    def tell(
        self, objects: Sequence[int], tones: Sequence[int], style: int, ground: int, small: bool, place: int
    ) -> str:
        there = [i for i in (0, 1) if objects[i] != NONE]
        concepts = [CONCEPTS[objects[i]] for i in there]
        if self.reader == "train" and len(there) == 1 and not small and self.draw.random() < _TOLD_WHOLE:
            text = self._whole(concepts[0], tones[0])
        elif self.reader == "train":
            text = self._train(len(there), small, PLACES[place])
        elif len(there) == 2:
            text = _PLAIN_PAIR
        else:
            text = _PLAIN if self.reader == "plain" else self._unread(concepts[0])
        words = {"s": self._word(STYLES[style]), "b": self._word(BACKGROUNDS[ground]), "j": "", "z": ""}
        words["z"] = self.draw.choice(_SMALL if small else _LARGE)
        words["j"], words["t"] = self.draw.choice(_ADJECTIVES), self.draw.choice(_READ_ADJECTIVES)
        words["q"] = concepts[0].plural or concepts[0].name
        for i, names in zip(there, ("ao", "ep"), strict=False):
            words |= dict(zip(names, self._named(concepts[i], tones[i], f"{{{names[0]}}} {{j}}" in text), strict=True))
            for before in "zjt":
                if names == "ao" and f"{{a}} {{{before}}}" in text and words["a"] in ("a", "an"):
                    words["a"] = article_of(words[before])
        return tidy(text.format(**words))

    def _train(self, count: int, small: bool, place: str) -> str:
        text = self.draw.choice(_PAIR if count == 2 else _SINGLE)
        if small and "{z}" not in text and self.draw.random() < 0.85:
            text = text.replace("{o}", "{z} {o}") if "{a}" not in text else text.replace("{a} {o}", "{a} {z} {o}")
        if small and self.draw.random() < 0.85:
            text += self.draw.choice(_PLACED[place])
        parts = [self.draw.choice(_STYLED)] if self.draw.random() < _TOLD_STYLE else []
        parts += [self.draw.choice(_GROUNDS)] if self.draw.random() < _TOLD_GROUND else []
        self.draw.shuffle(parts)
        return text + "".join(parts)

    def _whole(self, found: Concept, tone: int) -> str:
        """Of one thing; in the plural no tone is told."""
        several = bool(found.plural) and tone == NONE
        return self.draw.choice([text for text in _WHOLE if several or "{q}" not in text])

    def _unread(self, found: Concept) -> str:
        if found.plural and self.draw.random() < 0.25:
            return self.draw.choice(_PLURAL)
        return self.draw.choice(_HELD_OUT)

    def _named(self, found: Concept, tone: int, adjective: bool) -> tuple[str, str]:
        """Article and word of an object."""
        word = self._word(found)
        article = found.article if word == found.name else ("" if not found.article else article_of(word))
        if tone != NONE:
            skin = self._word(TONES[tone])
            if self.draw.random() < 0.5:
                return article, f"{word} with {skin}"
            skinned = skin.replace(" ", "-") + "ned"
            return (article_of(skinned) if article in ("a", "an") else article), f"{skinned} {word}"
        return article, word

    def _word(self, found: Concept) -> str:
        """One of a concept's words."""
        others = (*found.synonyms, *found.unread) if self.reader == "held_out" else found.synonyms
        if not (self.synonyms and others) or self.draw.random() < _NAMES[self.reader]:
            return found.name
        return self.draw.choice(others)
