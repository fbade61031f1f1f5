"""What everyone is to what is erased: registries from any source of relations, one for each erasure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from efface._errors import InputError
from efface._text import shown
from efface._validate import did_you_mean
from efface.audit.remembrance.registry import TARGET, UNRELATED, Registry, Relation, normalised
from efface.core.doors import check_call, is_applied

Relations = Callable[[str], Mapping[str, str]]
"""What is erased -> relations of others to it, by name; who is not there is unrelated."""
Places = Mapping[str, Sequence[str]]
"""Name -> where it stands in a hierarchy, from the top: `{"cat": ("animals", "mammals")}`."""
_SIBLING, _NEIGHBOUR = "sibling", "neighbour"


def related(
    asked: Sequence[str],
    erased: Sequence[str] | Mapping[str, str],
    source: Relations | Places,
    *,
    popularity: Sequence[float] | None = None,
    similarity: Callable[[str], Sequence[float]] | None = None,
    groups: Mapping[str, Sequence[Any]] | None = None,
) -> dict[str, Registry]:
    """A registry for each erasure, for `registry=` of `remembered_by_pictures` and its like.

    Sources: places in a hierarchy (an emoji's group and subgroup), where those of one last place are siblings, those of
    the same first place neighbours, and the rest unrelated; or a function, such as
    `lambda name: efface.diffusion.wordnet_relations(name, asked)` or
    `lambda name: efface.diffusion.select_anchors(pipe, name, words).relations`.

    Args:
        asked: Whom or what is asked for.
        erased: What is erased; or name of each erasure -> what it erases.
        source: Relations, or places.
        popularity: Of each that is asked for.
        similarity: What is erased -> similarity to it of each that is asked for.
        groups: Dimension -> group of each that is asked for.

    Raises:
        InputError: If someone has no place, what is erased has none, or a relation is none of efface's.

    >>> places = {"cat": ("animals", "mammals"), "dog": ("animals", "mammals"), "eel": ("animals", "fish")}
    >>> places["oak"] = ("plants", "trees")
    >>> found = related(list(places), ["cat"], places)["cat"]
    >>> [(entity.id, entity.relation) for entity in found]
    [('cat', 'target'), ('dog', 'sibling'), ('eel', 'neighbour'), ('oak', 'unrelated')]
    """
    check_call(related, locals())
    if not len(asked) or not len(erased):
        raise InputError(f"asked has {len(asked)} names and erased {len(erased)}: give at least one of each")
    if not isinstance(source, Mapping) and not is_applied(source):
        raise InputError(f"source is {shown(source)}: give a function, or name -> places in a hierarchy")
    arms = dict(erased) if isinstance(erased, Mapping) else {name: name for name in erased}
    if odd := [each for each in (*asked, *arms, *arms.values()) if not isinstance(each, str)]:
        raise InputError(f"asked or erased has {shown(odd[0])}: write names")
    found = {}
    for arm, name in arms.items():
        kin = _by_place(source, asked, name) if isinstance(source, Mapping) else _by_name(source(name), name)
        relation = [TARGET if normalised(each) == normalised(name) else kin.get(normalised(each), UNRELATED)
                    for each in asked]  # fmt: skip
        alike = None if similarity is None else similarity(name)
        found[arm] = Registry.of(asked, relation=relation, popularity=popularity, similarity=alike, groups=groups)
    return found


def _by_name(relations: Any, name: str) -> dict[str, str]:
    if not isinstance(relations, Mapping):
        raise InputError(f"source gives {shown(relations)} for {name!r}: expected name -> relation")
    words = get_args(Relation)
    for other, relation in relations.items():
        if not isinstance(other, str) or relation not in words:
            near = did_you_mean(relation, words) if isinstance(relation, str) else ""
            raise InputError(
                f"source says that {shown(other)} is {shown(relation)} to {name!r}: write one of "
                f"{', '.join(words)}{near}"
            )
    return {normalised(other): relation for other, relation in relations.items()}


def _by_place(source: Places, asked: Sequence[str], name: str) -> dict[str, str]:
    places = {normalised(each): tuple(_place(source[each], each)) for each in source}
    for each in (name, *asked):
        if normalised(each) not in places:
            raise InputError(
                f"source has no place for {each!r}{did_you_mean(each, list(source))}: give one to everyone"
            )
    own = places[normalised(name)]
    found = {}
    for each in asked:
        other = places[normalised(each)]
        if other == own:
            found[normalised(each)] = _SIBLING
        elif other[0] == own[0]:
            found[normalised(each)] = _NEIGHBOUR
    return found


def _place(place: Any, name: str) -> Sequence[str]:
    if isinstance(place, str) or not isinstance(place, Sequence) or not place:
        raise InputError(f"the place of {name!r} is {shown(place)}: write it from the top, ('animals', 'mammals')")
    return place
