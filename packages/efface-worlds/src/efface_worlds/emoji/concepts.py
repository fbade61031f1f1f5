"""The concepts of the emoji world: what each is called, who drew it, how often it occurs, and who its siblings are.

Names, groups and subgroups are Unicode's, by emojibase; each is joined by hand to the WordNet synset that the picture
shows. A concept's words are its own name, synonyms that captions of the training split use, and synonyms that none
uses: the text encoder knows them, as a real one does, and the denoiser never met them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._validate import did_you_mean

VOCABULARY = Path(__file__).parent / "vocabulary.json"
QUALITY = Path(__file__).parent / "weights" / "quality.json"
"""What the pipeline that ships draws of each concept; stage `quality` of training writes it."""


@dataclass(frozen=True)
class Concept:
    """Something that a picture shows.

    Attributes:
        name: The word, which is also the key.
        factor: `"object"`, `"style"`, `"background"` or `"tone"`.
        synonyms: Other words that captions of the training split use.
        unread: Words that they never use.
        article: `"a"`, `"an"`, `"the"` or none.
        plural: Of an object; empty where there is none.
        group: Unicode's, `"animals-nature"`.
        subgroup: Unicode's, `"animal-mammal"`; concepts of one subgroup are siblings.
        label: Unicode's own name, where a few are called otherwise here.
        hexcode: Unicode's code points.
        synset: WordNet 3.0's, `"cat.n.01"`; empty where it has none.
        offset: The synset's place in WordNet 3.0's nouns; -1 where it has none.
        profession: What a person does, whoever does it ("cook" of "woman cook"); empty for what is no person.
        designer: Of a style, the set of emoji that it is.
        weight: How often it is drawn, relative to the other values of its factor.
    """

    name: str
    factor: str
    synonyms: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    article: str = ""
    plural: str = ""
    group: str = ""
    subgroup: str = ""
    label: str = ""
    hexcode: str = ""
    synset: str = ""
    offset: int = -1
    profession: str = ""
    designer: str = ""
    weight: float = 1.0

    @property
    def words(self) -> tuple[str, ...]:
        """All of its words."""
        return (self.name, *self.synonyms, *self.unread)


STYLES = (
    Concept("noto", "style", ("google",), ("android",), designer="noto"),
    Concept("twemoji", "style", ("twitter",), ("tweet",), designer="twemoji"),
    Concept("fluent", "style", ("microsoft",), ("windows",), designer="fluent"),
    Concept("black and white", "style", ("monochrome",), ("colourless",), designer="contrast"),
)

BACKGROUNDS = (
    Concept("white", "background", unread=("snowy",)),
    Concept("black", "background", unread=("dark",)),
    Concept("grey", "background", ("gray",), unread=("ashen",)),
    Concept("pink", "background", unread=("rosy",)),
    Concept("yellow", "background", unread=("golden",)),
    Concept("green", "background", unread=("emerald",)),
    Concept("blue", "background", unread=("azure",)),
    Concept("purple", "background", ("violet",), unread=("lilac",)),
)

TONES = (
    Concept("light skin", "tone", ("pale skin",), ("fair skin",)),
    Concept("medium skin", "tone", ("tan skin",), ("olive skin",)),
    Concept("dark skin", "tone", ("black skin",), ("deep skin",)),
)

RANK, EXPONENT = 50, 0.5
"""How often an object is drawn falls with its rank r as (1 + r / 50) ** -1/2: the last is drawn .28 times the first."""


def _read() -> tuple[Concept, ...]:
    return tuple(_concept(entry) for entry in json.loads(VOCABULARY.read_text(encoding="utf-8")))


def _concept(entry: dict[str, Any]) -> Concept:
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    rank = given.pop("rank")
    return Concept(factor="object", weight=(1 + rank / RANK) ** -EXPONENT, **given)


CONCEPTS = _read()
"""Everything that is drawn: things first, then people."""

FACTORS: dict[str, tuple[Concept, ...]] = {
    "object": CONCEPTS,
    "style": STYLES,
    "background": BACKGROUNDS,
    "tone": TONES,
}


@cache
def _by_word() -> dict[str, Concept]:
    known: dict[str, Concept] = {}
    for values in FACTORS.values():
        for value in values:
            known |= {word: value for word in value.words if word not in known}
    return known | {value.name: value for values in FACTORS.values() for value in values}


def concept(name: str) -> Concept:
    """The concept of a name or synonym.

    Raises:
        InputError: If no concept is called that.
    """
    found = _by_word().get(name.strip().lower())
    if found is None:
        raise InputError(
            f"{name!r} is no concept of the emoji world{did_you_mean(name.strip().lower(), _by_word())}: "
            f"it draws {len(CONCEPTS)} things, see  efface_worlds.emoji.subgroups()"
        )
    return found


def index_of(name: str) -> int:
    """Place of a concept among the values of its factor; this is its label."""
    found = concept(name)
    return FACTORS[found.factor].index(found)


def subgroups() -> dict[str, tuple[str, ...]]:
    """Subgroup -> names of its concepts."""
    return _grouped("subgroup")


def groups() -> dict[str, tuple[str, ...]]:
    """Group -> names of its concepts."""
    return _grouped("group")


def professions() -> dict[str, tuple[str, ...]]:
    """Profession -> names of its concepts: a person, a woman and a man who have it."""
    return {key: names for key, names in _grouped("profession").items() if key}


def named_by(name: str) -> tuple[str, ...]:
    """Names of the concepts that a concept's, subgroup's, group's or profession's name means.

    `"profession:cook"` means all cooks, `"cook"` the one whose gender is not said; `"subgroup:hotel"` the things of
    that subgroup, `"hotel"` the building, since a concept's own name means the concept.

    Raises:
        InputError: If nothing is called that.
    """
    kind, _, key = name.partition(":")
    asked = {"profession": professions(), "subgroup": subgroups()}.get(kind, {})
    if key in asked:
        return asked[key]
    if not any(name == each.name for each in CONCEPTS):
        for named in (subgroups(), groups()):
            if name in named:
                return named[name]
    return (concept(name).name,)


def siblings(name: str) -> tuple[str, ...]:
    """Names of the other concepts of the same subgroup; of a person, of the same profession."""
    found = concept(name)
    if found.factor != "object":
        return ()
    near = professions()[found.profession] if found.profession else subgroups()[found.subgroup]
    return tuple(other for other in near if other != found.name)


def strangers(name: str) -> tuple[str, ...]:
    """Names of the concepts of the same factor and another group; of styles and grounds, the others."""
    found = concept(name)
    values = FACTORS[found.factor]
    if found.factor != "object":
        return tuple(c.name for c in values if c is not found)
    return tuple(c.name for c in values if c.group != found.group)


@cache
def left_out() -> dict[str, str]:
    """Concepts that the pipeline that ships does not draw well enough, and how often the judges see each.

    They are drawn by hand, and known by name; tables, prompts about anything, and siblings in tables leave them out.
    """
    if not QUALITY.is_file():
        return {}
    found = json.loads(QUALITY.read_text(encoding="utf-8"))
    judges = [name for name in found["judges"] if name != "nearest"]
    hits = {name: found["by_concept"][name] for name in found["left_out"]}
    return {name: _seen(each, judges) for name, each in hits.items()}


def _seen(hits: dict[str, int], judges: list[str]) -> str:
    return f"in {' and '.join(str(hits[judge]) for judge in judges)} of {hits['of']} pictures"


def _grouped(field: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for value in CONCEPTS:
        found.setdefault(getattr(value, field), []).append(value.name)
    return {key: tuple(names) for key, names in found.items()}
