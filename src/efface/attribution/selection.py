"""Selecting exactly k cells of a map: ties are broken at random by seed, never by place and never by keeping more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_finite, to_tensor
from efface.attribution.maskers import masked
from efface.core.arrays import dense
from efface.core.doors import check_call


def ranks(maps: Tensor, *, seed: int = 0) -> Tensor:
    """Rank of each cell within its map: 0 is the most important, and equal cells are ranked at random.

    Args:
        maps: `(n, ...)`, higher is more important.
        seed: Seed of the order of equal cells; the first m maps get the same ranks whatever follows them.

    Returns:
        int64 of the shape of `maps`; each map holds 0 to cells - 1 once.

    Raises:
        InputError: If the maps are empty, no floats, or not finite.

    >>> ranks(torch.tensor([[0.1, 0.9, 0.5]]))
    tensor([[2, 0, 1]])
    """
    check_call(ranks, locals())
    rows = as_rows(maps)
    generator = torch.Generator().manual_seed(seed)
    shuffle = torch.rand(rows.shape, generator=generator, dtype=torch.float64).argsort(1).to(rows.device)
    order = shuffle.gather(1, rows.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(rows.shape[1], device=rows.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(maps.shape)


def top_k(maps: Tensor, k: int | Tensor | Sequence[int], *, seed: int = 0) -> Tensor:
    """The k most important cells of each map: exactly k, whatever is equal.

    A threshold keeps more than k cells if the k-th value is repeated (`>=`), or fewer (`>`): none at all of a map that
    is constant. Here, cells that are equal are taken in random order.

    Args:
        maps: `(n, ...)`, higher is more important.
        k: How many cells, one number for all maps or one a map, `(n,)`; from 0 to the number of cells.
        seed: Seed of the order of equal cells.

    Returns:
        bool of the shape of `maps`. Selections of one seed are nested: a larger k keeps what a smaller one kept.

    Raises:
        InputError: If k is no integer or out of range, or the maps are empty, no floats, or not finite.

    >>> top_k(torch.zeros(2, 3, 3), 4).flatten(1).sum(1)
    tensor([4, 4])
    """
    order = ranks(maps, seed=seed)
    cells = order[0].numel()
    wanted = to_tensor(k, "k").to(maps.device)
    if wanted.is_floating_point() or wanted.dtype == torch.bool:
        raise InputError(
            f"k is {shown(k)}: expected whole numbers of cells; for a share write k=cells_of(share, {cells}), e.g. "
            f"cells_of(0.05, {cells}) = {cells_of(0.05, cells)}"
        )
    if wanted.ndim > 1 or (wanted.ndim == 1 and len(wanted) != len(maps)):
        raise InputError(f"k has shape {tuple(wanted.shape)}: expected one number, or one for each of {len(maps)} maps")
    if bool((wanted < 0).any()) or bool((wanted > cells).any()):
        raise InputError(f"k is between {int(wanted.min())} and {int(wanted.max())}: expected 0 to {cells}, the cells")
    return order < (wanted if wanted.ndim == 0 else wanted.view(-1, *[1] * (maps.ndim - 1)))


def cells_of(fraction: float, cells: int) -> int:
    """How many cells a share of a map is: rounded, halves up, but one at least of a share above zero.

    Raises:
        InputError: If the share is not in [0, 1].

    >>> cells_of(0.05, 1024), cells_of(1e-6, 1024), cells_of(0.0, 1024)
    (51, 1, 0)
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"fraction is {fraction}: expected a share in [0, 1], e.g. 0.05 for 5 % of the cells")
    return max(int(fraction * cells + 0.5), 1 if fraction > 0 else 0)


def keep_cells(x: Tensor, keep: Tensor, q: Tensor) -> Tensor:
    """What is kept of each input, and q elsewhere.

    Args:
        x: Images `(n, channels, h, w)`, a table `(n, features)` or token ids `(n, tokens)`.
        keep: Bool, `(n, h, w)`, `(n, features)` or `(n, tokens)`, on any device.
        q: Of the shape of `x`.
    """
    keep = keep.to(x.device)
    return masked(x, keep[:, None] if x.ndim == 4 else keep, q)


def as_rows(maps: Tensor) -> Tensor:
    """Maps `(n, ...)` as rows `(n, cells)`, checked.

    Raises:
        InputError: If they are empty, no floats, or not finite.
    """
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        given = f"a tensor of {maps.dtype}" if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(f"maps are {given}: expected a tensor of floats (n, h, w): torch.as_tensor(maps).float()")
    maps = dense(maps, "maps")
    if maps.ndim < 2 or not maps.numel():
        raise InputError(f"maps have shape {tuple(maps.shape)}: expected (n, h, w) or (n, features), none of them 0")
    rows = maps.detach().flatten(1)
    check_finite(rows, "maps")
    return rows
