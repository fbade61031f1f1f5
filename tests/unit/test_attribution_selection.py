"""Exactly k cells, whatever is equal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from efface import InputError
from efface.attribution.selection import cells_of, ranks, top_k


def coarse(n: int, h: int, w: int, levels: int, seed: int) -> Tensor:
    """Maps of few different values, so that there are many ties."""
    return torch.randint(levels, (n, h, w), generator=torch.Generator().manual_seed(seed)).float()


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99), st.data())
def test_exactly_k_and_none_outside_is_higher(
    n: int, h: int, w: int, levels: int, seed: int, data: st.DataObject
) -> None:
    maps = coarse(n, h, w, levels, seed)
    k = torch.tensor(data.draw(st.lists(st.integers(0, h * w), min_size=n, max_size=n)))
    chosen = top_k(maps, k, seed=seed)
    assert chosen.flatten(1).sum(1).tolist() == k.tolist()
    for one, map_ in zip(chosen, maps, strict=True):
        if one.any() and not one.all():
            assert map_[one].min() >= map_[~one].max()


@given(st.integers(1, 4), st.integers(2, 30), st.integers(0, 99))
def test_ranks_are_a_permutation_and_selections_are_nested(n: int, cells: int, seed: int) -> None:
    maps = coarse(n, 1, cells, 3, seed)
    assert ranks(maps, seed=seed).flatten(1).sort(1).values.tolist() == [list(range(cells))] * n
    small, large = (top_k(maps, k, seed=seed) for k in (cells // 2, cells // 2 + 1))
    assert not bool((small & ~large).any())


def test_without_ties_it_is_topk() -> None:
    maps = torch.rand(5, 7, 7, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(5, 49).scatter_(1, maps.flatten(1).topk(10).indices, 1.0).bool()
    assert torch.equal(top_k(maps, 10).flatten(1), expected)


def test_ties_are_random_by_seed_and_not_by_place() -> None:
    flat = torch.zeros(400, 4, 4)
    assert torch.equal(top_k(flat, 4, seed=1), top_k(flat, 4, seed=1))
    assert not torch.equal(top_k(flat, 4, seed=1), top_k(flat, 4, seed=2))
    # Each cell is taken by a quarter of 400 constant maps: five standard deviations are 0.11.
    share = top_k(flat, 4, seed=3).float().mean(0)
    assert float((share - 0.25).abs().max()) < 0.11


def test_first_maps_do_not_depend_on_those_that_follow() -> None:
    maps = coarse(6, 4, 4, 2, 0)
    assert torch.equal(ranks(maps, seed=5)[:2], ranks(maps[:2], seed=5))


def test_a_table_and_doubles_work_and_input_is_untouched() -> None:
    maps = torch.tensor([[0.1, 0.3, 0.2]], dtype=torch.float64)
    before = maps.clone()
    assert top_k(maps, 2).tolist() == [[False, True, True]]
    assert torch.equal(maps, before)


@pytest.mark.parametrize(
    ("share", "cells", "expected"), [(0.05, 100, 5), (0.005, 100, 1), (0.025, 100, 3), (1.0, 7, 7)]
)
def test_cells_of(share: float, cells: int, expected: int) -> None:
    assert cells_of(share, cells) == expected


@pytest.mark.parametrize(
    ("maps", "k", "message"),
    [
        (torch.zeros(1, 2, 2), 5, "expected 0 to 4"),
        (torch.zeros(1, 2, 2), -1, "expected 0 to 4"),
        (torch.zeros(1, 2, 2), 0.05, "cells_of"),
        (torch.zeros(2, 2, 2), [1, 2, 3], "one for each of 2 maps"),
        (torch.tensor([[float("nan"), 1.0]]), 1, "maps has NaN"),
        (torch.tensor([[float("inf"), 1.0]]), 1, "maps has NaN or infinite"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), 1, "floats"),
        (torch.zeros(4), 1, "(n, h, w)"),
        (torch.zeros(0, 2, 2), 1, "none of them 0"),
        ([[1.0, 2.0]], 1, "list"),
    ],
)
def test_bad_input_is_named(maps: object, k: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        top_k(maps, k)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_share_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(InputError, match="share in"):
        cells_of(5, 100)
