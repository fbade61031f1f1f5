"""Labels of tokens: from spans of tokens or characters, from words, from tagged text; ragged rows made rectangular."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._memory import check_room
from efface._text import shown
from efface._validate import check_int, check_int64, to_tensor
from efface.core.arrays import Array, is_plain, read_array, refuse_rows, shared
from efface.core.doors import check_call, length_of
from efface.core.labels import read_column

ONE_A_TOKEN = (
    "give one label a token (for labels of words: efface.labels_from_words(labels, [batch.word_ids(i) for i in "
    "range(n)]))"
)

_JOINED = 3
"""Letters that a tokenizer may join into one (with accents) before it takes that to pieces."""

Shared = Literal["refuse", "ignore"]
"""What becomes of a token that lies in two spans of different labels."""

IGNORE = -100
"""Label of a position that belongs to no class; the convention of PyTorch's and of Hugging Face's losses."""


def labels_from_spans(spans: Sequence[Iterable[tuple[int, int, int]]], length: int, *, outside: int = IGNORE) -> Tensor:
    """Token labels `(n, length)` from spans of tokens.

    Args:
        spans: For each sequence its spans `(start, end, label)`: tokens start to end - 1. They may not overlap.
        length: Tokens in a sequence, padding included.
        outside: Label of tokens in no span: `IGNORE` leaves them out of the fit, a class of their own (say 0) keeps
            them in as the contrast.

    Raises:
        InputError: If a span is empty, overlaps another or goes beyond the sequence.

    >>> labels_from_spans([[(1, 3, 1)]], 4, outside=0).tolist()
    [[0, 1, 1, 0]]
    """
    check_call(labels_from_spans, locals())
    check_room(8 * len(spans) * check_int(length, "length", least=0), f"labels of {len(spans)} x {length} tokens")
    labels = torch.full((len(spans), length), check_int64(outside, "outside"), dtype=torch.int64)
    for row, found in enumerate(spans):
        taken = torch.zeros(length, dtype=torch.bool)
        for start, end, label in map(_span, found):
            if not 0 <= start < end <= length:
                raise InputError(
                    f"sequence {row} has the span ({start}, {end}, {label}), expected 0 <= start < end <= {length}, "
                    "the number of tokens"
                )
            if bool(taken[start:end].any()):
                raise InputError(f"sequence {row}: the span ({start}, {end}, {label}) overlaps another: split them")
            taken[start:end] = True
            labels[row, start:end] = label
    return labels


def _span(given: Any) -> tuple[int, int, int]:
    if getattr(given, "ndim", 1) != 1 or length_of(given) != 3:
        raise InputError(f"a span is {shown(given)}, expected three integers, (start, end, label)")
    if not all(isinstance(value, (int, np.integer)) or _is_whole(value) for value in given):
        raise InputError(f"a span is {shown(given)}, expected three integers: number the classes, from 0")
    start, end, label = map(int, given)
    return start, end, check_int64(label, "the label of a span")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and not value.is_floating_point() and not value.is_complex()


def labels_from_characters(
    spans: Sequence[Iterable[tuple[int, int, int]]],
    offsets: Any,
    *,
    outside: int = IGNORE,
    shared: Shared = "refuse",
) -> Tensor:
    """Token labels `(n, length)` from spans of characters.

    A token is in a span if they share a character. Tokens without characters (special tokens, padding) get `IGNORE`.

    Args:
        spans: For each text its spans `(start, end, label)` of characters.
        offsets: `(n, length, 2)`: where each token begins and ends, as a fast tokenizer's
            `return_offsets_mapping=True` gives it.
        outside: Label of tokens in no span, as in `labels_from_spans`.
        shared: Tokens in two spans of different labels, as "don" of "do" and "n't": `"refuse"` them, or `"ignore"`,
            which leaves them out of the fit.

    Raises:
        InputError: If a token is in two spans of different labels and `shared` is `"refuse"`, or shapes disagree.

    >>> labels_from_characters([[(0, 3, 1)]], [[[0, 0], [0, 3], [4, 7]]], outside=0).tolist()
    [[-100, 1, 0]]
    """
    check_call(labels_from_characters, locals())
    where = to_tensor(offsets, "offsets")
    if where.ndim != 3 or where.shape[-1] != 2 or len(where) != len(spans):
        raise InputError(f"offsets has shape {tuple(where.shape)}, expected ({len(spans)}, length, 2)")
    starts, ends = where.unbind(-1)
    real = ends > starts
    _check_onward(where, real)
    labels = torch.full(real.shape, check_int64(outside, "outside"), dtype=torch.int64).masked_fill_(~real, IGNORE)
    for row, found in enumerate(spans):
        taken = torch.zeros(real.shape[1], dtype=torch.bool)
        torn = taken.clone()
        for start, end, label in map(_span, found):
            if not 0 <= start < end:
                raise InputError(f"text {row} has the span ({start}, {end}, {label}), expected 0 <= start < end")
            inside = real[row] & (starts[row] < end) & (ends[row] > start)
            torn |= (clash := taken & inside & (labels[row] != label))
            if shared == "refuse" and bool(clash.any()):
                raise InputError(
                    f"text {row}: a token is in the span ({start}, {end}, {label}) and in another one; "
                    'write shared="ignore" to leave such tokens out'
                )
            taken |= inside
            labels[row, inside] = label
        labels[row, torn] = IGNORE
    return labels


def _check_onward(where: Tensor, real: Tensor) -> None:
    """Refuse offsets that begin anew at each word: where a word lies in its text is not in them."""
    starts, ends = where.unbind(-1)
    before = ends.masked_fill(~real, 0).cummax(1).values.roll(1, 1)
    before[:, 0] = 0
    # Tokens of the bytes of one character share it, those of several letters that were joined share all of them.
    same = (where == where.roll(1, 1)).all(-1) & (ends - starts <= _JOINED)
    back = (real & ((starts < before - 1) | (ends < before)) & ~same).any(1)
    if bool(back.any()):
        raise InputError(
            f"text {int(back.nonzero()[0])}: its offsets begin anew at each word, as those of text that was split into "
            "words before: give one label a word, labels_from_words(labels, [batch.word_ids(i) for i in range(n)])"
        )


def labels_from_words(words: Any, word_ids: Any, *, first_only: bool = False) -> Tensor:
    """Token labels `(n, length)` from one label a word.

    Args:
        words: For each text the labels of its words: integers are classes, floats are quantities, and text is numbered
            in the order of its classes, sorted. `IGNORE` leaves a word out.
        word_ids: What a fast tokenizer gave, called with `is_split_into_words=True` or not; or for each text the number
            of each token's word, None for special tokens and padding, `[batch.word_ids(i) for i in range(n)]`.
        first_only: Only the first token of a word gets its label; the others get `IGNORE`.

    Raises:
        InputError: If a token is of a word that has no label, a label is missing, or texts differ in number or length.

    >>> labels_from_words([[3, 5]], [[None, 0, 1, 1, None]]).tolist()
    [[-100, 3, 5, 5, -100]]
    """
    check_call(labels_from_words, locals())
    rows_of_labels = _rows(words, "words")
    if callable(getattr(word_ids, "word_ids", None)):
        word_ids = [word_ids.word_ids(i) for i in range(len(rows_of_labels))]
    rows_of_ids = _rows(word_ids, "word_ids")
    if len(rows_of_labels) != len(rows_of_ids) or len({len(ids) for ids in rows_of_ids}) > 1:
        raise InputError(
            f"there are labels for {len(rows_of_labels)} texts and word_ids of {len(rows_of_ids)}, of lengths "
            f"{sorted({len(ids) for ids in rows_of_ids})}: give one row of each a text, with padding=True"
        )
    numbers = _numbered_rows(rows_of_labels)
    rows = []
    for i, (labels, ids) in enumerate(zip(numbers, rows_of_ids, strict=True)):
        if bad := [n for n in ids if n is not None and not (isinstance(n, int) and n >= 0)]:
            raise InputError(f"text {i} has {shown(bad[0])} among its word_ids: give numbers from 0, None for no word")
        highest = max((number for number in ids if number is not None), default=-1)
        if highest >= len(labels):
            raise InputError(f"text {i} has labels for {len(labels)} words, but tokens of word {highest} (from 0)")
        rows.append([_of_word(labels, n, first_only and at > 0 and ids[at - 1] == n) for at, n in enumerate(ids)])
    whole = all(isinstance(label, int) for labels in numbers for label in labels)
    return torch.tensor(rows, dtype=torch.int64 if whole else torch.float64)


def labels_from_tagged(
    texts: Sequence[str],
    tagged: Sequence[Sequence[Any]],
    offsets: Any,
    *,
    outside: int = IGNORE,
    shared: Shared = "ignore",
) -> Tensor:
    """Token labels `(n, length)` of texts whose words a tagger labelled, tokenized whole.

    The words are looked for in their text, one after the other. Text that is given to a tokenizer word by word, as
    `labels_from_words` wants it, is another text to tokenizers whose tokens hold the space before a word (GPT-2,
    Llama 3, SmolLM2): without spaces.

    Args:
        texts: The texts, as the tokenizer was given them.
        tagged: For each text its words in their order, each with its label: integers, or text, which is numbered in
            the order of the classes of all words, sorted. `IGNORE` leaves a word out. What lies between words needs
            none.
        offsets: As in `labels_from_characters`, or what a fast tokenizer gave with `return_offsets_mapping=True`.
        outside: Label of tokens in no word, such as spaces that are tokens of their own.
        shared: Tokens in two words of different labels, as in `labels_from_characters`.

    Raises:
        InputError: If a word is not in its text behind the one before it (the text says which), a label is missing or
            no class, or shapes disagree.

    >>> batch = {"offset_mapping": [[[0, 0], [0, 3], [3, 7], [7, 8]]]}
    >>> labels_from_tagged(["The cat."], [[("The", "DET"), ("cat", "NOUN"), (".", "PUNCT")]], batch).tolist()
    [[-100, 0, 1, 2]]
    """
    check_call(labels_from_tagged, locals())
    if len(texts) != len(tagged):
        raise InputError(f"there are {len(texts)} texts and tagged words for {len(tagged)}: give one row of words each")
    pairs = [[_tagged_word(pair, i) for pair in words] for i, words in enumerate(tagged)]
    numbers = _numbered_rows([[label for _, label in words] for words in pairs])
    spans = [_where(texts[i], words, numbers[i], i) for i, words in enumerate(pairs)]
    given = offsets.get("offset_mapping") if hasattr(offsets, "get") else offsets
    if given is None:
        raise InputError("offsets has no offset_mapping: call the tokenizer with return_offsets_mapping=True")
    return labels_from_characters(spans, given, outside=outside, shared=shared)


def _tagged_word(given: Any, text: int) -> tuple[str, Any]:
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not isinstance(given[0], str) or not given[0]:
        raise InputError(f"text {text} has {shown(given)} among its words: give (word, label) for each")
    return given[0], given[1]


def _where(text: str, words: list[tuple[str, Any]], labels: list[Any], number: int) -> list[tuple[int, int, Any]]:
    """Spans of the words of a text."""
    spans, end = [], 0
    for at, ((word, _), label) in enumerate(zip(words, labels, strict=True)):
        start = text.find(word, end)
        if start < 0 or text[end:start].strip():
            raise InputError(
                f"text {number}: word {at} (from 0) is {shown(word)}, and at character {end} the text goes on "
                f"{shown(text[end : end + 20])}: give the words of this text, all and in their order"
            )
        end = start + len(word)
        spans += [(start, end, label)] if label != IGNORE else []
    return spans


def _of_word(labels: Sequence[Any], number: int | None, goes_on: bool) -> Any:
    return IGNORE if number is None or goes_on else labels[number]


def _rows(value: Any, name: str) -> list[list[Any]]:
    """Rows, of different lengths or not, as lists."""
    value = as_rows(value)
    value = to_tensor(value, name) if isinstance(value, Tensor) else value
    value = value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(row, (list, tuple)) for row in value):
        raise InputError(f"{name} is no list of rows: give a row for each text, for one text write [{name}]")
    return [list(row) for row in value]


def _numbered_rows(rows: list[list[Any]]) -> list[list[Any]]:
    """Labels of words as numbers, text as those of its classes."""
    flat, _ = numbered([label for row in rows for label in row])
    following = iter(flat.tolist())
    return [[next(following) for _ in row] for row in rows]


def numbered(labels: Any) -> tuple[Any, list[Any]]:
    """Labels as a tensor, or a list of ragged rows; text as the numbers of its classes, which are given in their order.

    `IGNORE` may stand among text.

    Raises:
        InputError: If one is missing.

    >>> numbered(["noun", "verb", "noun"])
    (tensor([0, 1, 0]), ['noun', 'verb'])
    >>> numbered([["verb", "noun"], ["noun"]])
    ([[1, 0], [0]], ['noun', 'verb'])
    """
    labels = as_rows(labels)
    ragged = is_ragged(labels)
    flat = [label for row in labels for label in row] if ragged else labels
    if (left_out := _left_out(flat)) is not None:
        return _numbered_but(labels, left_out, ragged=ragged)
    read = read_array(flat, "concept")
    if not read.is_named:
        values = complete(read)
        if values.ndim == 0:
            raise InputError("concept is one number, of shape (): give labels of all sequences, (n,) or (n, length)")
        return (list(labels) if ragged else values), []
    column = read_column(flat, "concept")
    classes = list(column.classes())
    codes = shared(column.codes(classes))
    if not ragged:
        return codes, classes
    following = iter(codes.tolist())
    return [[next(following) for _ in row] for row in labels], classes


def _left_out(labels: Any) -> NDArray[np.bool_] | None:
    """Where `IGNORE` stands among text; None if it does not, or there is no text."""
    if not isinstance(labels, (list, tuple)):
        return None
    flat = [label for row in labels for label in row] if _has_rows(labels) else labels
    if not any(isinstance(label, str) for label in flat):
        return None
    left = np.array([isinstance(label, int) and label == IGNORE for label in flat], dtype=bool)
    return left if left.any() else None


def _numbered_but(labels: Any, left_out: NDArray[np.bool_], *, ragged: bool) -> tuple[Any, list[Any]]:
    """`numbered` of text in which some labels are left out."""
    rows = [[*row] for row in labels] if _has_rows(labels) else [[*labels]]
    flat = np.array([label for row in rows for label in row], dtype=object)
    codes, classes = numbered(flat[~left_out].tolist())
    values = np.full(len(flat), IGNORE)
    values[~left_out] = codes.numpy()
    following = iter(values.tolist())
    found = [[next(following) for _ in row] for row in rows]
    if ragged:
        return found, classes
    return torch.tensor(found if _has_rows(labels) else found[0]), classes


def _has_rows(labels: Any) -> bool:
    rows = (isinstance(row, (list, tuple, np.ndarray)) and length_of(row) is not None for row in labels)
    return bool(len(labels)) and all(rows)


def as_rows(value: Any) -> Any:
    """A column of lists (an array or series of objects), or tensors of several lengths, as a list of lists."""
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(row, Tensor) and is_plain(row) and row.ndim == 1 for row in value):
            return [row.tolist() for row in value]
        return value
    kind = getattr(value, "dtype", None)
    if str(kind) in ("object", "List", "list") or str(kind).startswith("List("):
        rows = value.to_list() if hasattr(value, "to_list") else value.tolist()
        if rows and all(isinstance(row, (list, tuple, np.ndarray)) for row in rows):
            return [[*row] for row in rows]
    return value


def complete(read: Array) -> Tensor:
    """Labels of a batch, if they are numbers and none is missing.

    Raises:
        InputError: If not; the text says how to leave labels out.
    """
    if read.missing is not None:
        refuse_rows(read.missing, "concept is missing", f"write ignore_index ({IGNORE}) for labels that do not count")
    return read.tensor("concept")


def is_ragged(value: Any) -> bool:
    """Whether it is a list of rows of different lengths."""
    if not isinstance(value, (list, tuple)) or any(isinstance(row, (str, Tensor)) for row in value):
        return False
    lengths = {length_of(row) for row in value}
    return None not in lengths and len(lengths) > 1


def rectangular(
    rows: Sequence[Sequence[Any]], length: int, ignore_index: int, mask: Tensor | None = None, first: int = 0
) -> Tensor:
    """Rows of labels of different lengths as `(n, length)`, filled up with `ignore_index`.

    Args:
        rows: For each sequence the labels of its tokens: of all, or of those that are not padding.
        length: Tokens in a sequence.
        ignore_index: What to fill up with.
        mask: `(n, length)` booleans: tokens that are not padding, on whichever side; None puts labels at the front.
        first: Number of the first sequence, for errors.

    Raises:
        InputError: If a row is longer than `length`, or has another number of labels than its sequence has tokens.
    """
    longest = max((len(row) for row in rows), default=0)
    if longest > length:
        row = first + next(i for i, labels in enumerate(rows) if len(labels) == longest)
        raise InputError(
            f"sequence {row} has {longest} labels, but its batch has {length} tokens: cut labels where the tokenizer "
            "cuts the text (truncation=True)"
        )
    if mask is None:
        return torch.tensor([[*row, *[ignore_index] * (length - len(row))] for row in rows])
    sequences = enumerate(zip(rows, mask.tolist(), strict=True), first)
    return torch.tensor([_at(row, real, ignore_index, i) for i, (row, real) in sequences])


def _at(row: Sequence[Any], real: list[bool], ignore_index: int, number: int) -> list[Any]:
    """Labels at the tokens that are not padding."""
    if len(row) == len(real):
        return [*row]
    if len(row) != sum(real):
        raise InputError(f"sequence {number} has {len(row)} labels and {sum(real)} tokens: {ONE_A_TOKEN}")
    following = iter(row)
    return [next(following) if here else ignore_index for here in real]
