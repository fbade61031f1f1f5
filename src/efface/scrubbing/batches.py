"""Data and concept as batches that can be gone through again and again, in the same order."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_positive_int, to_tensor
from efface.core.arrays import in_memory, read_array, refuse_class
from efface.core.collective import same_in_all
from efface.core.data_sets import check_dataset, class_names, is_dataset
from efface.core.doors import check_call, length_of
from efface.core.labels import Kind, Tally, check_complete, decide
from efface.core.row_labels import Labels
from efface.scrubbing.together import Together
from efface.scrubbing.token_labels import IGNORE, ONE_A_TOKEN, as_rows, complete, is_ragged, numbered, rectangular

_CONSTANT = (bool, int, float, str, type(None))
"""What goes to the model as it is, batch after batch."""

_MOST_KEPT = 2**24
"""So many labels are kept in memory, 128 MiB of them."""

_TABLES = ("arrow", "pandas", "polars")
"""Formats of data sets whose batches are tables, and no arrays."""

_MAIN = ("input_ids", "pixel_values", "inputs_embeds", "input_features")


@dataclass(frozen=True)
class Batch:
    """What goes into one forward pass.

    Attributes:
        number: Which batch it is, from 0.
        first: Number of its first sequence.
        inputs: Keyword arguments of the model.
        labels: `(b,)` one a sequence, or `(b, length, ...)` one a token.
    """

    number: int
    first: int
    inputs: dict[str, Any]
    labels: Tensor

    @property
    def size(self) -> int:
        """Sequences in it."""
        return len(self.main)

    @property
    def rows(self) -> int:
        """Tokens in it, padding included; sequences, where there are no token ids."""
        return self.main.numel() if self.main.ndim == 2 else self.size

    @property
    def main(self) -> Tensor:
        """The tensor that makes the sequences: token ids, pixels or embeddings."""
        name = next((name for name in _MAIN if name in self.inputs), None)
        return self.inputs[name] if name else next(v for v in self.inputs.values() if isinstance(v, Tensor))

    @property
    def per_token(self) -> bool:
        """Whether labels are one a token; else they are one a sequence."""
        if self.labels.ndim != 2 or not self.labels.is_floating_point():
            return self.labels.ndim > 1
        return "pixel_values" not in self.inputs and self.main.shape[:2] == self.labels.shape

    def counted(self, ignore_index: int, mask: str = "attention_mask") -> Tensor:
        """`(b,)` or `(b, length)` booleans: labels that are neither ignored nor of padding."""
        counted = self.labels != ignore_index
        if counted.ndim > 1 + self.per_token:
            counted = counted.any(-1)
        padding = self.mask(mask)
        if self.per_token and padding is not None and padding.shape == counted.shape:
            counted &= padding.to(counted.device)
        return counted

    def mask(self, name: str = "attention_mask") -> Tensor | None:
        """`(b, length)` booleans: tokens that are not padding; None if all count."""
        mask = self.inputs.get(name)
        return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


class Batches:
    """Batches of a data set with the labels of the concept, the same each time one goes through them.

    Args:
        data: A mapping of arrays `(n, ...)` as a tokenizer gives it, cut into batches here; token ids `(n, length)`
            alone; or a list or DataLoader of such mappings, taken as they come; or a data set of Hugging Face, of whose
            classes the names are known, and which is cut here if it is streamed row by row.
        concept: Name of the column of `data` that holds the labels (not passed to the model); a function from a batch
            to labels; or the labels of all sequences, `(n,)`, `(n, length)` or rows of different lengths.
        batch_size: Sequences in a batch, where they are cut here.
        ignore_index: Label of tokens that are left out.
        beside: Columns of data that hold labels of other concepts, which are not passed to the model either.

    Raises:
        InputError: If data and labels do not go together; the text says how.
    """

    def __init__(
        self,
        data: Any,
        concept: Any,
        *,
        batch_size: int = 8,
        ignore_index: int = IGNORE,
        beside: Collection[str] = (),
    ) -> None:
        check_call(Batches.__init__, locals())
        self.ignore_index, self._beside = ignore_index, beside
        self._size = check_positive_int(batch_size, "batch_size")
        self._data = _checked(data, self._size)
        self.classes: list[Any] = []
        refuse_class(concept, "the concept")
        if isinstance(concept, Mapping) and not hasattr(concept, "tocsr"):
            raise InputError(
                f"concept is a mapping of {', '.join(map(shown, [*concept][:5]))}: give the labels of one concept, or "
                "scrub(..., concepts={...}, order='parallel') for a scrubber of each"
            )
        if isinstance(concept, str) or callable(concept):
            self._concept = concept
        else:
            self._concept, self.classes = _as_rows(concept)
        self._ragged = isinstance(self._concept, list)
        if isinstance(concept, str) and isinstance(self._data, dict) and concept in self._data:
            self._data[concept], self.classes = _numbered_column(self._data[concept])
            self._ragged = is_ragged(self._data[concept])
        if isinstance(concept, str):
            self.classes = self.classes or [*class_names(data, concept)]
        self._seen: list[int] = []
        self._n_labels = 0
        self.labels: list[Tensor] | None = []
        """Labels of each batch that was gone through, as long as they are not too many to be kept."""
        self.inputs: list[int] = []
        """Checksum of each without its labels."""
        self.largest = 0
        """Tokens of the largest batch that was gone through, or images, or what else makes rows."""

    def __iter__(self) -> Iterator[Batch]:
        return self.over(self.mappings())

    def over(self, mappings: Iterator[Mapping[str, Any]]) -> Iterator[Batch]:
        """Batches of what is read from the data, by whoever reads it."""
        first = number = 0
        for number, columns in enumerate(mappings):
            inputs, labels = self._split(dict(columns), first)
            batch = Batch(number, first, inputs, labels)
            self._same_as_before(batch)
            yield batch
            first += batch.size
        if number + (first > 0) < len(self._seen):
            raise InputError(
                f"data gave {len(self._seen)} batches the first time and {number + (first > 0)} now: it must give the "
                "same ones each time, so pass a list or a DataLoader"
            )
        if first == 0:
            raise InputError("data holds no batches: there is nothing to fit on")
        if isinstance(self._concept, (list, Tensor)) and first != len(self._concept):
            raise InputError(f"concept has labels for {len(self._concept)} sequences, but data has {first}")

    @property
    def count(self) -> int:
        """How many batches there are, once they were gone through."""
        return len(self._seen)

    @property
    def fingerprint(self) -> str:
        """A checksum of the inputs and labels that were gone through so far."""
        return f"{zlib.crc32(str(self._seen).encode()):08x}"

    @property
    def is_cut(self) -> bool:
        """Whether the data is cut into batches here; else it comes in batches."""
        return isinstance(self._data, Mapping)

    def mappings(self) -> Iterator[Mapping[str, Any]]:
        """Batches as they are read."""
        if not isinstance(self._data, Mapping):
            yield from self._data
            return
        columns = {name: value for name, value in self._data.items() if not isinstance(value, _CONSTANT)}
        n = _length(columns)
        for start in range(0, n, self._size):
            yield {**self._data, **{name: value[start : start + self._size] for name, value in columns.items()}}

    def _split(self, columns: dict[str, Any], first: int) -> tuple[dict[str, Any], Tensor]:
        concept = self._concept
        raw: Any = None
        if isinstance(concept, str):
            if concept not in columns:
                raise InputError(f"data has no column {concept!r} for the concept: it has {', '.join(sorted(columns))}")
            raw = columns.pop(concept)
        inputs = {name: _to_input(value, name) for name, value in columns.items() if name not in self._beside}
        if not any(isinstance(value, Tensor) for value in inputs.values()):
            raise InputError(f"a batch has no arrays to give to the model: it has {sorted(columns)}")
        size = Batch(0, 0, inputs, torch.empty(0)).size
        if callable(concept):
            raw = concept(columns)
        elif not isinstance(concept, str):
            raw = concept[first : first + size]
            if len(raw) < size:
                raise InputError(
                    f"concept has labels for {len(concept)} sequences, but data has at least {first + size}"
                )
        return inputs, self._labels(raw, inputs, size, first)

    def _labels(self, raw: Any, inputs: dict[str, Any], size: int, first: int) -> Tensor:
        main = Batch(0, 0, inputs, torch.empty(0)).main
        if self._ragged or is_ragged(raw) or (main.ndim == 2 and _is_rows_of_integers(raw)):
            mask = Batch(0, 0, inputs, torch.empty(0)).mask() if len(raw) == size else None
            raw = rectangular(raw, main.shape[1] if main.ndim > 1 else 0, self.ignore_index, mask, first)
        labels = complete(read_array(as_rows(raw), "concept"))
        if labels.ndim == 0 or len(labels) != size:
            raise InputError(f"a batch of {size} sequences has labels of shape {tuple(labels.shape)}")
        lengths = {x.shape[1] for x in inputs.values() if isinstance(x, Tensor) and x.ndim == 2}
        tokens = main.shape[1] if main.ndim == 2 else 0
        few = not labels.is_floating_point() and labels.ndim == 2 and 1 < labels.shape[1] < tokens
        if few and labels.shape[1] not in lengths:
            raise InputError(f"sequence {first} has {labels.shape[1]} labels and {tokens} tokens: {ONE_A_TOKEN}")
        return labels

    def _same_as_before(self, batch: Batch) -> None:
        """Fitting goes through the data several times; that it is the same data is checked, not hoped."""
        inputs = _checksum(batch.main)
        print_ = _checksum(batch.labels, inputs)
        if batch.number == len(self._seen):
            self._seen.append(print_)
            self._keep(batch, inputs)
        elif self._seen[batch.number] != print_:
            raise InputError(
                f"batch {batch.number} is not what it was the first time: the data must come in the same order each "
                "time, so write DataLoader(..., shuffle=False)"
            )

    def _keep(self, batch: Batch, inputs: int) -> None:
        self.inputs.append(inputs)
        self.largest = max(self.largest, batch.rows)
        self._n_labels += batch.labels.numel()
        if self.labels is not None:
            self.labels.append(batch.labels)
            self.labels = self.labels if self._n_labels <= _MOST_KEPT else None


def _checksum(x: Tensor, before: int = 0) -> int:
    return zlib.crc32(in_memory(x.detach().cpu()).contiguous().flatten().view(torch.uint8).numpy(), before)  # type: ignore[arg-type]


def _checked(data: Any, size: int) -> Any:
    refuse_class(data, "data")
    if is_dataset(data):
        data = _of_arrays(data, size)
    if isinstance(data, Tensor):
        return {"input_ids": data}
    # datasets.Dataset, read in slices; its IterableDataset has no length, and is gone through as any stream of batches
    if hasattr(data, "column_names") and hasattr(data, "__len__") and not isinstance(data, Mapping):
        return {name: _Column(data, name) for name in data.column_names}
    no_batches = isinstance(data, str | bytes) or hasattr(data, "tocsr")  # of scipy, whose items may not be had
    if no_batches or not isinstance(data, Iterable) or getattr(data, "ndim", 1) == 0:
        raise InputError(f"data is a {type(data).__name__}: pass what a tokenizer gives, or a DataLoader of such")
    if isinstance(data, Mapping):
        return dict(data)
    if iter(data) is data:
        raise InputError("data is an iterator, which can be gone through only once: pass a list or a DataLoader")
    first = next(iter(data), None)
    if first is not None and not isinstance(first, Mapping):
        raise InputError(
            f"data gives a {type(first).__name__} a batch, expected a mapping such as {{'input_ids': ...}}"
        )
    return data


def _of_arrays(data: Any, size: int) -> Any:
    """A data set that gives lists or arrays; one that is streamed in batches."""
    check_dataset(data, "data")
    if getattr(data, "format", {}).get("type") in _TABLES:
        data = data.with_format(None)
    first = None if hasattr(data, "__len__") else next(iter(data), None)
    tokens = first.get("input_ids") if isinstance(first, Mapping) else None
    flat = getattr(tokens, "ndim", 0) == 1 or (isinstance(tokens, list) and not isinstance((*tokens, 0)[0], list))
    return data.batch(size) if flat else data


class _Column:
    """One column of a `datasets.Dataset`, read slice by slice."""

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset, self._name = dataset.select_columns([name]) if is_dataset(dataset) else dataset, name

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, part: slice) -> Any:
        return self._dataset[part][self._name]


def _length(columns: Mapping[str, Any]) -> int:
    for name, value in columns.items():
        refuse_class(value, f"data[{name!r}]")
    sizes = {name: len(value) for name, value in columns.items()}
    if not sizes:
        raise InputError("data has no columns: there is nothing to fit on")
    if len(set(sizes.values())) != 1:
        raise InputError(f"the columns of data differ in length: {sizes}")
    return next(iter(sizes.values()))


def _to_input(value: Any, name: str) -> Any:
    if isinstance(value, (Tensor, *_CONSTANT)):
        return value
    if is_ragged(value):
        raise InputError(f"{name} has rows of different lengths: write tokenizer(..., padding=True)")
    try:
        return to_tensor(value, name)
    except InputError:
        return value


def _is_rows_of_integers(value: Any) -> bool:
    """Whether it is a list of lists of integers: labels of tokens, some of which may be missing at the end."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(row, (list, tuple)) and all(isinstance(label, int) for label in row) for row in value
    )


