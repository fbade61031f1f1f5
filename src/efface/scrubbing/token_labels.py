"""Labels of tokens: from spans of tokens or of characters, from words, and ragged rows made rectangular."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import to_tensor
from efface.core.arrays import Array, read_array, refuse_rows, shared
from efface.core.doors import check_call, shown
from efface.core.labels import read_column

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
    labels = torch.full((len(spans), length), outside, dtype=torch.int64)
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
    if not hasattr(given, "__len__") or getattr(given, "ndim", 1) != 1 or len(given) != 3:
        raise InputError(f"a span is {shown(given)}, expected three integers, (start, end, label)")
    return given


def labels_from_characters(
    spans: Sequence[Iterable[tuple[int, int, int]]], offsets: Any, *, outside: int = IGNORE
) -> Tensor:
    """Token labels `(n, length)` from spans of characters.

    A token is in a span if they share a character. Tokens without characters (special tokens, padding) get `IGNORE`.

    Args:
        spans: For each text its spans `(start, end, label)` of characters.
        offsets: `(n, length, 2)`: where each token begins and ends, as a fast tokenizer's
            `return_offsets_mapping=True` gives it.
        outside: Label of tokens in no span, as in `labels_from_spans`.

    Raises:
        InputError: If a token is in two spans of different labels, or shapes disagree.

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
    labels = torch.full(real.shape, outside, dtype=torch.int64).masked_fill_(~real, IGNORE)
    for row, found in enumerate(spans):
        taken = torch.zeros(real.shape[1], dtype=torch.bool)
        for start, end, label in map(_span, found):
            inside = real[row] & (starts[row] < end) & (ends[row] > start)
            if bool((taken & inside & (labels[row] != label)).any()):
                raise InputError(f"text {row}: a token is in the span ({start}, {end}, {label}) and in another one")
            taken |= inside
            labels[row, inside] = label
    return labels


def _check_onward(where: Tensor, real: Tensor) -> None:
    """Refuse offsets that begin anew at each word: where a word lies in its text is not in them."""
    reached = where.masked_fill(~real[..., None], 0).cummax(1).values
    back = (real[..., None] & (where < reached)).flatten(1).any(1)
    if bool(back.any()):
        raise InputError(
            f"text {int(back.nonzero()[0])}: its offsets begin anew at each word, as those of text that was split into "
            "words before: give one label a word, labels_from_words(labels, [batch.word_ids(i) for i in range(n)])"
        )


def labels_from_words(
    words: Sequence[Sequence[int]],
    word_ids: Sequence[Sequence[int | None]],
    *,
    first_only: bool = False,
) -> Tensor:
    """Token labels `(n, length)` from one label a word.

    Args:
        words: For each text the labels of its words.
        word_ids: For each text the number of each token's word, None for special tokens and padding: as a fast
            tokenizer gives it, `[batch.word_ids(i) for i in range(n)]`.
        first_only: Only the first token of a word gets its label; the others get `IGNORE`.

    Raises:
        InputError: If a token is of a word that has no label, or texts differ in number or in length.

    >>> labels_from_words([[3, 5]], [[None, 0, 1, 1, None]]).tolist()
    [[-100, 3, 5, 5, -100]]
    """
    check_call(labels_from_words, locals())
    if len(words) != len(word_ids) or len({len(ids) for ids in word_ids}) > 1:
        raise InputError(
            f"there are labels for {len(words)} texts and word_ids of {len(word_ids)}, of lengths "
            f"{sorted({len(ids) for ids in word_ids})}: give one row of each a text, with padding=True"
        )
    rows = []
    for i, (labels, ids) in enumerate(zip(words, word_ids, strict=True)):
        highest = max((number for number in ids if number is not None), default=-1)
        if highest >= len(labels):
            raise InputError(f"text {i} has labels for {len(labels)} words, but tokens of word {highest} (from 0)")
        rows.append([_of_word(labels, n, first_only and at > 0 and ids[at - 1] == n) for at, n in enumerate(ids)])
    return torch.tensor(rows, dtype=torch.int64)


def _of_word(labels: Sequence[int], number: int | None, goes_on: bool) -> int:
    return IGNORE if number is None or goes_on else labels[number]


def numbered(labels: Any) -> tuple[Any, list[Any]]:
    """Labels as a tensor, or a list of ragged rows; text as the numbers of its classes, which are given in their order.

    Raises:
        InputError: If one is missing.

    >>> numbered(["noun", "verb", "noun"])
    (tensor([0, 1, 0]), ['noun', 'verb'])
    >>> numbered([["verb", "noun"], ["noun"]])
    ([[1, 0], [0]], ['noun', 'verb'])
    """
    ragged = is_ragged(labels)
    flat = [label for row in labels for label in row] if ragged else labels
    read = read_array(flat, "concept")
    if not read.is_named:
        values = complete(read)
        return (list(labels) if ragged else values), []
    column = read_column(flat, "concept")
    classes = list(column.classes())
    codes = shared(column.codes(classes))
    if not ragged:
        return codes, classes
    following = iter(codes.tolist())
    return [[next(following) for _ in row] for row in labels], classes


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
    return (
        isinstance(value, (list, tuple))
        and all(hasattr(row, "__len__") and not isinstance(row, (str, Tensor)) for row in value)
        and len({len(row) for row in value}) > 1
    )


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
        raise InputError(
            f"sequence {number} has {len(row)} labels and {sum(real)} tokens: give one label a token (for labels of "
            "words: efface.labels_from_words(labels, [batch.word_ids(i) for i in range(n)]))"
        )
    following = iter(row)
    return [next(following) if here else ignore_index for here in real]
