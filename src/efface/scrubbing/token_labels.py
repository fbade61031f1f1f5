"""Labels of tokens: from spans of tokens or of characters, and ragged rows made rectangular."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import to_tensor
from efface.core.arrays import Array, read_array, refuse_rows, shared
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
    labels = torch.full((len(spans), length), outside, dtype=torch.int64)
    for row, found in enumerate(spans):
        taken = torch.zeros(length, dtype=torch.bool)
        for start, end, label in found:
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
    where = to_tensor(offsets, "offsets")
    if where.ndim != 3 or where.shape[-1] != 2 or len(where) != len(spans):
        raise InputError(f"offsets has shape {tuple(where.shape)}, expected ({len(spans)}, length, 2)")
    starts, ends = where.unbind(-1)
    real = ends > starts
    labels = torch.full(real.shape, outside, dtype=torch.int64).masked_fill_(~real, IGNORE)
    for row, found in enumerate(spans):
        taken = torch.zeros(real.shape[1], dtype=torch.bool)
        for start, end, label in found:
            inside = real[row] & (starts[row] < end) & (ends[row] > start)
            if bool((taken & inside & (labels[row] != label)).any()):
                raise InputError(f"text {row}: a token is in the span ({start}, {end}, {label}) and in another one")
            taken |= inside
            labels[row, inside] = label
    return labels


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


def rectangular(rows: Sequence[Sequence[Any]], length: int, ignore_index: int) -> Tensor:
    """Rows of labels of different lengths as `(n, length)`, filled up with `ignore_index`.

    Raises:
        InputError: If a row is longer than `length`.
    """
    longest = max((len(row) for row in rows), default=0)
    if longest > length:
        row = next(i for i, labels in enumerate(rows) if len(labels) == longest)
        raise InputError(
            f"sequence {row} has {longest} labels, but its batch has {length} tokens: cut labels where the tokenizer "
            "cuts the text (truncation=True)"
        )
    return torch.tensor([[*row, *[ignore_index] * (length - len(row))] for row in rows])
