"""What is to be erased from a pipeline, and what is to stay: one value that every eraser is fitted to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from efface._errors import InputError

if TYPE_CHECKING:
    from efface.pipelines.view import PipelineView

KeySpan = Literal["last", "last_to_end", "all"]
_LISTS = ("synonyms", "preserve", "templates")


@dataclass(frozen=True)
class ErasureSpec:
    """A concept to erase.

    Attributes:
        target: The word or phrase to erase.
        synonyms: Other words for it, to be erased with it.
        anchor: What to show instead, for erasers that redirect; None lets them choose.
        preserve: Words that must keep their meaning.
        templates: Prompts with `{}` in place of the concept.
        key_span: Which rows of a prompt erasers of keys and values edit: `"last"` the last row of the word,
            `"last_to_end"` from there to the end of the window (the end-of-text and padding rows carry the whole
            prompt's meaning), `"all"`.
        neutral: The prompt that means nothing.

    Raises:
        InputError: If a concept is empty, named twice, or both erased and preserved; if a template has no place.

    >>> ErasureSpec("circle", synonyms=["disc"]).prompts()
    ('circle', 'disc', 'a photo of circle', 'a photo of disc', 'a picture of circle', 'a picture of disc')
    """

    target: str
    synonyms: Sequence[str] = ()
    anchor: str | None = None
    preserve: Sequence[str] = ()
    templates: Sequence[str] = ("{}", "a photo of {}", "a picture of {}")
    key_span: KeySpan = "last_to_end"
    neutral: str = ""

    def __post_init__(self) -> None:
        for name in _LISTS:
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        _text("target", self.target)
        if self.anchor is not None and not isinstance(self.anchor, str):
            raise InputError(f"anchor must be a string or None, not {type(self.anchor).__name__}")
        if not isinstance(self.neutral, str):
            raise InputError(f"neutral must be a string, not {type(self.neutral).__name__}")
        if self.key_span not in get_args(KeySpan):
            raise InputError(f"unknown key_span {self.key_span!r}: choose one of {', '.join(get_args(KeySpan))}")
        if not self.templates:
            raise InputError("templates is empty: give at least one, such as '{}'")
        for template in self.templates:
            if template.count("{}") != 1:
                raise InputError(f"the template {template!r} must have {{}} once, in place of the concept")
        self._check_names()

    def _check_names(self) -> None:
        for group, words in (("target and synonyms", self.concepts), ("preserve", self.preserve)):
            seen: set[str] = set()
            for word in words:
                if _key(word) in seen:
                    raise InputError(f"{word!r} is given twice in {group}: leave one out")
                seen.add(_key(word))
        erased = {_key(word) for word in self.concepts}
        for word in self.preserve:
            if _key(word) in erased:
                raise InputError(
                    f"{word!r} is to be erased and preserved: take it out of preserve, or out of the concept"
                )
        if self.anchor is not None and _key(self.anchor) in erased:
            raise InputError(f"the anchor {self.anchor!r} is what is to be erased: name something else")

    @classmethod
    def of(cls, concept: str | Mapping[str, Any] | ErasureSpec, **fields: Any) -> ErasureSpec:
        """A spec from a word, from plain data, or from a spec with some fields replaced.

        >>> ErasureSpec.of("circle", anchor="square").anchor
        'square'
        """
        if isinstance(concept, ErasureSpec):
            return dataclasses.replace(concept, **_known(fields)) if fields else concept
        if isinstance(concept, Mapping):
            return cls.from_dict({**concept, **fields})
        if isinstance(concept, list | tuple):
            raise InputError(f"here is room for one concept, not {len(concept)}: give one, and fit an erasure for each")
        return cls(concept, **_known(fields))

    @classmethod
    def each(cls, concepts: Concepts) -> tuple[ErasureSpec, ...]:
        """A spec a concept, of one concept or of a list of them.

        Raises:
            InputError: If there is none, one is given twice, or what one erases another preserves.

        >>> [spec.target for spec in ErasureSpec.each(["circle", ErasureSpec("star")])]
        ['circle', 'star']
        """
        single = isinstance(concepts, str | Mapping | ErasureSpec)
        specs = (cls.of(concepts),) if single else tuple(cls.of(concept) for concept in concepts)
        if not specs:
            raise InputError("there is no concept: write a word, a spec, or a list of them")
        erased: set[str] = set()
        for spec in specs:
            for word in map(_key, spec.concepts):
                if word in erased:
                    raise InputError(f"{word!r} is to be erased twice: leave one out")
                erased.add(word)
        for spec in specs:
            for word in spec.preserve:
                if _key(word) in erased:
                    raise InputError(f"{word!r} is erased by one spec and preserved by that of {spec.target!r}")
        return specs

    @property
    def name(self) -> str:
        """The target."""
        return self.target

    @property
    def concepts(self) -> tuple[str, ...]:
        """The target and its synonyms."""
        return (self.target, *self.synonyms)

    def prompts(self, words: str | Sequence[str] | None = None) -> tuple[str, ...]:
        """Every template with every word in it; None stands for the target and its synonyms."""
        chosen = self.concepts if words is None else (words,) if isinstance(words, str) else words
        return tuple(template.replace("{}", word) for template in self.templates for word in chosen)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ErasureSpec:
        """What `to_dict` gave.

        Raises:
            InputError: If there is no target, or a field is unknown.
        """
        if "target" not in data:
            raise InputError(f"a spec needs a target, got only {', '.join(data) or 'nothing'}")
        return cls(**_known(data))

    def check(self, view: PipelineView) -> None:
        """Refuse what a pipeline cannot read.

        Raises:
            InputError: If a word is unknown to one of its tokenizers, or a prompt is longer than its window.
        """
        view.check_concept(self)


def _key(word: str) -> str:
    return " ".join(word.lower().split())


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, not {type(value).__name__}: {value!r}")
    if not value.strip():
        raise InputError(f"{name} has an empty concept: write a word or a phrase")


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        raise InputError(f"{name} must be a list of strings, not one string: write {name}=[{values!r}]")
    try:
        found = tuple(values)
    except TypeError:
        raise InputError(f"{name} must be a list of strings, not {type(values).__name__}") from None
    for value in found:
        _text(name, value)
    return found


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(ErasureSpec)]
    if unknown := sorted(set(fields) - set(names)):
        raise InputError(f"a spec has no field {unknown[0]!r}: it has {', '.join(names)}")
    return dict(fields)


Concepts: TypeAlias = str | Mapping[str, Any] | ErasureSpec | Sequence[str | Mapping[str, Any] | ErasureSpec]
"""What methods for several concepts are fitted to: a word, a spec, plain data of one, or a list of these."""
