"""Splitting a tensor by labels, and putting the pieces back in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import brief, shown
from efface._validate import check_int, check_type, to_tensor
from efface.core.arrays import dense
from efface.core.doors import check_call


@dataclass(frozen=True)
class GroupedTensor:
    """A tensor split into groups along one dimension, with what it takes to put it together again.

    Attributes:
        dim: The dimension that was split.
        groups: The pieces: `groups[i]` has the entries whose key is `labels[i]`.
        indices: `(n,)` the permutation that sorts the entries by key.
        labels: The keys there are, ascending.
    """

    dim: int
    groups: Sequence[Tensor]
    indices: Tensor
    labels: list[int]

    __repr__ = brief

    def coalesce(self, groups: Sequence[Tensor] | None = None) -> Tensor:
        """Fuse the groups (or tensors derived from them) into one tensor in the original order.

        Args:
            groups: One tensor for each label, as long as the group along `dim`. Default: the groups.

        Raises:
            InputError: If their number or their total length is wrong.
        """
        check_call(GroupedTensor.coalesce, locals())
        groups = self.groups if groups is None else groups
        if len(groups) != len(self.labels) or not len(groups):
            raise InputError(f"coalesce got {len(groups)} groups for {len(self.labels)} labels: give one for each")
        if wrong := [g for g in groups if not isinstance(g, Tensor)]:
            raise InputError(f"coalesce got {shown(wrong[0])} for a group: give tensors")
        fused = torch.cat(list(groups), dim=self.dim)
        if fused.shape[self.dim] != len(self.indices):
            raise InputError(
                f"the groups have {fused.shape[self.dim]} entries along dim {self.dim}, the original had "
                f"{len(self.indices)}: a function given to map must keep that length"
            )
        return fused.index_select(self.dim, _inverse(self.indices).to(fused.device))

    def map(self, fn: Callable[[int, Tensor], Tensor]) -> GroupedTensor:
        """Groups `fn(label, group)`, in order of label."""
        check_call(GroupedTensor.map, locals())
        groups = [fn(label, group) for label, group in self]
        return GroupedTensor(self.dim, groups, self.indices, self.labels)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        return zip(self.labels, self.groups, strict=True)

    def __len__(self) -> int:
        return len(self.labels)


def groupby(x: Any, key: Any, dim: int = 0, *, stable: bool = False) -> GroupedTensor:
    """Split `x` along `dim` into one group for each value of `key`; the groups are views of one sorted copy.

    Args:
        x: Tensor to split; gradients flow through.
        key: `(n,)` integers of any width, or booleans, where n is the length of `x` along `dim`.
        dim: Dimension to split.
        stable: Keep the order of entries within each group.

    Raises:
        InputError: If the key is not one-dimensional, not of integers, or of another length.

    >>> grouped = groupby(torch.tensor([10, 20, 30]), torch.tensor([1, 0, 1]), stable=True)
    >>> list(grouped)
    [(0, tensor([20])), (1, tensor([10, 30]))]
    >>> grouped.map(lambda label, group: group + label).coalesce()
    tensor([11, 20, 31])
    """
    check_type(stable, bool, "stable")
    x, dim = _tensor(x, "x"), check_int(dim, "dim")
    if not -x.ndim <= dim < x.ndim:
        raise InputError(f"dim is {dim}, but x has shape {tuple(x.shape)}: there is no such dimension to split")
    key = as_key(key, x.shape[dim]).to(x.device)
    ordered, indices = key.sort(stable=stable)
    labels, counts = ordered.unique_consecutive(return_counts=True)
    groups = x.index_select(dim, indices).split(counts.tolist(), dim=dim) if len(key) else ()
    return GroupedTensor(dim, groups, indices, labels.tolist())


def as_key(key: Any, length: int, name: str = "key") -> Tensor:
    """Class labels `(length,)` as int64.

    Raises:
        InputError: If they are not one-dimensional, not integers or booleans, or of another length.
    """
    key = _tensor(key, name)
    if key.is_floating_point() or key.is_complex():
        raise InputError(f"{name} holds {key.dtype} values, expected integer labels: write {name}.long()")
    if key.ndim != 1:
        raise InputError(
            f"{name} has shape {tuple(key.shape)}, expected one label for each entry, ({length},): "
            f"flatten it, or write {name}.argmax(-1) if it is one-hot"
        )
    if len(key) != length:
        raise InputError(f"{name} has {len(key)} labels, but x has {length} entries to split")
    return key.to(torch.int64)


def _tensor(value: Any, name: str) -> Tensor:
    return dense(value, name) if isinstance(value, Tensor) else to_tensor(value, name)


def _inverse(permutation: Tensor) -> Tensor:
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(len(permutation), device=permutation.device)
    return inverse
