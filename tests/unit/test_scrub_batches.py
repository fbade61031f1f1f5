"""Data and labels in all the forms in which they come, and what is refused of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BatchEncoding

from efface import (
    EffaceWarning,
    InputError,
    labels_from_characters,
    labels_from_spans,
    labels_from_tagged,
    labels_from_words,
)
from efface.core.site import Site
from efface.scrubbing.batches import Batch, Batches, survey
from efface.scrubbing.forward import align
from efface.scrubbing.token_labels import IGNORE, rectangular

N, LENGTH = 7, 5
IDS = torch.arange(N * LENGTH).reshape(N, LENGTH)
MASK = (torch.arange(LENGTH) < torch.tensor([5, 5, 3, 5, 1, 5, 2])[:, None]).long()
Z = IDS % 3


def gathered(batches: Batches) -> dict[str, Tensor]:
    """All batches put together, as they came."""
    found = list(batches)
    assert [b.number for b in found] == list(range(len(found)))
    assert [b.first for b in found] == [sum(b.size for b in found[:i]) for i in range(len(found))]
    names = found[0].inputs
    return {name: torch.cat([b.inputs[name] for b in found]) for name in names} | {
        "labels": torch.cat([b.labels for b in found])
    }


# ---------------------------------------------------------------------------------------------- forms of data


class Columns:
    """What of `datasets.Dataset` is used: column names, and slices of all columns."""

    column_names = ("input_ids", "attention_mask", "z")

    def __len__(self) -> int:
        return N

    def __getitem__(self, part: slice) -> dict[str, Any]:
        return {"input_ids": IDS[part].tolist(), "attention_mask": MASK[part].tolist(), "z": Z[part].tolist()}


ROWS = [{"input_ids": i, "attention_mask": m, "z": z} for i, m, z in zip(IDS, MASK, Z, strict=True)]
TABLE = {"input_ids": IDS, "attention_mask": MASK, "z": Z}


@pytest.mark.parametrize(
    "data",
    [
        TABLE,
        {k: v.tolist() for k, v in TABLE.items()},
        {k: v.numpy() for k, v in TABLE.items()},
        BatchEncoding({k: v.numpy() for k, v in TABLE.items()}),
        [{k: v[i : i + 3] for k, v in TABLE.items()} for i in range(0, N, 3)],
        DataLoader(ROWS, batch_size=3),  # type: ignore[arg-type]
        Columns(),
    ],
    ids=["tensors", "lists", "arrays", "BatchEncoding", "batches", "DataLoader", "Dataset"],
)
def test_all_forms_of_data_are_the_same_data(data):
    found = gathered(Batches(data, "z", batch_size=3))
    assert set(found) == {"input_ids", "attention_mask", "labels"}  # labels do not go to the model
    assert torch.equal(found["input_ids"], IDS) and torch.equal(found["attention_mask"], MASK)
    assert torch.equal(found["labels"], Z)


@pytest.mark.parametrize(
    "concept",
    [Z, Z.tolist(), Z.numpy(), lambda batch: batch["input_ids"] % 3, [row.tolist() for row in Z]],
    ids=["tensor", "lists", "array", "function", "rows"],
)
def test_all_forms_of_labels_are_the_same_labels(concept):
    assert torch.equal(gathered(Batches(IDS, concept, batch_size=2))["labels"], Z)


def test_rows_of_labels_of_different_lengths():
    rows = [row[:length].tolist() for row, length in zip(Z, MASK.sum(1), strict=True)]
    whole = gathered(Batches(IDS, rows, batch_size=2))["labels"]
    assert torch.equal(whole, torch.where(MASK.bool(), Z, IGNORE))
    own = gathered(Batches({"input_ids": IDS, "z": rows}, "z", batch_size=2, ignore_index=-1))["labels"]
    assert torch.equal(own, torch.where(MASK.bool(), Z, -1))
    of_loader = [{"input_ids": IDS[i : i + 1], "z": rows[i : i + 1]} for i in range(N)]
    assert torch.equal(gathered(Batches(of_loader, "z"))["labels"], whole)
    floats = [[x / 2 for x in row] for row in rows]  # what they are filled up with does not count either
    assert survey(Batches(IDS, floats, batch_size=1)).labelled == int(MASK.sum())


def test_a_streaming_data_set_is_gone_through_in_its_batches():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({name: value.tolist() for name, value in TABLE.items()})
    batches = Batches(table.to_iterable_dataset().with_format("torch").batch(3), "z")
    for _ in range(2):
        found = gathered(batches)
        assert torch.equal(found["input_ids"], IDS) and torch.equal(found["labels"], Z)


def test_data_sets_of_hugging_face_in_any_format_are_the_same_data():
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({name: value.tolist() for name, value in TABLE.items()})
    streamed = whole.to_iterable_dataset(num_shards=2)
    ways = [whole.with_format(kind) for kind in (None, "torch", "numpy", "arrow", "pandas")]
    for data in [*ways, streamed, streamed.with_format("torch"), streamed.batch(3), streamed.map(lambda row: row)]:
        batches = Batches(data, "z", batch_size=2)
        for _ in range(2):
            found = gathered(batches)
            assert torch.equal(found["input_ids"], IDS) and torch.equal(found["labels"], Z)


@pytest.mark.parametrize("per_token", [False, True])
def test_classes_of_a_data_set_are_named_in_its_order(per_token):
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=["verb", "noun", "other", "never"])
    labels = [row.clamp(max=2).tolist() if per_token else int(row[0] > 0) for row in Z]
    features = datasets.Features(
        input_ids=datasets.List(datasets.Value("int64")), z=datasets.List(kind) if per_token else kind
    )
    table = datasets.Dataset.from_dict({"input_ids": IDS.tolist(), "z": labels}, features=features)
    for data in (table, table.to_iterable_dataset()):
        found = survey(Batches(data, "z", batch_size=2))
        assert found.classes == ("verb", "noun", "other", "never") and found.width == 4


def test_several_data_sets_are_none():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({name: value.tolist() for name, value in TABLE.items()})
    for data in (datasets.DatasetDict(a=table), datasets.IterableDatasetDict(a=table.to_iterable_dataset())):
        with pytest.raises(InputError, match=r"several data sets \(a\): choose one, data\['a'\]"):
            Batches(data, "z")


@pytest.mark.parametrize("left", [False, True])
def test_rows_of_labels_lie_at_the_tokens_of_their_sequence(left):
    mask = MASK.flip(1) if left else MASK
    rows = [row[real.bool()].tolist() for row, real in zip(Z, mask, strict=True)]
    for labels in (rows, Z.tolist()):  # of the tokens that count, or of all
        found = gathered(Batches({"input_ids": IDS, "attention_mask": mask}, labels, batch_size=2))["labels"]
        assert torch.equal(found[mask.bool()], Z[mask.bool()])


@pytest.mark.parametrize("by", ["labels", "column"])
def test_one_label_a_word_is_not_one_a_token(by):
    words = [row[: 4 - i % 2].tolist() for i, row in enumerate(Z)]
    tokens = {"input_ids": IDS, "attention_mask": MASK}
    batches = Batches(tokens, words) if by == "labels" else Batches({**tokens, "z": words}, "z")
    with pytest.raises(InputError, match="sequence 0 has 4 labels and 5 tokens.*labels_from_words"):
        gathered(batches)


def test_rows_of_labels_of_images_are_taken_as_they_are():
    images = {"pixel_values": torch.rand(2, 3, 8, 8), "z": [[0, 1, 2, 0, 1], [1, 1, 0, 0, 2]]}
    assert gathered(Batches(images, "z"))["labels"].tolist() == images["z"]


def test_constants_go_to_the_model_with_each_batch():
    for data in ({**TABLE, "use_cache": False, "scale": 2.0}, [{**TABLE, "use_cache": False, "scale": 2.0}]):
        for batch in Batches(data, "z", batch_size=3):
            assert batch.inputs["use_cache"] is False and batch.inputs["scale"] == 2.0


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_batches_are_cut(size):
    sizes = [batch.size for batch in Batches(IDS, Z, batch_size=size)]
    assert sizes == [min(size, N - i) for i in range(0, N, size)]


# ------------------------------------------------------------------------------------------- which labels count


@pytest.mark.parametrize(
    ("labels", "mask", "expected"),
    [
        (Z, None, torch.ones(N, LENGTH)),
        (Z, MASK, MASK),
        (torch.where(Z == 2, IGNORE, Z), MASK, MASK * (Z != 2)),
        (torch.where(Z == 2, IGNORE, Z.float()), MASK, MASK * (Z != 2)),
        (torch.zeros(N, LENGTH, 2).masked_fill_((Z == 2)[..., None], IGNORE), MASK, MASK * (Z != 2)),
        (torch.tensor([0, 1, IGNORE, 0, 1, 0, 1]), MASK, torch.tensor([1, 1, 0, 1, 1, 1, 1])),
        (torch.rand(N), None, torch.ones(N)),
    ],
)
def test_padding_and_ignored_labels_do_not_count(labels, mask, expected):
    inputs = {"input_ids": IDS} if mask is None else {"input_ids": IDS, "attention_mask": mask}
    assert torch.equal(Batch(0, 0, inputs, labels).counted(IGNORE), expected.bool())


@pytest.mark.parametrize(
    ("labels", "inputs", "per_token"),
    [
        (torch.zeros(N, dtype=torch.int64), {"input_ids": IDS}, False),
        (torch.rand(N), {"input_ids": IDS}, False),
        (Z, {"input_ids": IDS}, True),
        (Z.float(), {"input_ids": IDS}, True),
        (torch.rand(N, 2), {"input_ids": IDS}, False),  # two quantities a sequence
        (torch.rand(N, LENGTH, 2), {"input_ids": IDS}, True),
        (torch.rand(N, 3), {"pixel_values": torch.rand(N, 3, 8, 8)}, False),
        (torch.zeros(N, dtype=torch.int64), {"pixel_values": torch.rand(N, 3, 8, 8)}, False),
        (torch.rand(N, LENGTH), {"inputs_embeds": torch.rand(N, LENGTH, 4)}, True),
    ],
)
def test_labels_of_tokens_and_of_sequences_are_told_apart(labels, inputs, per_token):
    assert Batch(0, 0, inputs, labels).per_token is per_token


def test_labels_of_sequences_hold_for_their_tokens_but_padding():
    labels = torch.tensor([0, 1, IGNORE, 0, 1, 0, 1])
    batch = Batch(0, 0, {"input_ids": IDS, "attention_mask": MASK}, labels)
    x = torch.rand(N, LENGTH, 4)
    for seen in (x, x.flatten(0, 1)):  # some layers see their tokens flattened
        rows, spread, counted = align(seen, batch, Site("h.0"), IGNORE)
        assert torch.equal(rows, x) and torch.equal(spread, labels[:, None].expand(N, LENGTH))
        assert torch.equal(counted, MASK.bool() & (labels != IGNORE)[:, None])
    pooled, same, counted = align(x[:, 0], batch, Site("pooler"), IGNORE)
    assert torch.equal(pooled, x[:, 0]) and torch.equal(same, labels) and torch.equal(counted, labels != IGNORE)


def test_labels_of_tokens_where_tokens_are_flattened():
    batch = Batch(0, 0, {"input_ids": IDS, "attention_mask": MASK}, Z)
    rows, labels, counted = align(torch.rand(N * LENGTH, 4), batch, Site("h.0"), IGNORE)
    assert rows.shape == (N, LENGTH, 4) and torch.equal(labels, Z) and torch.equal(counted, MASK.bool())


def test_a_decoder_has_its_own_padding():
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": IDS, "decoder_attention_mask": 1 - MASK}
    x = torch.rand(N, LENGTH, 4)
    for path, mask in (("encoder.block.0", MASK), ("decoder.block.0", 1 - MASK)):
        assert torch.equal(align(x, Batch(0, 0, inputs, Z), Site(path), IGNORE)[2], mask.bool())
    del inputs["decoder_input_ids"]  # OPT has a decoder, and no other
    assert torch.equal(align(x, Batch(0, 0, inputs, Z), Site("model.decoder.layers.0"), IGNORE)[2], MASK.bool())


# --------------------------------------------------------------------------------------------------- what is refused


def once() -> Iterator[dict[str, Tensor]]:
    yield {"input_ids": IDS}


@pytest.mark.parametrize(
    ("data", "concept", "text"),
    [
        (once(), Z, "iterator, which can be gone through only once"),
        ("text", Z, "data is a str"),
        (scipy.sparse.coo_matrix(np.eye(4)), Z, "data is a coo_matrix"),
        (3, Z, "data is a int"),
        ([IDS], Z, "data gives a Tensor a batch"),
        ([], Z, "no batches"),
        ({}, Z, "no columns"),
        ({"input_ids": IDS, "attention_mask": MASK[:3]}, Z, "columns of data differ in length"),
        ({"input_ids": [[1, 2], [3]]}, [0, 1], r"tokenizer\(..., padding=True\)"),
        ({"text": ["a", "b"]}, [0, 1], r"no arrays to give to the model: it has \['text'\]"),
        (IDS, None, "concept is None"),
        (IDS, Z[:5], "concept has labels for 5 sequences, but data has at least 7"),
        (IDS, torch.cat([Z, Z]), "concept has labels for 14 sequences, but data has 7"),
        (IDS, "z", "a Tensor has no columns|data has no column 'z' for the concept: it has input_ids"),
        (IDS, lambda batch: Z[0, 0], r"labels of shape \(\)"),
        (IDS, lambda batch: Z[:2], "batch of 7 sequences has labels of shape"),
        (IDS, [row[: 1 + i].tolist() * 3 for i, row in enumerate(Z)], "15 labels, but its batch has 5 tokens"),
    ],
)
def test_data_and_labels_that_do_not_go_together(data, concept, text):
    with pytest.raises(InputError, match=text):
        survey(Batches(data, concept))


def test_labels_longer_than_their_sequences_name_the_site_and_both_shapes():
    batch = Batch(4, 0, {"input_ids": IDS}, torch.cat([Z, Z], 1))
    with pytest.raises(InputError, match=r"h.0 has hidden states of shape \(7, 5, 4\).*batch 4 .*\(7, 10\)"):
        align(torch.rand(N, LENGTH, 4), batch, Site("h.0"), IGNORE)
    of_sequences = Batch(4, 0, {"input_ids": IDS}, Z[:, 0])
    with pytest.raises(InputError, match="h.0"):
        align(torch.rand(N + 1, LENGTH, 4), of_sequences, Site("h.0"), IGNORE)


class Changing:
    """Batches of which the second time around something is different."""

    def __init__(self, change: str) -> None:
        self.change, self.passes = change, 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.passes += 1
        order = list(range(N))
        again = self.passes > 2  # once to see what is given, once to go through
        order = order[::-1] if again and self.change == "order" else order
        order = order[:-2] if again and self.change == "fewer" else order
        z = 2 - Z if again and self.change == "labels" else Z
        yield from ({"input_ids": IDS[i : i + 1], "z": z[i : i + 1]} for i in order)


@pytest.mark.parametrize(
    ("change", "text"),
    [("order", "batch 0 is not what"), ("labels", "batch 0 is not what"), ("fewer", "7 batches the first .* 5 now")],
)
def test_data_that_is_not_the_same_each_time(change, text):
    batches = Batches(Changing(change), "z")
    assert len(list(batches)) == N
    with pytest.raises(InputError, match=text):
        list(batches)
    assert len(list(Batches(Changing("nothing"), "z"))) == N


def test_a_shuffled_loader_is_found_out():
    torch.manual_seed(0)
    batches = Batches(DataLoader(ROWS, batch_size=2, shuffle=True), "z")  # type: ignore[arg-type]
    list(batches)
    with pytest.raises(InputError, match="shuffle=False"):
        list(batches)


def test_the_fingerprint_is_of_inputs_and_labels():
    def fingerprint(ids: Tensor, z: Tensor) -> str:
        batches = Batches(ids, z, batch_size=3)
        list(batches)
        return batches.fingerprint

    known = fingerprint(IDS, Z)
    assert fingerprint(IDS.clone(), Z.clone()) == known
    assert known not in (fingerprint(IDS + 1, Z), fingerprint(IDS, 2 - Z), fingerprint(IDS.flip(0), Z.flip(0)))


# ------------------------------------------------------------------------------------------------------ the survey


@pytest.mark.parametrize(
    ("concept", "kind", "expected"),
    [
        (Z, "auto", (35, True, 3)),
        (Z * 5, "auto", (35, True, 11)),  # classes are numbers, whichever occur
        (Z[:, 0] > 0, "auto", (7, True, 2)),
        (torch.where(Z == 1, IGNORE, Z), "auto", (23, True, 3)),
        (Z.float(), "auto", (35, False, 1)),
        (Z, "continuous", (35, False, 1)),
        (Z.float(), "categorical", (35, True, 3)),
        (torch.rand(N, LENGTH, 4), "auto", (35, False, 4)),
        (torch.rand(N, 2), "auto", (7, False, 2)),
    ],
)
def test_what_labels_are(concept, kind, expected):
    coded = kind == "auto" and concept.is_floating_point() and bool((concept == concept.round()).all())
    with pytest.warns(EffaceWarning, match="3 distinct whole values") if coded else nullcontext():
        found = survey(Batches(IDS, concept, batch_size=2), kind)
    assert (found.labelled, found.categorical, found.width) == expected
    assert (found.batches, found.sequences) == (4, N)


@pytest.mark.parametrize(
    ("concept", "text"),
    [
        (Z * 0 + 2, "absent from the data: all 35 labels are 2"),
        (torch.where(Z == 1, 1, IGNORE), "absent from the data: all 12 labels are 1"),
        (Z * 0 + IGNORE, "every label is ignore_index"),
        (Z.float() * 0 + IGNORE, "every label is ignore_index"),
    ],
)
def test_a_concept_that_is_absent(concept, text):
    with pytest.raises(InputError, match=text):
        survey(Batches(IDS, concept))


# ------------------------------------------------------------------------------------------------- labels of spans


@st.composite
def spans(draw: st.DrawFn, length: int) -> list[tuple[int, int, int]]:
    cuts = sorted(draw(st.sets(st.integers(0, length), max_size=6)))
    pieces = list(zip(cuts, cuts[1:], strict=False))
    return [(a, b, draw(st.integers(0, 3))) for a, b in pieces if draw(st.booleans())]


@given(st.lists(spans(8), min_size=1, max_size=3), st.sampled_from([IGNORE, 0]))
def test_spans_of_tokens(found, outside):
    expected = [[outside] * 8 for _ in found]
    for row, own in zip(expected, found, strict=True):
        for start, end, label in own:
            row[start:end] = [label] * (end - start)
    assert labels_from_spans(found, 8, outside=outside).tolist() == expected


@pytest.mark.parametrize("span", [(-1, 2, 1), (2, 2, 1), (3, 2, 1), (0, 9, 1)])
def test_spans_beyond_the_sequence(span):
    with pytest.raises(InputError, match="sequence 1 .*expected 0 <= start < end <= 8"):
        labels_from_spans([[], [span]], 8)


def test_spans_that_overlap():
    with pytest.raises(InputError, match="sequence 0: .*overlaps"):
        labels_from_spans([[(0, 3, 1), (2, 4, 1)]], 8)


def test_labels_of_words():
    ids = [[None, 0, 0, 1, None], [None, 0, 1, 1, 1]]
    assert labels_from_words([[3, 5], [7, 9]], ids).tolist() == [[-100, 3, 3, 5, -100], [-100, 7, 9, 9, 9]]
    first = labels_from_words([[3, 5], [7, 9]], ids, first_only=True)
    assert first.tolist() == [[-100, 3, -100, 5, -100], [-100, 7, 9, -100, -100]]
    with pytest.raises(InputError, match=r"text 1 has labels for 1 words, but tokens of word 1 \(from 0\)"):
        labels_from_words([[3, 5], [7]], ids)
    for words, numbers in (([[1]], ids), ([[3, 5], [7, 9]], [[0, 1], [0]])):
        with pytest.raises(InputError, match="one row of each a text"):
            labels_from_words(words, numbers)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([["verb", "noun"]], [[-100, 1, 0, 0]]),
        ([["verb", -100]], [[-100, 0, -100, -100]]),
        (np.array([[3, 5]]), [[-100, 3, 5, 5]]),
        (torch.tensor([[3, 5]]), [[-100, 3, 5, 5]]),
        (pd.Series([[3, 5]]), [[-100, 3, 5, 5]]),
        ([[0.5, 2.0]], [[-100, 0.5, 2.0, 2.0]]),
        ([[True, False]], [[-100, 1, 0, 0]]),
    ],
)
def test_labels_of_words_are_of_any_sort(words, expected):
    ids = [None, 0, 1, 1]
    assert labels_from_words(words, [ids]).tolist() == expected
    assert labels_from_words(words, SimpleNamespace(word_ids=lambda i: ids)).tolist() == expected


@pytest.mark.parametrize(
    ("words", "ids", "text"),
    [
        ([[0, None]], [[0, 1]], "missing"),
        ([[0, 1]], [[-1, 0]], "text 0 has -1 among its word_ids"),
        ([[0, 1]], [[0.0, 1.0]], "text 0 has 0.0 among its word_ids"),
        ([0, 1], [[0, 1]], "words is no list of rows"),
        ([[0, 1]], [0, 1], "word_ids is no list of rows"),
        ([["a", 1]], [[0, 1]], "mixes text and numbers"),
    ],
)
def test_labels_of_words_that_cannot_be_read(words, ids, text):
    with pytest.raises(InputError, match=text):
        labels_from_words(words, ids)


WORDS = [[0, 1, 0]] * 4


@pytest.mark.parametrize(
    "labels",
    [
        WORDS,
        torch.tensor(WORDS),
        np.array(WORDS),
        [tuple(row) for row in WORDS],
        [["a", "b", "a"]] * 4,
        [[True, False, True]] * 4,
        pd.Series(WORDS),
        pd.Series([*WORDS[:3], [0, 1]]),
        np.array([*WORDS[:3], [0, 1]], dtype=object),
        [torch.tensor(row) for row in (*WORDS[:3], [0, 1])],
        "words",
        lambda batch: torch.tensor(WORDS)[: len(batch["input_ids"])],
    ],
    ids=lambda value: str(value)[:20].partition(" at 0x")[0],
)
def test_one_label_a_word_in_any_form_is_not_one_a_token(labels):
    data = {"input_ids": torch.arange(20).reshape(4, 5), "attention_mask": torch.ones(4, 5, dtype=torch.int64)}
    data |= {"words": WORDS} if isinstance(labels, str) else {}
    with pytest.raises(InputError, match=r"sequence . has . labels and 5 tokens.*labels_from_words"):
        list(Batches(data, labels))


def test_labels_of_a_decoders_tokens_are_not_those_of_its_encoders():
    data = {"input_ids": torch.arange(20).reshape(4, 5), "decoder_input_ids": torch.arange(12).reshape(4, 3)}
    assert next(iter(Batches(data, torch.tensor(WORDS)))).labels.shape == (4, 3)


def test_text_among_which_labels_are_left_out():
    for labels in ([["a", -100, "b"], ["b", "a", -100]], [["a", -100, "b"], ["b", "a"]]):
        batches = Batches({"input_ids": torch.arange(6).reshape(2, 3)}, labels)
        assert next(iter(batches)).labels.tolist() == [[0, -100, 1], [1, 0, -100]] and batches.classes == ["a", "b"]
    batches = Batches({"input_ids": torch.arange(6).reshape(2, 3)}, ["b", -100])
    assert next(iter(batches)).labels.tolist() == [0, -100]


@pytest.mark.parametrize(
    "offsets",
    [
        [[0, 0], [0, 3], [0, 2], [2, 4]],
        [[0, 0], [0, 3], [0, 4]],  # the second word is the longer one
        [[0, 3], [3, 5], [0, 5]],
        [[0, 4], [0, 4]],
        [[0, 4], [0, 0], [0, 3]],
    ],
)
def test_offsets_that_begin_anew(offsets):
    with pytest.raises(InputError, match="text 0: its offsets begin anew at each word"):
        labels_from_characters([[(0, 3, 1)]], [offsets])


@pytest.mark.parametrize(
    "offsets",
    [
        [[0, 1], [0, 1], [0, 1], [1, 4]],  # the bytes of one character
        [[0, 2], [0, 2], [2, 4]],  # of a letter with its accent
        [[0, 3], [2, 3], [3, 5]],  # tokens that share the bytes of one
        [[0, 0], [0, 0], [0, 3], [4, 7], [0, 0]],
    ],
)
def test_offsets_that_go_on(offsets):
    assert labels_from_characters([[(0, 1, 1)]], [offsets], outside=0).max() == 1


TAGGED = [[("Do", "AUX"), ("n't", "PART"), ("run", "VERB"), (".", "PUNCT")]]
DONT_RUN = [[(0, 0), (0, 3), (3, 5), (5, 9), (9, 10)]]  # "", "Don", "'t", " run", "."


def test_labels_of_tagged_text():
    found = labels_from_tagged(["Don't run."], TAGGED, {"offset_mapping": DONT_RUN})
    assert found.tolist() == [[-100, -100, 1, 3, 2]], "a token of two words is left out"
    assert torch.equal(labels_from_tagged(["Don't run."], TAGGED, torch.tensor(DONT_RUN)), found)
    with pytest.raises(InputError, match='text 0: a token is in the span .* and in another one; write shared="ignore"'):
        labels_from_tagged(["Don't run."], TAGGED, DONT_RUN, shared="refuse")
    of_one = [[("Do", 7), ("n't", 7), ("run", -100), (".", 1)]]
    assert labels_from_tagged(["Don't run."], of_one, DONT_RUN).tolist() == [[-100, 7, 7, -100, 1]]
    assert labels_from_tagged(["Don't run."], [[("Do", -100)]], DONT_RUN, outside=0).tolist() == [[-100, 0, 0, 0, 0]]


def test_a_word_is_looked_for_behind_the_one_before():
    labels = labels_from_tagged(["a ba a"], [[("a", 1), ("ba", 2), ("a", 3)]], [[(0, 1), (1, 4), (4, 6)]])
    assert labels.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("texts", "tagged", "text"),
    [
        (["Don't run."], [[("Do", 1), ("not", 2)]], r"text 0: word 1 \(from 0\) is 'not', and at character 2"),
        (["Don't run."], [[("Do", 1), ("run", 2)]], r"text 0: word 1 \(from 0\) is 'run', and at character 2"),
        (["Don't run."], [[("Don't", 1), ("run", 2), ("run", 2)]], r"word 2 \(from 0\) is 'run', and at character 9"),
        (["Don't run.", "x"], TAGGED, "2 texts and tagged words for 1"),
        (["Don't run."], [["Do"]], r"text 0 has 'Do' among its words: give \(word, label\)"),
        (["Don't run."], [[("Do", None)]], "missing"),
        (["Don't run."], [[("", 1)]], r"give \(word, label\)"),
        (["Don't run."], [[("Do", 0.5)]], "three integers: number the classes"),
    ],
)
def test_tags_that_are_of_another_text(texts, tagged, text):
    with pytest.raises(InputError, match=text):
        labels_from_tagged(texts, tagged, DONT_RUN)
    with pytest.raises(InputError, match="return_offsets_mapping=True"):
        labels_from_tagged(["x"], [[("x", 1)]], {"input_ids": [[0]]})


@pytest.mark.parametrize("span", [(2, 2, 1), (3, 1, 1), (-1, 2, 1), (0, 2, "a"), (0, 2, None)])
def test_spans_of_characters_that_are_none(span):
    with pytest.raises(InputError, match="text 0 has the|three integers"):
        labels_from_characters([[span]], [[[0, 1], [1, 3]]])
    with pytest.raises(InputError, match="sequence 0 has the|three integers"):
        labels_from_spans([[span]], 3)


def test_offsets_of_text_that_was_split_before_are_no_places_in_a_text():
    offsets = [[[0, 0], [0, 3], [0, 2], [2, 4]]]  # two words, each counted from 0
    with pytest.raises(InputError, match="text 0: its offsets begin anew at each word.*labels_from_words"):
        labels_from_characters([[(0, 3, 1)]], offsets)


@given(
    spans(20), st.lists(st.integers(1, 4), min_size=1, max_size=8), st.lists(st.integers(0, 2), min_size=8, max_size=8)
)
def test_spans_of_characters(found, widths, gaps):
    offsets, at = [], 0
    for width, space in zip(widths, gaps, strict=False):
        offsets.append((at + space, at + space + width))
        at += space + width
    offsets.append((0, 0))  # a special token
    expected = []
    for a, b in offsets:
        own = {label for start, end, label in found if set(range(a, b)) & set(range(start, end))}
        expected.append(own if a < b else {IGNORE})
    if any(len(own) > 1 for own in expected):
        with pytest.raises(InputError, match="text 0: a token is in the span"):
            labels_from_characters([found], [offsets], outside=0)
    else:
        labels = labels_from_characters([found], [offsets], outside=0).tolist()
        assert labels == [[next(iter(own), 0) for own in expected]]


@pytest.mark.parametrize("offsets", [[[0, 3]], [[[0, 3, 4]]], np.zeros((2, 3, 2))])
def test_offsets_of_another_shape(offsets):
    with pytest.raises(InputError, match="offsets has shape .* expected"):
        labels_from_characters([[]], offsets)


def test_rows_that_are_too_long_name_the_sequence():
    assert rectangular([[1], [1, 2]], 3, -1).tolist() == [[1, -1, -1], [1, 2, -1]]
    with pytest.raises(InputError, match="sequence 1 has 2 labels, but its batch has 1 tokens"):
        rectangular([[1], [1, 2]], 1, -1)
