"""Where something can be removed: mask cells and how they lie over a sample.

A masker knows how many cells a sample has, spreads a mask over the sample, and turns it into a map of attribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, Protocol, Self, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import InputError
from efface._text import brief
from efface._validate import check_positive_int, to_tensor
from efface.core.doors import check_call, check_fields
from efface.core.saved_types import saved, saved_base

Mode = Literal["bilinear", "nearest"]
Model = Callable[[Tensor], Tensor]
"""Anything that takes samples `(n, ...)` and gives outputs `(n, classes)`."""


@saved_base
@runtime_checkable
class Masker(Protocol):
    """Mask cells over samples. Subclass it: the last three methods need not be written."""

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Shape of the mask of one sample."""
        ...

    def expand(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask `(n, *shape)` in [0, 1], spread so that it can be multiplied with `x`."""
        ...

    def map(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask as a map of attribution: `(n, h, w)`, `(n, features)` or `(n, tokens)`."""
        ...

    def on(self, x: Tensor) -> Self:
        """This masker for one batch only, with what depends on the batch worked out once."""
        return self

    def free(self, x: Tensor) -> Tensor:
        """Which cells may be removed, `(n, *shape)` of bool."""
        check_call(Masker.free, locals())
        cells = self.shape(x)
        return torch.ones(len(x), *cells, dtype=torch.bool, device=x.device)

    def outputs(self, model: Model, x: Tensor, mask: Tensor, q: Tensor) -> Tensor:
        """What the model says of the masked samples: `f(m * x + (1 - m) * q)`."""
        check_call(Masker.outputs, locals())
        return model(masked(x, self.expand(mask, x), q))


def masked(x: Tensor, mask: Tensor, q: Tensor) -> Tensor:
    """The masked sample `x_s(m, q) = m * x + (1 - m) * q` (arXiv 2307.15007).

    Args:
        x: Samples `(n, ...)`.
        mask: What is kept, in [0, 1], of a shape that broadcasts over `x`.
        q: What stands elsewhere, of the shape of `x`.

    Raises:
        InputError: If `x` are integers and the mask is not boolean: half a token id means nothing.

    >>> masked(torch.ones(1, 2), torch.tensor([[1.0, 0.25]]), torch.zeros(1, 2))
    tensor([[1.0000, 0.2500]])
    >>> masked(torch.tensor([[7, 8]]), torch.tensor([[True, False]]), torch.tensor([[0, 0]]))
    tensor([[7, 0]])
    """
    check_call(masked, locals())
    try:
        torch.broadcast_shapes(x.shape, mask.shape, q.shape)
    except RuntimeError as error:
        shapes = f"x {tuple(x.shape)}, mask {tuple(mask.shape)} and q {tuple(q.shape)}"
        raise InputError(
            f"{shapes} do not go together: give a mask that broadcasts over x, and q of its shape"
        ) from error
    if mask.dtype == torch.bool:
        return torch.where(mask, x, q)
    if not x.is_floating_point():
        raise InputError(
            f"x is {x.dtype}, and the mask has values between 0 and 1: write masker=Tokens(...), which mixes "
            "embeddings, or give a boolean mask"
        )
    return mask * x + (1 - mask) * q


@saved
@dataclass(frozen=True)
class Grid(Masker):
    """A grid of cells over images `(n, c, h, w)`, coarser than the pixels by a factor.

    Bilinear spreading is that of `torch.nn.functional.interpolate` without aligned corners: as in the released code
    of arXiv 2307.15007, each cell then weighs as much as any other.

    Attributes:
        upsample: Pixels a cell, along each side. Sides that it does not divide get a last cell that is cut.
        mode: How cells become pixels.
        cells: Rows and columns of the grid, instead of `upsample`.

    >>> Grid(4).shape(torch.zeros(1, 3, 32, 32))
    (8, 8)
    """

    upsample: int = 1
    mode: Mode = "bilinear"
    cells: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive_int(self.upsample, "upsample")
        if self.mode not in get_args(Mode):
            raise InputError(f'mode={self.mode!r}: write "bilinear" or "nearest"')
        if self.cells is not None:
            rows, columns = self.cells
            object.__setattr__(
                self, "cells", (check_positive_int(rows, "rows"), check_positive_int(columns, "columns"))
            )
            if self.upsample != 1:
                raise InputError("both upsample and cells are given: write one of them")

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Rows and columns of cells; refuses a grid that is larger than the image."""
        check_call(Grid.shape, locals())
        h, w = _sides(x)
        if self.cells is not None:
            if self.cells[0] > h or self.cells[1] > w:
                raise InputError(
                    f"the mask grid of {self.cells[0]} x {self.cells[1]} is larger than the image of {h} x {w}: "
                    f"write at most cells=({h}, {w})"
                )
            return self.cells
        if self.upsample > min(h, w):
            raise InputError(
                f"one cell of the mask grid, {self.upsample} x {self.upsample}, is larger than the image of {h} x {w}: "
                f"write upsample={min(h, w)} or less"
            )
        return -(-h // self.upsample), -(-w // self.upsample)

    def expand(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask at pixels, `(n, 1, h, w)`."""
        check_call(Grid.expand, locals())
        rows, columns = self.shape(x)
        if mask.shape[1:] != (rows, columns):
            raise InputError(f"the mask is {tuple(mask.shape[1:])}, and the grid over these images {rows, columns}")
        h, w = _sides(x)
        whole = (h, w) if self.cells is not None else (rows * self.upsample, columns * self.upsample)
        if mask.shape[1:] == (h, w):
            return mask[:, None]
        # Two products with fixed weights: the same numbers as interpolate, and a gradient without atomic additions.
        down = _weights(rows, whole[0], self.mode)[:h].to(mask.device, mask.dtype)
        across = _weights(columns, whole[1], self.mode)[:w].to(mask.device, mask.dtype)
        return (down @ mask @ across.T).clamp(0, 1)[:, None]

    def map(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask at pixels, `(n, h, w)`."""
        check_call(Grid.map, locals())
        return self.expand(mask.float(), x)[:, 0]


@lru_cache(maxsize=32)
def _weights(cells: int, size: int, mode: Mode) -> Tensor:
    """How much each of `size` places takes of each of `cells`, `(size, cells)`."""
    unit = torch.eye(cells)[:, None]
    linear = mode == "bilinear"
    spread = F.interpolate(
        unit, size=size, mode="linear" if linear else "nearest", align_corners=False if linear else None
    )
    return spread[:, 0].T.contiguous()


@saved
@dataclass(frozen=True, eq=False)
class Segments(Masker):
    """Cells of any form, as a map of labels that all images share.

    Attributes:
        labels: Which cell each pixel is in, `(h, w)`, from 0 without gaps.
    """

    labels: Tensor

    __repr__ = brief

    def __post_init__(self) -> None:
        labels = to_tensor(self.labels, "labels")
        object.__setattr__(self, "labels", _checked_labels(labels.long() if not labels.is_floating_point() else labels))

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Number of segments."""
        check_call(Segments.shape, locals())
        if tuple(self.labels.shape) != _sides(x):
            raise InputError(f"labels are {tuple(self.labels.shape)} and images {_sides(x)}: give labels of (h, w)")
        return (self._count,)

    @cached_property
    def _count(self) -> int:
        return int(self.labels.max()) + 1

    def expand(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask at pixels, `(n, 1, h, w)`."""
        check_call(Segments.expand, locals())
        check_mask(mask, x, self.shape(x))
        return mask[:, self.labels.to(mask.device)][:, None]

    def map(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask at pixels, `(n, h, w)`."""
        check_call(Segments.map, locals())
        return self.expand(mask.float(), x)[:, 0]


@saved
@dataclass(frozen=True)
class FeatureGroups(Masker):
    """Columns of a table `(n, d)`, one by one or in groups that come and go together.

    Attributes:
        groups: Column indices of each group; every column is in exactly one. None takes each column by itself.

    >>> groups = FeatureGroups(((0, 2), (1,)))
    >>> groups.map(torch.tensor([[0.1, 0.9]]), torch.zeros(1, 3))
    tensor([[0.1000, 0.9000, 0.1000]])
    """

    groups: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.groups is None:
            return
        groups = tuple(tuple(int(column) for column in group) for group in self.groups)
        if not groups or not all(groups):
            raise InputError(f"groups={groups}: leave empty groups out, or groups=None for single columns")
        columns = [column for group in groups for column in group]
        if len(set(columns)) < len(columns) or min(columns) < 0:
            raise InputError(f"groups={groups}: a column is negative or in two places; name each once, from 0")
        object.__setattr__(self, "groups", groups)

    @cached_property
    def _place(self) -> dict[int, int]:
        return {column: number for number, group in enumerate(self.groups or ()) for column in group}

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Number of groups."""
        check_call(FeatureGroups.shape, locals())
        if x.ndim != 2:
            raise InputError(f"x has shape {tuple(x.shape)}: FeatureGroups expects rows (n, features)")
        if self.groups is None:
            return (x.shape[1],)
        if missing := sorted(set(range(x.shape[1])) ^ set(self._place)):
            raise InputError(
                f"x has {x.shape[1]} columns; in no group, or not in x: {missing[:5]}: name each of them once"
            )
        return (len(self.groups),)

    def expand(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask at columns, `(n, d)`."""
        check_call(FeatureGroups.expand, locals())
        check_mask(mask, x, self.shape(x))
        if self.groups is None:
            return mask
        return mask[:, torch.tensor([self._place[c] for c in range(x.shape[1])], device=mask.device)]

    def map(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask at columns, `(n, d)`."""
        check_call(FeatureGroups.map, locals())
        return self.expand(mask.float(), x)


def check_mask(mask: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a mask of another shape than that of the cells over samples.

    Raises:
        InputError: If it is.
    """
    if tuple(mask.shape[1:]) != shape or len(mask) not in (1, len(x)):
        raise InputError(f"the mask has shape {tuple(mask.shape)}: expected ({len(x)}, {', '.join(map(str, shape))})")


def _sides(x: Tensor) -> tuple[int, int]:
    if x.ndim != 4:
        raise InputError(f"x has shape {tuple(x.shape)}: expected images (n, channels, height, width)")
    return x.shape[2], x.shape[3]


def _checked_labels(labels: Tensor) -> Tensor:
    if labels.is_floating_point() or labels.ndim != 2 or not labels.numel():
        raise InputError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}: give integers (h, w)")
    found = labels.unique()
    if int(found[0]) != 0 or int(found[-1]) != len(found) - 1:
        raise InputError("labels have gaps: write labels.unique(return_inverse=True)[1]")
    return labels
