"""Real English with the part of speech of each word, and sequences of tokens cut from it.

Definitions and examples of WordNet, and the prose of Python's own reference, tagged by spaCy (`tagging` made the
file). The tags are a tagger's, not a person's: its makers report that 97 of 100 are right on their own test text.
"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from efface._errors import FormatError, InputError
from efface._io import reading
from efface._text import brief
from efface._validate import check_positive_int
from efface.core.doors import check_call, check_word
from efface.scrubbing.token_labels import labels_from_tagged
from efface_worlds.tokens.vocabulary import IGNORE
from efface_worlds.tokens.world import TokenWorld

PARTS_OF_SPEECH = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ"),
    *("SYM", "VERB", "X"),
)
"""The 17 parts of speech of Universal Dependencies."""

Split = Literal["fit", "heldout"]
"""What erasers are fitted on, and what is scored."""

Domain = Literal["wordnet", "python"]
"""Where a document is from: definitions and examples of words, or a reference manual."""

DOMAINS: tuple[Domain, ...] = get_args(Domain)
FILE = Path(__file__).parent / "english.tsv.xz"
_HELDOUT_PERCENT = 30
_LETTERS = "ABCDEFGHIJKLMNOPQ"


@dataclass(frozen=True)
class Tagged:
    """A paragraph, word by word.

    Attributes:
        words: The words, punctuation among them.
        tags: The part of speech of each.
        spaces: Whether a space follows it.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    spaces: tuple[bool, ...]

    __repr__ = brief

    @property
    def text(self) -> str:
        """The paragraph.

        >>> Tagged(("Do", "n't", "run"), ("AUX", "PART", "VERB"), (False, True, False)).text
        "Don't run"
        """
        return "".join(word + " " * space for word, space in zip(self.words, self.spaces, strict=True))


