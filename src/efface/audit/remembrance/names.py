"""Who is named in running text: names of a registry, found by whole words, the longest first."""

from __future__ import annotations

from collections.abc import Iterator

from efface._errors import InputError
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.systems import Mention, Observation
from efface.audit.remembrance.words import words
from efface.core.doors import check_call


class AliasMatcher:
    """Finds ids and aliases of a registry in text.

    Names are compared as `Registry.resolve` does, word by word; of names that begin at one word the longest counts, and
    nothing within it. A name that stands for several, which a registry with `ambiguous="apart"` has, is unresolved.

    Args:
        registry: Who may be named.

    Raises:
        InputError: If names of two entities have the same words, and the registry does not keep such apart.

    Does not guarantee: that who is called by another name, or by "she", is found; that a name that is a common word
    too means them; words in scripts that put no space between them, where a name is found in a longer one too; endings
    that are joined to a name, as in Korean or Finnish. Audit the matcher: groups that differ before are a sign.

    >>> from efface.audit.remembrance.registry import Entity
    >>> matcher = AliasMatcher(Registry([Entity("ada", ("Ada Lovelace",)), Entity("lovelace", ("Linda Lovelace",))]))
    >>> [mention.entity for mention in matcher.read("It was Ada Lovelace's; Lovelace knew.").mentions]
    ['ada', 'lovelace']
    """

    def __init__(self, registry: Registry) -> None:
        check_call(AliasMatcher.__init__, {"registry": registry})
        self._by_first: dict[str, list[tuple[list[str], str | None, str]]] = {}
        meant: dict[tuple[str, ...], tuple[str | None, str]] = {}
        for name, entity in registry.names.items():
            said = tuple(words(name))
            other = meant.setdefault(said, (entity, name))
            if other[0] != entity and registry.ambiguous_names is None:
                raise InputError(
                    f"the names {other[1]!r} and {name!r} have the same words, and stand for {other[0]} and for "
                    f"{entity}: take one away, or write Registry(..., ambiguous='apart')"
                )
            if other[0] != entity:
                meant[said] = None, name
        for said, (entity, name) in meant.items():
            self._by_first.setdefault(said[0], []).append((list(said), entity, name))
        for each in self._by_first.values():
            each.sort(key=lambda one: -len(one[0]))

    def read(self, text: str) -> Observation:
        """Who is named, by their first mention; each ambiguous name that is there is unresolved."""
        check_call(AliasMatcher.read, {"text": text})
        found = list(self._found(words(text)))
        ids = dict.fromkeys(entity for entity, _ in found if entity is not None)
        unresolved = dict.fromkeys(name for entity, name in found if entity is None)
        return Observation(
            tuple(Mention(entity, rank) for rank, entity in enumerate(ids)), unresolved=tuple(unresolved)
        )

    def _found(self, text: list[str]) -> Iterator[tuple[str | None, str]]:
        place = 0
        while place < len(text):
            for said, entity, name in self._by_first.get(text[place], ()):
                if text[place : place + len(said)] == said:
                    yield entity, name
                    place += len(said)
                    break
            else:
                place += 1
