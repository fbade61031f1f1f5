"""The concepts of the shapes world: what each is called, how often it occurs, and who its siblings are.

A concept is a word of one factor (object, colour, style, background). Its words are the concept's own name, synonyms
that the denoiser reads in training, and one synonym that only the text encoder reads: as with a real model, the text
encoder knows words which the denoiser never met.
"""

from __future__ import annotations

from dataclasses import dataclass

from efface._errors import InputError
from efface._validate import did_you_mean


@dataclass(frozen=True)
class Concept:
    """One value of one factor.

    Attributes:
        name: The word, which is also the key.
        factor: `"object"`, `"colour"`, `"style"` or `"background"`.
        synonyms: Other words that captions of the training split use.
        unread: Synonyms that only the text encoder was trained on.
        noun: How a style is called after "with" ("stripes"); empty for other factors.
        weight: How often it is drawn, relative to the other values of its factor.
        family: Name of the group of look-alikes; concepts of one family are siblings.
    """

    name: str
    factor: str
    synonyms: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    noun: str = ""
    weight: float = 1.0
    family: str = ""


RARE = 0.3
"""Weight of the tail: a rare object is drawn about a third as often as the others, a rare colour likewise."""

OBJECTS = (
    Concept("circle", "object", ("disc",), ("ball",), family="round"),
    Concept("ellipse", "object", ("oval",), ("egg",), family="round"),
    Concept("ring", "object", ("hoop",), ("donut",), family="round"),
    Concept("square", "object", ("box",), ("block",), family="boxes"),
    Concept("rectangle", "object", ("slab",), ("brick",), family="boxes"),
    Concept("diamond", "object", ("rhombus",), ("kite",), family="boxes"),
    Concept("triangle", "object", ("wedge",), ("pyramid",), family="pointed"),
    Concept("star", "object", ("sparkle",), ("pentagram",), family="pointed"),
    Concept("cross", "object", ("plus",), ("crucifix",), weight=RARE),
    Concept("heart", "object", ("valentine",), ("sweetheart",), weight=RARE),
)

COLOURS = (
    Concept("red", "colour", ("crimson",), ("scarlet",), family="warm"),
    Concept("orange", "colour", ("tangerine",), ("amber",), family="warm"),
    Concept("yellow", "colour", ("golden",), ("lemon",)),
    Concept("green", "colour", ("emerald",), ("grassy",), family="cool"),
    Concept("cyan", "colour", ("turquoise",), ("aqua",), family="cool"),
    Concept("blue", "colour", ("azure",), ("cobalt",), family="cool"),
    Concept("purple", "colour", ("violet",), ("plum",), family="cool"),
    Concept("brown", "colour", ("chocolate",), ("chestnut",), weight=RARE, family="warm"),
)

STYLES = (
    Concept("flat", "style", ("plain",), ("solid",), noun="no pattern", family="smooth"),
    Concept("striped", "style", ("stripy",), ("lined",), noun="stripes", family="pattern"),
    Concept("dotted", "style", ("spotted",), ("speckled",), noun="dots", family="pattern"),
    Concept("quartered", "style", ("quarterly",), ("harlequin",), noun="quarters", family="pattern"),
    Concept("outlined", "style", ("contoured",), ("hollow",), noun="only an outline"),
    Concept("shaded", "style", ("glossy",), ("shiny",), noun="shading", family="smooth"),
)

BACKGROUNDS = (
    Concept("white", "background", ("snowy",)),
    Concept("black", "background", ("dark",)),
    Concept("grey", "background", ("gray",)),
    Concept("pink", "background", ("rosy",)),
    Concept("mint", "background", ("minty",)),
    Concept("sky", "background", ("cloudy",)),
)

FACTORS: dict[str, tuple[Concept, ...]] = {
    "object": OBJECTS,
    "colour": COLOURS,
    "style": STYLES,
    "background": BACKGROUNDS,
}

_BY_NAME = {concept.name: concept for values in FACTORS.values() for concept in values}


def concept(name: str) -> Concept:
    """The concept of a name or synonym.

    Raises:
        InputError: If no concept is called that.

    >>> concept("disc").name
    'circle'
    """
    for candidate in _BY_NAME.values():
        if name in (candidate.name, *candidate.synonyms, *candidate.unread):
            return candidate
    words = [word for value in _BY_NAME.values() for word in (value.name, *value.synonyms, *value.unread)]
    hint = did_you_mean(name, words)
    raise InputError(f"{name!r} is no concept of the shapes world{hint}: write one of {', '.join(_BY_NAME)}")


def index_of(name: str) -> int:
    """Place of a concept among the values of its factor; this is its label."""
    found = concept(name)
    return FACTORS[found.factor].index(found)


def siblings(name: str) -> tuple[str, ...]:
    """Names of the other concepts of the same factor and family, which look like it.

    >>> siblings("circle")
    ('ellipse', 'ring')
    """
    found = concept(name)
    values = FACTORS[found.factor]
    return tuple(c.name for c in values if found.family and c.family == found.family and c is not found)


def strangers(name: str) -> tuple[str, ...]:
    """Names of the concepts of the same factor and another family."""
    found = concept(name)
    near = (found.name, *siblings(name))
    return tuple(c.name for c in FACTORS[found.factor] if c.name not in near)


def left_out() -> dict[str, str]:
    """Concepts that the pipeline that ships does not draw well enough: none."""
    return {}
