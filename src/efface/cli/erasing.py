"""What is to be erased from a pipeline, as commands are told it: concepts, their anchors, and the fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

from efface._errors import EffaceError, EffaceWarning, InputError
from efface._validate import did_you_mean
from efface.cli.pipeline_options import Erasing
from efface.cli.settings import parsed
from efface.core.concept import Concept, word_key
from efface.core.erasure import Erasure
from efface.core.method import Method, erase, get_method
from efface.diffusion.anchors.anchors import Anchors
from efface.diffusion.anchors.selection import Selector, apart
from efface.pipelines.view import PipelineView

SELECT = "select"
"""The anchor that stands for the choice of one."""

FIELDS = {
    "synonym": "synonyms",
    "preserve": "preserve",
    "template": "templates",
    "anchor": "anchor",
    "erase_from": "erase_from",
}
"""Flag -> field of the concept."""

_SOURCES = ("wordnet", "vocabulary")
_SHOWN = 12
_IN_SHELL = {
    "give candidates=[...]": "write --candidates word,word",
    "Give other candidates=[...], or loosen sibling= or exclusive=": "Write others with --candidates word,word",
    "candidates=[...]": "--candidates word,word",
    "candidates='vocabulary'": "--candidates vocabulary",
    "candidates='wordnet'": "--candidates wordnet",
    "candidates is empty: give": "--candidates is empty: write",
    "candidates has an empty string": "--candidates has an empty word",
    "synset='...'": "--synset NAME",
}
"""What the library says of its own call, and what is written in the shell instead."""
ON_ANOTHER = {
    ", or write on(model, check=False) if you know that it still fits": " on this one",
    ", or write on(model, check=False) if you know that the erasure still fits": " on this one",
}
"""The same of an erasure that does not suit a pipeline."""


@contextmanager
def in_shell(said: dict[str, str]) -> Iterator[None]:
    """Within, what is refused is said as the shell would write it."""
    try:
        yield
    except EffaceError as error:
        text = str(error)
        for call, flag in said.items():
            text = text.replace(call, flag)
        raise type(error)(text) from error


def loaded(folders: Sequence[Path], view: PipelineView) -> Erasure | None:
    """Erasures that were saved, one after the other, which the pipeline takes; None where none is named.

    Raises:
        InputError: If they were fitted to another pipeline.
    """
    if not folders:
        return None
    found = reduce(and_, map(Erasure.load, folders))
    with in_shell(ON_ANOTHER):
        found.on(view).undo()
    return found


def read_concepts(names: Sequence[str], args: Erasing) -> tuple[Concept, ...]:
    """The concepts that a user names, with all but an anchor that is to be chosen.

    Raises:
        InputError: If they cannot be: no word, an anchor that is erased or preserved, flags that do not go together.
    """
    given = {f: value for flag, f in FIELDS.items() if (value := getattr(args, flag)) is not None and value != []}
    if args.anchor == SELECT:
        del given["anchor"]
    elif flags := [f"--{name}" for name in ("candidates", "synset") if getattr(args, name) is not None]:
        raise InputError(f"{flags[0]} is about the choice of an anchor: it goes with --anchor {SELECT}")
    if len(names) > 1 and (alone := [f for f in ("synonym", "erase_from", "synset") if getattr(args, f)]):
        raise InputError(
            f"--{alone[0].replace('_', '-')} is about one concept, and here are {len(names)}: erase it alone"
        )
    found = Concept.each([Concept(name, **given) for name in names])
    if args.anchor is not None and word_key(args.anchor) in map(word_key, args.preserve):
        raise InputError(
            f"the anchor {args.anchor!r} is also to be preserved: leave it out of --preserve, as what is shown in a "
            "word's place stays by itself"
        )
    return found


def fitted(
    args: Erasing,
    concepts: Sequence[Concept],
    view: PipelineView,
    world: Any,
    say: Callable[[str], None],
    **data: Any,
) -> Erasure:
    """The erasure of concepts, with what the user leaves open: anchors that are chosen, and what a world would keep.

    Args:
        args: The flags.
        concepts: What `read_concepts` gave.
        view: Of the pipeline.
        world: Whose it is, or None.
        say: Told what was chosen.
        **data: For the fit.

    Raises:
        InputError: If the method, an option or a concept cannot be used.
    """
    method = get_method(args.method or "", "pipeline")
    options = parsed(method, args.settings)
    for each in concepts:
        named = (*each.words, *each.preserve, each.anchor, each.erase_from)
        view.check_prompts([word for word in named if word])
    chosen: tuple[Anchors, ...] = ()
    if args.anchor == SELECT:
        chosen = choose(args, concepts, view, world)
        for each in chosen:
            say(_told(each))
        concepts = [each.fill(concept) for each, concept in zip(chosen, concepts, strict=True)]
    if world is not None and not args.preserve and args.anchor in (None, SELECT):
        concepts = with_defaults(method, options, concepts, world)
    every = list(concepts)
    found = erase(view, every if len(every) > 1 else every[0], method=method.name, **options, **data)
    how = {each.concept: {"anchor": each.anchor, "how": each.how, "sense": each.sense} for each in chosen}
    return replace(found, provenance={**found.provenance, "anchors": how}) if how else found


def choose(args: Erasing, concepts: Sequence[Concept], view: PipelineView, world: Any) -> tuple[Anchors, ...]:
    """The anchor of each concept, as `efface.diffusion.select_anchors` chooses; what one erases is no other's."""
    erased = tuple(word for concept in concepts for word in concept.words)
    selector = Selector.of(view, {})
    with in_shell(_IN_SHELL):
        return apart(
            [
                selector.choose(concept, erased, _candidates(args, concept, world), None, args.synset, None)
                for concept in concepts
            ]
        )


