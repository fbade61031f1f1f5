"""Where candidates for an anchor come from, and which of them words alone rule out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from efface._errors import InputError
from efface._validate import check_type
from efface.core.concept import Concept, word_key
from efface.diffusion.anchors import wordnet
from efface.diffusion.anchors.encoding import ShortEncoder
from efface.diffusion.anchors.readings import Readings, read
from efface.diffusion.anchors.vocabulary import Vocabulary
from efface.diffusion.anchors.wordnet import Kin

WORDNET, VOCABULARY, LIST = "wordnet", "vocabulary", "list"
_ENOUGH = 6
_NEAREST = 100


@dataclass(frozen=True)
class Pool:
    """Candidates before anything is asked of a text encoder.

    Attributes:
        words: Candidate -> where it comes from.
        barred: Candidate -> why it is left out.
        parent: What the concept is a kind of, if that is known.
        sense: Which meaning of the concept was taken, in words.
        given: Whether they are the user's own.
    """

    words: Mapping[str, str]
    barred: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    sense: str = ""
    given: bool = False


def of_list(words: Sequence[str], parent: str | None) -> Pool:
    """A user's own candidates.

    Raises:
        InputError: If there are none, or one is no word.
    """
    if not words:
        raise InputError("candidates is empty: give at least one word")
    if any(not check_type(word, str, "a candidate").strip() for word in words):
        raise InputError("candidates has an empty string: leave it out, or write a word")
    each = {word_key(word): " ".join(word.split()) for word in sorted(words, reverse=True)}
    return Pool(dict.fromkeys(each.values(), LIST), parent=parent, given=True)


def of_vocabulary(vocabulary: Vocabulary, concept: Concept, parent: str | None) -> Pool:
    """The words of the text encoder's vocabulary whose vectors are nearest to the concept's."""
    words: dict[str, str] = {}
    for word in sorted(vocabulary.nearest(concept.name, _NEAREST), key=lambda word: (len(word), word)):
        words.setdefault(_singular(word), word)  # of singular and plural the shorter
    return Pool(dict.fromkeys(words.values(), f"near in the vocabulary of {vocabulary.encoder}"), parent=parent)


def of_wordnet(
    vocabulary: Vocabulary,
    encoder: ShortEncoder,
    concept: Concept,
    parent: str | None,
    synset: str | None,
    folder: str | os.PathLike[str] | None,
) -> Pool:
    """WordNet's sister terms and their kinds; cousins too, a step up at a time, while fewer than six are one token.

    Left out are families ("viverrine" beside cats), which WordNet's tagged texts never use, and what only says that it
    is of the same kind ("bowed stringed instrument" beside guitars).

    Raises:
        InputError: If WordNet does not know the concept or the synset, or has nothing beside it.
        MissingExtraError: If there is no WordNet, or nltk is not installed.
    """
    name = synset if synset is not None else meant(vocabulary, encoder, concept, folder)
    meaning = wordnet.sense(name, folder)
    if not meaning.kin:
        raise InputError(f"WordNet has nothing beside {meaning.name} ({meaning.definition}): give candidates=[...]")
    parents = meaning.parents[:1]
    barred = {e.word: "the name of a family, which WordNet's texts never use" for e in meaning.kin if e.family}
    barred |= {e.word: f"a kind of {parents[0]} by its name" for e in meaning.kin if _says(e.word, parents)}
    barred |= dict.fromkeys(meaning.kinds, f"a kind of {concept.name}, says WordNet")
    barred |= dict.fromkeys(meaning.parents, f"what {concept.name} is a kind of, says WordNet")
    barred |= dict.fromkeys(meaning.words, f"a synonym of {concept.name}, says WordNet")
    kin = _near(meaning.kin, barred, vocabulary, concept.words)
    heads = {each.word for each in kin}
    barred |= {w: f"a kind of {head} by its name" for w in heads if (head := w.rpartition(" ")[2]) in heads - {w}}
    names = {1: "a sister term in WordNet, or a kind of one", 2: "a cousin in WordNet"}
    return Pool(
        {each.word: names.get(each.step, f"kin {each.step} steps up in WordNet") for each in kin},
        barred,
        parent or next((word for word in meaning.parents if not _says(word, concept.words)), None),
        f"{meaning.name}: {meaning.definition}",
    )


def _near(kin: Sequence[Kin], barred: Mapping[str, str], vocabulary: Vocabulary, erased: Sequence[str]) -> list[Kin]:
    """Those of as few steps up as give enough common words, which are one token each."""
    pieces = dict(zip((each.word for each in kin), vocabulary.ids([each.word for each in kin]), strict=True))
    for step in sorted({each.step for each in kin}):
        found = [each for each in kin if each.step <= step]
        common = [e for e in found if e.word not in barred and len(pieces[e.word]) == 1 and not _says(e.word, erased)]
        if len(common) >= _ENOUGH:
            return found
    return list(kin)


def meant(
    vocabulary: Vocabulary, encoder: ShortEncoder, concept: Concept, folder: str | os.PathLike[str] | None
) -> str:
    """Name of the sense whose parent and nearest kin are nearest to the concept's words, and to what it preserves.

    Args:
        vocabulary: Of the text encoder.
        encoder: The text side.
        concept: The concept.
        folder: Of a WordNet; None for the one that is found.

    Raises:
        InputError: If WordNet does not know the concept.
    """
    found = wordnet.meanings(concept.name, folder)
    if not found:
        raise InputError(
            f"WordNet does not know the noun {concept.name!r}: give candidates=[...], candidates='vocabulary', or "
            "synset='...' of a word that means the same"
        )
    if len(found) == 1:
        return found[0].name
    unknown = vocabulary.unknown([*concept.words, *concept.preserve, *(word for each in found for word in each.shown)])
    groups = [[word for word in each.shown if word not in unknown] for each in found]
    own = [word for word in (*concept.words, *concept.preserve) if word not in unknown]
    others = vocabulary.any_words(16, concept.words)
    words = list(dict.fromkeys([*own, *others, *(word for group in groups for word in group)]))
    readings = read(encoder, words, ["a {}"])
    return found[max(range(len(found)), key=lambda i: (_fit(readings, own, others, groups[i]), -i))].name


def _fit(readings: Readings, own: Sequence[str], others: Sequence[str], group: Sequence[str]) -> float:
    if not group:
        return -1.0
    x, row = readings.means[:, 0], readings.row
    middle = x[[row[word] for word in others]].mean(0) if others else x.mean(0)
    mean = [x[[row[word] for word in words]].mean(0) - middle for words in (own, group)]
    return round(float(torch.cosine_similarity(mean[0], mean[1], dim=0)), 6)


def ruled_out(
    pool: Pool, concept: Concept, erased: Sequence[str], vocabulary: Vocabulary, pieces: int
) -> dict[str, str]:
    """Candidate -> why it cannot be an anchor, as far as words alone say it.

    Args:
        pool: The candidates.
        concept: The concept.
        erased: Everything that is erased with it.
        vocabulary: Of the text encoder.
        pieces: A candidate that is read as more tokens than this is rare; so is one of two where six of one are left,
            and so on. A user's own are not asked.
    """
    barred = {word_key(word): why for word, why in pool.barred.items()}
    preserved = {word_key(word) for word in concept.preserve}
    unknown = vocabulary.unknown(list(pool.words))
    ids = dict(zip(pool.words, vocabulary.ids(list(pool.words)), strict=True))
    found: dict[str, str] = {}
    for word in pool.words:
        if named := _says(word, erased):
            found[word] = f"says {named!r}, which is erased"
        elif word_key(word) in preserved:
            found[word] = "is preserved"
        elif pool.parent is not None and word_key(word) == word_key(pool.parent):
            found[word] = f"what {concept.name} is a kind of"
        elif word_key(word) in barred:
            found[word] = barred[word_key(word)]
        elif word in unknown:
            found[word] = "unknown to the tokenizer"
    if pool.given:
        return found
    left = {word: len(ids[word]) for word in pool.words if word not in found}
    most = next((p for p in range(1, pieces) if sum(n <= p for n in left.values()) >= _ENOUGH), pieces)
    return found | {word: f"rare: read as {len(ids[word])} tokens" for word, n in left.items() if n > most}


def _says(word: str, erased: Sequence[str]) -> str | None:
    """The erased word or phrase that a candidate has in it, in singular or plural."""
    own = [_singular(part) for part in word_key(word).replace("-", " ").split()]
    for name in erased:
        theirs = [_singular(part) for part in word_key(name).replace("-", " ").split()]
        places = range(len(own) - len(theirs) + 1)
        if any(own[i : i + len(theirs)] == theirs for i in places) or "".join(own) == "".join(theirs):
            return name
    return None


def _singular(word: str) -> str:
    """A noun without the endings of its plural; the same for both forms, which is all that is asked of it.

    >>> _singular("cats") == _singular("cat"), _singular("cherries") == _singular("cherry")
    (True, True)
    """
    for ending in ("ies", "y"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word[: -len(ending)] + "i"
    for ending in ("es", "s", "e"):
        if word.endswith(ending) and not word.endswith("ss") and len(word) > len(ending) + 2:
            return word[: -len(ending)]
    return word
