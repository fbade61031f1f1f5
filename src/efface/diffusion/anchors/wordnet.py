"""WordNet as a source of candidates: a word's senses, and the words that stand beside it, read by nltk.

The database is one on this machine, such as Debian's package wordnet-base; nothing is downloaded. Debian leaves out the
list of lexicographer files (`lexnames(5WN)`), which nltk's reader wants and which is the same in every WordNet.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from efface._errors import InputError, MissingExtraError
from efface._lazy import require

DEBIAN = Path("/usr/share/wordnet")
_FILE = "data.noun"
_HIGHEST = 4
_MOST = 1000
_OF_A_SENSE = 4
_LEXNAMES = {
    "adj": ("all", "pert"),
    "adv": ("all",),
    "noun": (
        *("Tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event"),
        *("feeling", "food", "group", "location", "motive", "object", "person", "phenomenon", "plant"),
        *("possession", "process", "quantity", "relation", "shape", "state", "substance", "time"),
    ),
    "verb": (
        *("body", "change", "cognition", "communication", "competition", "consumption", "contact", "creation"),
        *("emotion", "motion", "perception", "possession", "social", "stative", "weather"),
    ),
}
_LAST = "adj.ppl"


@dataclass(frozen=True)
class Kin:
    """A word that stands beside another.

    Attributes:
        word: The word.
        step: How many steps up the nearest common parent is: 1 for sister terms and their kinds, 2 for cousins.
        family: Whether it stands above words that are as far from the common parent as the concept is, and WordNet's
            tagged texts never use it: "viverrine" beside cats.
    """

    word: str
    step: int
    family: bool


@dataclass(frozen=True)
class Meaning:
    """A sense at a glance.

    Attributes:
        name: WordNet's name of it.
        shown: Words that show what is meant: its parent, and what stands beside it.
    """

    name: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Sense:
    """One meaning of a noun.

    Attributes:
        name: WordNet's name of it, `"cat.n.01"`.
        words: The words that have it.
        definition: What it is.
        parents: Words for what it is a kind of, the nearest first, all the way up.
        kinds: Words for the kinds of it, all the way down, the nearest thousand.
        kin: Those beside it, the nearest first, a thousand at most.
    """

    name: str
    words: tuple[str, ...]
    definition: str
    parents: tuple[str, ...]
    kinds: tuple[str, ...]
    kin: tuple[Kin, ...]


def find_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a WordNet on this machine.

    Looked for where it is said to be, then in `WNSEARCHDIR` and `WNHOME` (WordNet's own variables), where Debian has
    it, and where nltk keeps its data.

    Raises:
        InputError: If a folder is named, and there is no WordNet in it.
        MissingExtraError: If there is none anywhere.
    """
    if folder is not None:
        if not (Path(folder) / _FILE).is_file():
            raise InputError(f"there is no WordNet in {str(folder)!r}: name the folder that has {_FILE} in it")
        return Path(folder)
    places = [*_named_places(), DEBIAN, *_places_of_nltk()]
    for place in places:
        if (place / _FILE).is_file():
            return place
    raise MissingExtraError(
        f"there is no WordNet in {', '.join(map(str, places))}: install one, on Debian  apt install wordnet-base, with "
        "pip install 'efface[anchors]'  for its reader; or set WNSEARCHDIR to its folder; or give candidates=[...]"
    )


def _named_places() -> list[Path]:
    search, home = os.environ.get("WNSEARCHDIR"), os.environ.get("WNHOME")
    return [*([Path(search)] if search else []), *([Path(home) / "dict"] if home else [])]


def _places_of_nltk() -> list[Path]:
    return [Path(path) / "corpora" / "wordnet" for path in require("nltk.data", extra="anchors").path]


def _lexnames() -> str:
    names = [f"{pos}.{name}" for pos, each in _LEXNAMES.items() for name in each] + [_LAST]
    return "".join(f"{number:02d}\t{name}\t0\n" for number, name in enumerate(names))