def _as_rows(concept: Any) -> tuple[Any, list[Any]]:
    """All labels at once: a tensor, or a list where rows differ in length; and the classes if they were text."""
    if concept is None:
        raise InputError("concept is None: pass labels, the name of their column in data, or a function of a batch")
    return numbered(concept)


def _numbered_column(column: Any) -> tuple[Any, list[Any]]:
    """A column of data, its text as the numbers of its classes; numbers of a data set on disk are read in batches."""
    if isinstance(column, Tensor) or not length_of(column):
        return column, []
    if isinstance(column, (list, tuple)) or as_rows(column) is not column or read_array(column[:1], "concept").is_named:
        return numbered(column[: len(column)])
    return column, []


@dataclass(frozen=True)
class Survey:
    """What the labels of a data set are.

    Attributes:
        batches: Number of batches.
        sequences: Number of sequences.
        labelled: Labels that count.
        categorical: Whether labels are classes.
        width: Number of classes, or of columns.
        classes: Names of the classes, if labels were text.
    """

    batches: int
    sequences: int
    labelled: int
    categorical: bool
    width: int
    classes: tuple[Any, ...] = ()


def survey(batches: Batches, kind: Kind = "auto", together: Together | None = None) -> Survey:
    """Go through the labels once, without the model.

    Args:
        batches: Data and labels; of processes that fit together the own ones.
        kind: What labels are, if not what their dtype says.
        together: The processes; what is found is of the labels of all.

    Raises:
        InputError: If no label counts, or all that count are of one class: the concept is absent from the data.
    """
    found = Finding(batches, kind)

    def gone_through() -> dict[str, Any]:
        for batch in batches:
            found.add(batch)
        return found.told()

    return found.judged((together or Together()).told(gone_through))


