"""Grouping is a permutation and back, for every key dtype and dimension."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface._errors import InputError
from efface.moments.grouping import GroupedTensor, groupby

quick = settings(deadline=None)
KEY_DTYPES = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
keys = st.lists(st.integers(0, 5), min_size=1, max_size=30)


@quick
@given(keys, st.sampled_from(KEY_DTYPES), st.booleans())
def test_agrees_with_itertools(key, dtype, stable):
    key = torch.tensor(key).to(dtype)
    x = torch.arange(len(key))
    ours = {label: sorted(group.tolist()) for label, group in groupby(x, key, stable=stable)}
    pairs = sorted(zip(key.tolist(), x.tolist(), strict=True))
    theirs = {int(k): [i for _, i in group] for k, group in itertools.groupby(pairs, key=lambda p: p[0])}
    assert ours == theirs


@quick
@given(keys, st.integers(-3, 2), st.booleans())
def test_coalesce_undoes_grouping_along_any_dimension(key, dim, stable):
    shape = [2, 3, 4]
    shape[dim] = len(key)
    x = torch.randn(shape)
    grouped = groupby(x, torch.tensor(key), dim=dim, stable=stable)
    assert torch.equal(grouped.coalesce(), x)
    assert grouped.labels == sorted(set(key)) and len(grouped) == len(grouped.labels)
    assert [g.shape[dim] for g in grouped.groups] == [key.count(label) for label in grouped.labels]


@quick
@given(keys)
def test_map_sees_each_label_with_its_entries(key):
    key = torch.tensor(key)
    x = torch.randn(len(key), 2)
    mapped = groupby(x, key).map(lambda label, group: group * label)
    assert isinstance(mapped, GroupedTensor)
    assert torch.equal(mapped.coalesce(), x * key[:, None])
    assert torch.equal(mapped.coalesce([g + 1 for g in mapped.groups]), x * key[:, None] + 1)


@quick
@given(keys)
def test_stable_keeps_the_order_within_groups(key):
    for _, group in groupby(torch.arange(len(key)), torch.tensor(key), stable=True):
        assert group.tolist() == sorted(group.tolist())


def test_negative_keys_arrays_and_gradients():
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    groupby(x, torch.tensor([-1, 5, -1])).map(lambda label, g: label * g).coalesce().sum().backward()
    assert x.grad is not None and x.grad.tolist() == [-1, 5, -1]
    labels = [label for label, _ in groupby(torch.arange(3), np.array([2, 1, 2], dtype=np.uint16))]  # type: ignore[arg-type]
    assert labels == [1, 2]


def test_nothing_to_group():
    grouped = groupby(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert list(grouped) == [] and grouped.labels == []
    with pytest.raises(InputError, match="0 groups"):
        grouped.coalesce()


@pytest.mark.parametrize(
    "key, dim, text",
    [
        (torch.zeros(3, 2, dtype=torch.int64), 0, r"argmax\(-1\)"),
        (torch.zeros(3), 0, r"key\.long\(\)"),
        (torch.zeros(3, dtype=torch.complex64), 0, "integer labels"),
        (torch.zeros(2, dtype=torch.int64), 0, "2 labels, but x has 3"),
        (torch.zeros(3, dtype=torch.int64), 2, "no such dimension"),
        (np.array(["a", "b", "c"]), 0, "numpy.unique"),
    ],
)
def test_bad_keys_are_errors_that_say_so(key, dim, text):
    with pytest.raises(InputError, match=text):
        groupby(torch.zeros(3, 3), key, dim=dim)


def test_groups_of_another_length_or_number_are_refused():
    grouped = groupby(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InputError, match="must keep that length"):
        grouped.map(lambda _, g: g[:1]).coalesce()
    with pytest.raises(InputError, match="1 groups for 2 labels"):
        grouped.coalesce([torch.zeros(4, 2)])