@cache
def reader(folder: Path) -> Any:
    """Nltk's reader of a WordNet: `nltk.corpus.reader.WordNetCorpusReader`.

    Raises:
        MissingExtraError: If nltk is not installed.
    """
    data = require("nltk.data", extra="anchors")
    module = require("nltk.corpus.reader.wordnet", extra="anchors")
    if str(folder) not in data.path:
        data.path.append(str(folder))  # nltk reads only below the folders that are named here

    class Reader(module.WordNetCorpusReader):
        def open(self, file: str) -> Any:
            if file == "lexnames" and not (folder / file).is_file():
                return io.StringIO(_lexnames())
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """No mapping to other versions, which only other languages need: Debian leaves its index out."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that only English is there
        return Reader(str(folder), None)


def meanings(word: str, folder: str | os.PathLike[str] | None = None) -> tuple[Meaning, ...]:
    """The meanings of a noun, the most frequent first; none if WordNet does not know it."""
    known = reader(find_folder(folder))
    return tuple(Meaning(each.name(), tuple(_shown(each))) for each in known.synsets(_lemma(word), known.NOUN))


def related(name: str, words: Sequence[str], folder: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """What each word is to the meaning of a name such as `"cat.n.01"`, of all its own meanings the nearest.

    `"alias"`, `"superclass"`, `"subclass"`; `"sibling"` below its parents, one step further down at most, as
    `Sense.kin` has them; `"neighbour"` the same below theirs. Words that are nothing of it are left out.
    """
    own = _synset(name, folder)
    known = reader(find_folder(folder))
    parents = set(_up(own))
    above, all_above = {up for each in parents for up in _up(each)}, set(own.closure(_up))
    found = {}
    for word in words:
        said = []
        for each in known.synsets(_lemma(word), known.NOUN):
            up = list(_levels(each))
            over = {one for level in up for one in level}
            said += ["alias"] * (each == own) + ["superclass"] * (each in all_above) + ["subclass"] * (own in over)
            said += ["sibling"] * any(level & parents for level in up[:2])
            said += ["neighbour"] * any(level & above for level in up[:3])
        if said:
            found[word] = min(said, key=_NEAREST.index)
    return found


_NEAREST = ("alias", "superclass", "subclass", "sibling", "neighbour")


def _levels(synset: Any) -> Iterator[set[Any]]:
    """What is above it, a step at a time."""
    level, seen = set(_up(synset)), {synset}
    while level := level - seen:
        yield level
        seen |= level
        level = {up for each in level for up in _up(each)}


def _shown(synset: Any) -> list[str]:
    parents = [_words(each)[0] for each in _up(synset)[:1]]
    return parents + [each.word for each in islice(_kin(synset, _words(synset)), _OF_A_SENSE)]


def sense(name: str, folder: str | os.PathLike[str] | None = None) -> Sense:
    """The meaning of a name such as `"cat.n.01"`.

    Raises:
        InputError: If there is none.
    """
    return _sense(_synset(name, folder))


def _synset(name: str, folder: str | os.PathLike[str] | None) -> Any:
    known = reader(find_folder(folder))
    module = require("nltk.corpus.reader.wordnet", extra="anchors")
    try:
        return known.synset(name)
    except (module.WordNetError, ValueError) as error:
        word = name.partition(".")[0]
        there = ", ".join(each.name() for each in known.synsets(_lemma(word), known.NOUN)) or "none"
        raise InputError(f"{name!r} is no synset of WordNet; those of {word!r} are {there}") from error


def _lemma(word: str) -> str:
    return "_".join(word.split())


def _sense(synset: Any) -> Sense:
    words = _words(synset)
    return Sense(
        synset.name(),
        words,
        synset.definition(),
        tuple(dict.fromkeys(word for each in synset.closure(_up) for word in _words(each))),
        tuple(dict.fromkeys(word for each in islice(synset.closure(_kinds), _MOST) for word in _words(each))),
        tuple(islice(_kin(synset, words), _MOST)),
    )


def _up(synset: Any) -> list[Any]:
    return _ordered(synset.hypernyms() or synset.instance_hypernyms())


def _kinds(synset: Any) -> list[Any]:
    return _ordered(synset.hyponyms()) + _ordered(synset.instance_hyponyms())


def _ordered(synsets: list[Any]) -> list[Any]:
    """The same in every process: nltk keeps relations in sets."""
    return sorted(synsets, key=lambda each: each.name())


def _words(synset: Any) -> tuple[str, ...]:
    return tuple(name.replace("_", " ") for name in synset.lemma_names())


def _kin(synset: Any, words: Sequence[str]) -> Iterator[Kin]:
    """Words of other branches, nearest first, each once; names of one thing (a capital letter) beside names alone.

    Below a parent it goes down one step more than the concept is: lions are a kind of big cat, which is beside cat.
    """
    named = words[0][:1].isupper()
    above, passed, seen = [synset], {synset}, set(words)
    for step in range(1, _HIGHEST + 1):
        above = list(dict.fromkeys(up for each in above for up in _up(each)))
        passed |= set(above)
        below = above
        for down in range(1, step + 2):
            below = list(dict.fromkeys(d for each in below for d in _kinds(each) if each in above or d not in passed))
            for each in (each for each in below if each not in passed):
                word = _words(each)[0]
                if word not in seen and word[:1].isupper() == named:
                    seen.add(word)
                    yield Kin(word, step, down < step and not each.lemmas()[0].count())
        passed |= set(below)