def _candidates(args: Erasing, concept: Concept, world: Any) -> Any:
    """A source, or words: a user's, or else a world's siblings of the concept."""
    if args.candidates in _SOURCES:
        return args.candidates
    if args.candidates is not None:
        if hint := did_you_mean(args.candidates, _SOURCES):
            raise InputError(f"--candidates {args.candidates}{hint}: write {' or '.join(_SOURCES)}, or word,word")
        return [word.strip() for word in args.candidates.split(",")]
    near = [] if world is None or args.synset is not None else _near(world, concept)
    return near or _SOURCES[0]


def _near(world: Any, concept: Concept) -> list[str]:
    """What a world would keep beside a concept; nothing of a word that it does not know."""
    try:
        return list(world.preserve(concept.name))
    except InputError:
        return []


def _told(anchors: Anchors) -> str:
    """What was chosen and why, without most of what was not."""
    shown = [each for each in anchors.table if each.role != "dropped"][:_SHOWN]
    shown += [each for each in anchors.table if each.role == "dropped"][: _SHOWN - len(shown)]
    more = len(anchors.table) - len(shown)
    lines = str(replace(anchors, table=tuple(shown)))
    return f"{lines}\nand {more} more candidates, neither anchor nor boundary" if more else lines


def with_defaults(
    method: Method, options: dict[str, Any], concepts: Sequence[Concept], world: Any
) -> tuple[Concept, ...]:
    """The concepts, with siblings to be preserved where the method reads these.

    Raises:
        InputError: If the method needs them, and the world does not know a concept.
    """
    config, data = method.configured(options)
    taken = {word_key(word) for c in concepts for word in (*c.words, *([c.anchor] if c.anchor else []))}
    return tuple(
        _with_siblings(concept, taken, world, reads=_reads_preserve(method, concept, config, data))
        for concept in concepts
    )


def _reads_preserve(method: Method, concept: Concept, config: Any, data: dict[str, Any]) -> bool:
    return "preserve" not in method.unread(Concept(concept.name, preserve=[f"not {concept.name}"]), config, data)


def _with_siblings(concept: Concept, taken: set[str], world: Any, *, reads: bool) -> Concept:
    try:
        near = world.preserve(concept.name)
    except InputError as error:
        if concept.preserve or concept.anchor is not None:
            return concept
        if reads:
            raise InputError(f"{error}; any other word goes with --preserve WORD, what has to stay") from error
        warnings.warn(f"{error}; it is erased as it is written", EffaceWarning, stacklevel=2)
        return concept
    taken = taken | {word_key(word) for word in concept.preserve}
    stays = [word for word in near if word_key(word) not in taken]
    if not stays and not concept.preserve:  # the only sibling is the anchor, or erased too
        stays = [word for word in world.others(concept.name) if word_key(word) not in taken]
    return replace(concept, preserve=(*concept.preserve, *stays)) if reads else concept
