"""What is to be erased, and what is to stay: one value that every method is fitted to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from efface._errors import InputError
from efface._text import is_whole
from efface.core.doors import check_call, fits

_LISTS = ("synonyms", "preserve", "templates")
TEMPLATES = ("{}", "a photo of {}", "a picture of {}")
"""The templates of a concept that names none."""


@dataclass(frozen=True)
class Concept:
    """A concept to erase.

    No method reads all of it: `efface.erase` warns where one is told something that it does not read.

    Attributes:
        name: The word or phrase to erase; for rows and tokens, what the labels are called.
        synonyms: Other words for it, to be erased with it.
        erase_from: Of what it is an attribute ("red" of "apple"), for methods that erase it there alone; None erases it
            everywhere.
        anchor: What to show instead, for methods that redirect; None lets them choose.
        preserve: Words that must keep their meaning.
        templates: Prompts with `{}` in place of the concept.
        neutral: The prompt that means nothing.
        labels: Its labels, of rows `(n,)` or tokens. They belong to the data of a fit: they are not saved, and do not
            count when concepts are compared.

    Raises:
        InputError: If a name is empty, given twice, or both erased and preserved; if a template has no place.

    >>> Concept("circle", synonyms=["disc"]).prompts()
    ('circle', 'disc', 'a photo of circle', 'a photo of disc', 'a picture of circle', 'a picture of disc')
    """

    name: str
    synonyms: Sequence[str] = ()
    erase_from: str | None = None
    anchor: str | None = None
    preserve: Sequence[str] = ()
    templates: Sequence[str] = TEMPLATES
    neutral: str = ""
    labels: Any = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in _LISTS:
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        _text("name", self.name)
        for name in ("anchor", "erase_from"):
            if not isinstance(getattr(self, name), str | None):
                raise InputError(f"{name} must be a string or None, not {type(getattr(self, name)).__name__}")
        if not isinstance(self.neutral, str):
            raise InputError(f"neutral must be a string, not {type(self.neutral).__name__}")
        if not self.templates:
            raise InputError("templates is empty: give at least one, such as '{}'")
        for template in self.templates:
            if template.count("{}") != 1:
                raise InputError(f"the template {template!r} must have {{}} once, in place of the concept")
        self._check_names()

    def _check_names(self) -> None:
        for group, words in (("name and synonyms", self.words), ("preserve", self.preserve)):
            seen: set[str] = set()
            for word in words:
                if word_key(word) in seen:
                    raise InputError(f"{word!r} is given twice in {group}: leave one out")
                seen.add(word_key(word))
        erased = {word_key(word) for word in self.words}
        for word in self.preserve:
            if word_key(word) in erased:
                raise InputError(
                    f"{word!r} is to be erased and preserved: take it out of preserve, or out of the concept"
                )
        if self.anchor is not None and word_key(self.anchor) in erased:
            raise InputError(f"the anchor {self.anchor!r} is what is to be erased: name something else")

    @classmethod
    def of(cls, concept: ConceptLike, **fields: Any) -> Concept:
        """A concept from a word, from plain data, or from a concept with some fields replaced.

        >>> Concept.of("circle", anchor="square").anchor
        'square'
        """
        if isinstance(concept, Concept):
            return dataclasses.replace(concept, **_known(fields)) if fields else concept
        if isinstance(concept, Mapping):
            return cls.from_dict({**concept, **fields})
        if isinstance(concept, list | tuple):
            raise InputError(f"here is room for one concept, not {len(concept)}: give one, and fit an erasure for each")
        if not isinstance(concept, str):
            raise InputError(f"a concept is a word or efface.Concept(...), not a {type(concept).__name__}")
        return cls(concept, **_known(fields))

    @classmethod
    def each(cls, concepts: Concepts) -> tuple[Concept, ...]:
        """One concept or a list of them.

        Raises:
            InputError: If there is none, one is given twice, or what one erases another preserves or moves to.

        >>> [concept.name for concept in Concept.each(["circle", Concept("star")])]
        ['circle', 'star']
        """
        single = isinstance(concepts, str | Mapping | Concept)
        if not single and not isinstance(concepts, Sequence):
            raise InputError(f"a concept is a word or efface.Concept(...), not a {type(concepts).__name__}")
        found = (cls.of(concepts),) if single else tuple(cls.of(concept) for concept in concepts)
        if not found:
            raise InputError("there is no concept: write a word, a Concept, or a list of them")
        erased: set[str] = set()
        for concept in found:
            for word in map(word_key, concept.words):
                if word in erased:
                    raise InputError(f"{word!r} is to be erased twice: leave one out")
                erased.add(word)
        for concept in found:
            for word in concept.preserve:
                if word_key(word) in erased:
                    raise InputError(f"{word!r} is erased by one concept and preserved by {concept.name!r}")
            if concept.anchor is not None and word_key(concept.anchor) in erased:
                raise InputError(
                    f"{concept.anchor!r} is erased by one concept and the anchor of {concept.name!r}: name another"
                )
        return found

    @property
    def words(self) -> tuple[str, ...]:
        """The name and its synonyms."""
        return (self.name, *self.synonyms)

    @property
    def said(self) -> tuple[str, ...]:
        """The fields besides the name that say something.

        >>> Concept("circle", anchor="square", preserve=["star"]).said
        ('anchor', 'preserve')
        """
        fields = [field for field in dataclasses.fields(self) if field.name != "name"]
        found = [f.name for f in fields if f.name != "labels" and getattr(self, f.name) != f.default]
        return (*found, *(("labels",) if self.labels is not None else ()))

    def prompts(self, words: str | Sequence[str] | None = None) -> tuple[str, ...]:
        """Every template with every word in it; None stands for the name and its synonyms."""
        check_call(Concept.prompts, locals())
        chosen = self.words if words is None else (words,) if isinstance(words, str) else _texts("words", words)
        return tuple(template.replace("{}", word) for template in self.templates for word in chosen)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; without labels."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "labels"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Concept:
        """What `to_dict` gave.

        Raises:
            InputError: If there is no name, or a field is unknown.
        """
        check_call(Concept.from_dict, locals())
        data = {str(key): value for key, value in data.items()}
        if "name" not in data:
            raise InputError(f"a concept needs a name, got only {', '.join(data) or 'nothing'}")
        return cls(**_known(data))


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        raise InputError(f"{name} is one string: write a list, {name}=[{values!r}]")
    if isinstance(values, Tensor) or not fits(values, Iterable[str]):
        raise InputError(f"{name} must be a list of strings, not {type(values).__name__}")
    found = tuple(values)
    for value in found:
        _text(name, value)
    return found


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, not {type(value).__name__}")
    if not is_whole(value):
        raise InputError(f"{name} has half of a sign (a lone surrogate) in it: {value!r}")
    if not value.strip():
        raise InputError(f"{name} has an empty string: leave it out, or write a word")


def word_key(word: str) -> str:
    """A word as words are compared: whatever its case and spaces."""
    return " ".join(word.split()).casefold()


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(Concept)]
    if unknown := sorted(set(fields) - set(names)):
        raise InputError(f"a concept has no field {unknown[0]!r}: it has {', '.join(names)}")
    return dict(fields)


ConceptLike: TypeAlias = str | Mapping[str, Any] | Concept
Concepts: TypeAlias = ConceptLike | Sequence[ConceptLike]
"""What methods for several concepts are fitted to: a word, a concept, plain data of one, or a list of these."""
