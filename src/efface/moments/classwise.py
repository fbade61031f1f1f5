"""Counts, means and scatters for each class of a labelled stream: one `Moments` a class."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from efface._errors import FormatError, InputError, NotFittedError
from efface._io import load_folder, reading, save_folder
from efface._memory import check_room
from efface._text import shown
from efface._validate import check_device, check_finite, check_positive_int, check_type, to_rows, to_tensor
from efface.core.codec import dtype_of, fields_of
from efface.core.row_labels import Labels
from efface.moments.grouping import groupby
from efface.moments.state import NUMBERS, as_state, check_state, state_shapes
from efface.moments.streaming import Moments

_LARGEST = 1e150
_BYTES = 4096
"""What the sums of one class take beside those of squares, about."""


class ClassMoments:
    """First and second moments of x for each of k classes, gathered batch by batch.

    Args:
        x_dim: Width d of x.
        num_classes: Number k of classes; labels are 0 to k - 1.
        device: Where the sums live.
        dtype: `torch.float64`, or `torch.complex128` for complex data.
        least: Products are formed in this dtype at least. The default is float64 even for float32 data, since
            what is done with class covariances (inverse roots) magnifies the rounding of products.

    Attributes:
        classes: The k `Moments`.

    >>> m = ClassMoments(1, 2).update([[0.0], [2.0], [5.0]], [0, 0, 1])
    >>> m.n.tolist(), m.mean_x.flatten().tolist(), m.scatter_xx.flatten().tolist()
    ([2, 1], [1.0, 5.0], [2.0, 0.0])
    """

    def __init__(
        self,
        x_dim: int,
        num_classes: int,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float64,
        least: torch.dtype = torch.float64,
    ) -> None:
        self.x_dim = check_positive_int(x_dim, "x_dim")
        self.num_classes = check_positive_int(num_classes, "num_classes")
        size = self.num_classes * (self.x_dim**2 * 8 + _BYTES)
        check_room(size, f"sums of x_dim={x_dim}, num_classes={num_classes}")
        self.classes = [Moments(self.x_dim, device=device, dtype=dtype, least=least) for _ in range(self.num_classes)]

    # ---------------------------------------------------------------------------------------- gathering

    def update(self, x: Any, z: Any, *, mask: Any = None, weight: Any = None) -> Self:
        """Take in a batch; bad input is refused before anything changes.

        Args:
            x: `(..., d)` numbers.
            z: `(...)` integer or boolean labels, or one-hot rows `(..., k)`.
            mask: `(...)` booleans: rows to take; labels and values of other rows do not matter.
            weight: `(...)` frequencies, not negative.

        Raises:
            InputError: If shapes disagree, a label is out of range or a value not finite (rows are named).
        """
        mask, weight = (None if v is None else to_tensor(v, k) for k, v in (("mask", mask), ("weight", weight)))
        return self.update_tensors(to_tensor(x, "x"), to_tensor(z, "z"), mask, weight)

    @torch.inference_mode(False)
    def update_tensors(self, x: Tensor, z: Tensor, mask: Tensor | None = None, weight: Tensor | None = None) -> Self:
        """`update` with what is in tensors already."""
        rows, lead = to_rows(x, self.x_dim, "x"), tuple(x.shape[:-1])
        taken = None if mask is None else _as_mask(mask, lead).to(rows.device)
        labels = _as_labels(z, lead, self.num_classes, taken).to(rows.device)
        weights = None if weight is None else _as_weights(weight, lead).to(rows.device)
        index = torch.arange(len(rows), device=rows.device) if taken is None else taken.nonzero().flatten()
        if len(index) == 0:
            return self
        self._check(rows if taken is None else rows[index], index)
        for label, chosen in groupby(index, labels[index], stable=True):
            self.classes[label].update_tensors(rows[chosen], weight=None if weights is None else weights[chosen])
        return self

    def update_single(self, x: Any, z: int, *, mask: Any = None, weight: Any = None) -> Self:
        """Take in a batch `(..., d)`, all of class `z`."""
        self.classes[check_label(z, self.num_classes)].update(x, mask=mask, weight=weight)
        return self

    def _check(self, rows: Tensor, index: Tensor) -> None:
        """Refuse here what would stop a later class halfway through a batch."""
        if rows.is_complex() and not self.classes[0].s_xx.is_complex():
            raise InputError("x is complex: make the fitter with dtype=torch.complex64 or torch.complex128")
        check_finite(rows, "x", index=index)
        if rows.dtype in (torch.float64, torch.complex128) and bool((rows.abs() > _LARGEST).any()):
            raise InputError("x is too large: squares overflow float64; divide it by a constant first")

    # ------------------------------------------------------------------------------------------ merging

    def merge(self, other: ClassMoments) -> Self:
        """Take in all that `other` has seen; `other` is unchanged.

        Raises:
            InputError: If the two differ in width, classes or dtype.
        """
        check_type(other, ClassMoments, "what is merged")
        if (self.x_dim, self.num_classes) != (other.x_dim, other.num_classes):
            raise InputError(
                f"cannot merge moments of (x_dim, num_classes) {(self.x_dim, self.num_classes)} with "
                f"{(other.x_dim, other.num_classes)}"
            )
        for mine, theirs in zip(self.classes, other.classes, strict=True):
            mine.merge(theirs)
        return self

    def copy(self, device: str | torch.device | None = None) -> ClassMoments:
        """An independent copy, on another device if one is given."""
        new = copy.copy(self)
        new.classes = [m.copy(device) for m in self.classes]
        return new

    def __add__(self, other: ClassMoments) -> ClassMoments:
        return self.copy().merge(other)

    # ------------------------------------------------------------------------------------------ reading

    @property
    def n(self) -> Tensor:
        """`(k,)` rows taken in each class, int64."""
        return torch.tensor([m.n for m in self.classes], device=self.device)

    @property
    def weight(self) -> Tensor:
        """`(k,)` total weight of each class, float64; equal to `n` if no weights were given."""
        return torch.tensor([m.weight for m in self.classes], dtype=torch.float64, device=self.device)

    @property
    def prior(self) -> Tensor:
        """`(k,)` share of each class in the total weight, float64; zeros before the first update."""
        return self.weight / self.weight.sum().clamp_min(torch.finfo(torch.float64).tiny)

    @property
    def mean_x(self) -> Tensor:
        """`(k, d)` class means; zeros for a class not seen."""
        return torch.stack([m.mean_x for m in self.classes])

    @property
    def global_mean(self) -> Tensor:
        """`(d,)` mean of all rows."""
        return self.prior.to(self.mean_x.dtype) @ self.mean_x

    @property
    def scatter_xx(self) -> Tensor:
        """`(k, d, d)` scatter of each class about its own mean."""
        return torch.stack([m.scatter_xx for m in self.classes])

    @property
    def scatter_xz(self) -> Tensor:
        """`(d, k)` cross-scatter of x with one-hot labels, as `Moments.scatter_xz` would have it."""
        return ((self.mean_x - self.global_mean) * self.weight[:, None]).mH

    def degrees_of_freedom(self) -> float:
        """`W - 1` of all rows together, the divisor of an unbiased covariance of all.

        Raises:
            NotFittedError: If fewer than two rows were seen.
        """
        total = float(self.weight.sum())
        if total <= 1:
            raise NotFittedError(f"only {int(self.n.sum())} rows were seen, at least two are needed: call update first")
        return total - 1

    @property
    def device(self) -> torch.device:
        """Where the sums live."""
        return self.classes[0].s_xx.device

    # -------------------------------------------------------------------------------------------- files

    def state_dict(self) -> dict[str, Tensor]:
        """All that is kept, as tensors with the classes along the first dimension."""
        states = [m.state_dict() for m in self.classes]
        return {name: torch.stack([s[name] for s in states]) for name in states[0]}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Replace all that is kept by what `state_dict` returned.

        Raises:
            FormatError: If a tensor is missing or has another shape.
        """
        shapes = state_shapes(self.x_dim, 0, "full")
        classes = state["n"].shape if isinstance(as_state(state).get("n"), Tensor) else None
        if classes is not None and classes != (self.num_classes,):
            raise FormatError(f"state has {list(classes)} classes, expected {self.num_classes}")
        state = check_state(state, shapes, self.classes[0].s_xx.dtype, (self.num_classes,))
        own = {name: state[name] for name in (*shapes, *NUMBERS)}
        loaded = [m.copy() for m in self.classes]
        for label, moments in enumerate(loaded):
            moments.load_state_dict({name: value[label] for name, value in own.items()})
        self.classes = loaded
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, atomically: `config.json` and `model.safetensors`."""
        first = self.classes[0]
        config = {"type": "ClassMoments", "x_dim": self.x_dim, "num_classes": self.num_classes}
        dtypes = {"dtype": str(first.s_xx.dtype)[6:], "least": str(first.least)[6:]}
        save_folder(path, config | dtypes, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> ClassMoments:
        """Read what `save` wrote."""
        config, tensors = load_folder(path, expect="ClassMoments")
        device = check_device(device)
        with reading(path):
            x_dim, classes, dtype, least = fields_of(config, x_dim=int, num_classes=int, dtype=str, least=str)
            # Before anything of a size that a file claims is made.
            check_state(tensors, state_shapes(x_dim, 0, "full"), dtype_of(dtype), (classes,))
            new = cls(x_dim, classes, device=device, dtype=dtype_of(dtype), least=dtype_of(least))
            return new.load_state_dict(tensors)


def as_labels(z: Any, lead: tuple[int, ...], num_classes: int, taken: Tensor | None = None) -> Tensor:
    """Class labels `(n,)` as int64 for rows of leading shape `lead`.

    Args:
        z: Integers or booleans of shape `lead` (or `lead + (1,)`), or one-hot rows `lead + (num_classes,)`.
        lead: Leading shape of x.
        num_classes: Number of classes.
        taken: `(n,)` booleans: rows that matter; others may hold anything.

    Raises:
        InputError: If z is neither, or a label out of range.

    >>> as_labels([[0.0, 1.0], [1.0, 0.0]], (2,), 2)
    tensor([1, 0])
    """
    z = z.values if isinstance(z, Labels) else to_tensor(z, "z")
    return _as_labels(z, lead, num_classes, taken)


def _as_labels(z: Tensor, lead: tuple[int, ...], num_classes: int, taken: Tensor | None) -> Tensor:
    if tuple(z.shape) == (*lead, num_classes) and num_classes > 1:
        return _from_one_hot(z.reshape(-1, num_classes), taken)
    if tuple(z.shape) not in (lead, (*lead, 1)):
        raise InputError(
            f"z has shape {tuple(z.shape)}, expected labels {lead} to go with x of shape {(*lead, 'd')}, "
            f"or one-hot rows {(*lead, num_classes)}"
        )
    if z.is_floating_point() or z.is_complex():
        raise InputError(f"z holds {z.dtype} values, expected integer labels: write z.long()")
    labels = z.reshape(-1).long()
    outside = (labels < 0) | (labels >= num_classes)
    outside = labels[outside if taken is None else outside & taken.to(z.device)].unique().tolist()
    if outside:
        raise InputError(
            f"z has labels {_few(outside)}, expected 0 to {num_classes - 1}: relabel with "
            "torch.unique(z, return_inverse=True)[1], or drop the rows with a mask"
        )
    return labels


def check_label(z: Any, num_classes: int) -> int:
    """`z` as a Python integer, if it is one label of `num_classes`.

    Raises:
        InputError: If it is not one integer, or out of range.
    """
    label = to_tensor(z, "z")
    if label.numel() != 1 or label.is_floating_point() or label.is_complex():
        raise InputError(f"expected one integer label, got {shown(z)}: give one label to each row with update(x, z)")
    if not 0 <= int(label) < num_classes:
        raise InputError(f"label {int(label)} is out of range: expected 0 to {num_classes - 1}")
    return int(label)


def _from_one_hot(z: Tensor, taken: Tensor | None) -> Tensor:
    wrong = ((z != 0) & (z != 1)).any(-1) | ((z == 1).sum(-1) != 1)
    wrong = wrong if taken is None else wrong & taken.to(z.device)
    if bool(wrong.any()):
        raise InputError(
            f"z has {z.shape[-1]} columns, but row {int(wrong.nonzero()[0])} is not one-hot: pass integer "
            "labels of shape (...)"
        )
    return (z == 1).to(torch.uint8).argmax(-1)


def _as_mask(mask: Tensor, lead: tuple[int, ...]) -> Tensor:
    chosen = _like(mask, "mask", lead)
    if chosen.dtype != torch.bool:
        raise InputError(f"mask holds {chosen.dtype}, expected booleans: write mask.bool()")
    return chosen


def _as_weights(weight: Tensor, lead: tuple[int, ...]) -> Tensor:
    weights = _like(weight, "weight", lead).to(torch.float64)
    check_finite(weights, "weight")
    if bool((weights < 0).any()):
        raise InputError("weight has negative values: weights are frequencies, 0 drops a row")
    return weights


def _like(tensor: Tensor, name: str, lead: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != lead:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected {lead}: one for each row of x")
    return tensor.reshape(-1)


def _few(values: list[int], shown: int = 5) -> str:
    return ", ".join(map(str, values[:shown])) + (", ..." if len(values) > shown else "")