@dataclass(frozen=True)
class Document:
    """A text, tagged.

    Attributes:
        name: Domain and name, `"python/assert"`.
        paragraphs: Its paragraphs.
    """

    name: str
    paragraphs: tuple[Tagged, ...]

    __repr__ = brief

    @property
    def domain(self) -> str:
        """Where it is from."""
        return self.name.partition("/")[0]

    @property
    def heldout(self) -> bool:
        """Whether it is for scoring alone, by a hash of its name: three in ten are."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 100 < _HELDOUT_PERCENT

    @property
    def text(self) -> str:
        """Its paragraphs, a line each."""
        return "\n".join(paragraph.text for paragraph in self.paragraphs)

    @property
    def tagged(self) -> list[tuple[str, int]]:
        """Each word with its part of speech, an index into `PARTS_OF_SPEECH`."""
        numbers = {tag: i for i, tag in enumerate(PARTS_OF_SPEECH)}
        pairs = (pair for p in self.paragraphs for pair in zip(p.words, p.tags, strict=True))
        return [(word, numbers[tag]) for word, tag in pairs]


def read_english(split: Split | None = None, *, domain: Domain | None = None) -> tuple[Document, ...]:
    """The documents that ship.

    Args:
        split: `"fit"` or `"heldout"`; None gives both. No document is in both, and no paragraph twice.
        domain: Only those of WordNet or of Python's reference.

    Raises:
        InputError: If `split` or `domain` is none.

    >>> first = read_english("heldout", domain="python")[0]
    >>> first.name, first.paragraphs[0].words[:4], first.paragraphs[0].tags[:4]
    ('python/async', ('Execution', 'of', 'Python', 'coroutines'), ('NOUN', 'ADP', 'PROPN', 'NOUN'))
    """
    check_call(read_english, locals())
    for name, value, hint in (("split", split, Split), ("domain", domain, Domain)):
        if value is not None:
            check_word(value, hint, name)
    return tuple(
        document
        for document in _documents()
        if (split is None or document.heldout == (split == "heldout")) and domain in (None, document.domain)
    )


@cache
def _documents() -> tuple[Document, ...]:
    return read_documents(FILE)


def read_documents(file: Path) -> tuple[Document, ...]:
    """The documents of a file that `written` made.

    Raises:
        FormatError: If it is damaged.
    """
    with reading(file):
        lines = lzma.decompress(file.read_bytes()).decode().splitlines()
    rows = [_paragraph(line, number) for number, line in enumerate(lines, 1)]
    return tuple(Document(name, tuple(p for _, p in group)) for name, group in groupby(rows, key=lambda row: row[0]))


def written(documents: Iterable[Document]) -> str:
    """Documents as text, a paragraph a line: its document, its words, and a letter for each.

    The letter is that of the part of speech: a capital if a space follows the word, else small.
    """
    lines = []
    for document in documents:
        for paragraph in document.paragraphs:
            pairs = zip(paragraph.tags, paragraph.spaces, strict=True)
            letters = [(_LETTERS[PARTS_OF_SPEECH.index(tag)], space) for tag, space in pairs]
            code = "".join(letter if space else letter.lower() for letter, space in letters)
            lines.append(f"{document.name}\t{' '.join(paragraph.words)}\t{code}")
    return "\n".join(lines) + "\n"


def _paragraph(line: str, number: int) -> tuple[str, Tagged]:
    name, *rest = line.split("\t")
    words, code = (rest[0].split(" "), rest[1]) if len(rest) == 2 else ([], "?")
    if len(words) != len(code) or not set(code.upper()) <= set(_LETTERS):
        raise FormatError(f"line {number} of the tagged text is damaged, it has {len(words)} words: reinstall efface")
    tags = tuple(PARTS_OF_SPEECH[_LETTERS.index(letter.upper())] for letter in code)
    return name, Tagged(tuple(words), tags, tuple(letter.isupper() for letter in code))


def make_english(
    split: Split,
    tokenizer: Any,
    *,
    length: int = 256,
    sequences: int | None = None,
    domain: Domain | None = None,
    start: int | None = None,
    seed: int = 0,
) -> TokenWorld:
    """Sequences of a language model's tokens, each with the part of speech of its word.

    Each is a token that begins a text and `length - 1` tokens in a row of one document; what is left at its end is
    dropped. A token in two words of different parts of speech ("don" of "do" and "n't") has no label, nor has a space
    that is a token of its own.

    Args:
        split: `"fit"` or `"heldout"`.
        tokenizer: A fast byte-level tokenizer of transformers, such as `load_smollm2` gives.
        length: Tokens in a sequence.
        sequences: How many, drawn without replacement; None takes all, in their order.
        domain: Only documents of WordNet or of Python's reference.
        start: The token that begins each sequence; None takes `<|endoftext|>`, or else the tokenizer's beginning.
        seed: Of the draw.

    Returns:
        A `TokenWorld` whose `lexical_type` is the part of speech, an index into `names`, and whose `files` are the
        documents: what intervals should be resampled over.

    Raises:
        InputError: If there are fewer sequences than asked for, or the tokenizer says no offsets.
    """
    check_call(make_english, locals())
    if check_positive_int(length, "length") < 2:
        raise InputError("length=1 leaves no room for a token behind the first one: write at least 2")
    documents = read_english(split, domain=domain)
    batch = _tokenized(tokenizer, [document.text for document in documents])
    cut = [(i, j) for i, ids in enumerate(batch["input_ids"]) for j in range(len(ids) // (length - 1))]
    if len(cut) < (sequences or 1):
        raise InputError(f"sequences={sequences} of {length} tokens were asked for, and there are {len(cut)}")
    if sequences is not None:
        cut = [cut[i] for i in np.random.default_rng(seed).permutation(len(cut))[:sequences].tolist()]
    rows = _Rows(documents, batch, tokenizer, length)
    first = torch.tensor([[_start(tokenizer) if start is None else start], [IGNORE], [0]])
    body = torch.stack([rows.cut(i, j) for i, j in cut], dim=1)
    ids, parts, n_bytes = torch.cat([first[:, None].expand(3, len(cut), 1), body], dim=2)
    names = tuple(documents[i].name for i, _ in cut)
    return TokenWorld(ids, parts, n_bytes, PARTS_OF_SPEECH, names, len(tokenizer))


class _Rows:
    """Ids, labels and bytes of the tokens of documents, labelled when they are asked for."""

    def __init__(self, documents: Sequence[Document], batch: Any, tokenizer: Any, length: int) -> None:
        self.documents, self.batch, self.body = documents, batch, length - 1
        # Byte-level tokens are written with one character a byte.
        words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.n_bytes = torch.tensor([len(word) for word in words])
        self.known: dict[int, torch.Tensor] = {}

    def cut(self, document: int, number: int) -> torch.Tensor:
        if document not in self.known:
            self.known[document] = self._labelled(document)
        return self.known[document][:, number * self.body : (number + 1) * self.body]

    def _labelled(self, i: int) -> torch.Tensor:
        document, ids = self.documents[i], torch.tensor(self.batch["input_ids"][i])
        offsets = [self.batch["offset_mapping"][i]]
        labels = labels_from_tagged([document.text], [document.tagged], offsets)[0]
        return torch.stack([ids, labels, self.n_bytes[ids]])


def _tokenized(tokenizer: Any, texts: list[str]) -> Any:
    try:
        return tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    except (NotImplementedError, TypeError) as error:
        raise InputError(
            f"tokenizer is {type(tokenizer).__name__}, which does not say where its tokens lie in the text: give a "
            "fast one of transformers, such as load_smollm2() gives"
        ) from error


def _start(tokenizer: Any) -> int:
    """Documents of SmolLM2's pretraining lie behind this token; its tokenizer names that of chats as the first."""
    known = tokenizer.get_vocab()
    found = known.get("<|endoftext|>", tokenizer.bos_token_id)
    if found is None:
        raise InputError("the tokenizer has neither <|endoftext|> nor a first token: give one, start=")
    return found