class Finding:
    """What the labels of a data set are, batch by batch.

    Args:
        batches: Whose labels.
        kind: What they are, if not what their dtype says.
    """

    def __init__(self, batches: Batches, kind: Kind) -> None:
        self._kind: Kind = kind
        self._batches, self._tally = batches, Tally("concept", kind)
        self._number = self._sequences = self._columns = self._highest = 0
        if kind == "continuous" and batches.classes:
            raise InputError("concept holds text, not numbers: leave out kind='continuous', or convert it first")

    def add(self, batch: Batch) -> None:
        """Look at the labels of a batch."""
        counted = batch.labels[batch.counted(self._batches.ignore_index)]
        check_complete(counted, f"concept (batch {batch.number})")
        self._number, self._sequences = self._number + 1, self._sequences + batch.size
        decided = decide(counted, self._kind) if counted.ndim == 1 else "columns"
        self._tally.add(counted, decided)
        if decided == "categorical":
            numbers = Labels("concept", decided, counted).numbers
            self._highest = max(self._highest, int(numbers.max()) if len(numbers) else 0)
        else:
            self._columns = counted.shape[-1] if counted.ndim > 1 else 1

    def told(self) -> dict[str, Any]:
        """What was found, as plain data."""
        return {
            **{"batches": self._number, "sequences": self._sequences, "labelled": self._tally.n},
            **{"columns": self._columns, "highest": self._highest},
            "classes": sorted(self._tally.classes),
            "names": list(self._batches.classes),
        }

    def judged(self, every: Sequence[Mapping[str, Any]]) -> Survey:
        """What the labels of all processes are, of what each has told.

        Raises:
            InputError: If no label counts, or all that count are of one class.
        """
        return _judged(every, self._tally, self._batches.ignore_index)


def _judged(every: Sequence[Mapping[str, Any]], tally: Tally, ignore_index: int) -> Survey:
    names = same_in_all(every, "names", "number the classes alike before", some=True)
    columns = same_in_all([e for e in every if e["labelled"]] or every, "columns", "pass labels of one kind in all")
    tally.n, tally.classes = sum(each["labelled"] for each in every), {c for each in every for c in each["classes"]}
    if not tally.n:
        raise InputError(f"every label is ignore_index ({ignore_index}) or padding: there is nothing to erase")
    if not columns and len(tally.classes) < 2:
        raise InputError(
            f"the concept is absent from the data: all {tally.n} labels are {tally.classes.pop()}; pass data in which "
            "at least two classes occur"
        )
    tally.check()
    number, sequences = (sum(each[name] for each in every) for name in ("batches", "sequences"))
    highest = max(each["highest"] for each in every)
    return Survey(number, sequences, tally.n, not columns, columns or max(highest + 1, len(names)), tuple(names))
