"""Labels as columns: what kind of concept z is, decided once, said, and the same for every batch."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_finite, to_tensor

Kind = Literal["auto", "categorical", "continuous"]
KINDS = ("auto", "categorical", "continuous")

_WIDEST_GUESS = 1000


def decide(z: Tensor, lead: tuple[int, ...], kind: Kind) -> str:
    """The kind of concept that z holds.

    Args:
        z: `(...)` one value a row, or `(..., k)` columns.
        lead: Shape `(...)` of the rows.
        kind: `"auto"`, or the user's word.

    Returns:
        `"categorical"` (integers or booleans, one a row), `"continuous"` (numbers, one a row) or
        `"columns"` (several numbers a row: one-hot, multi-hot, or continuous).
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    if not _is_flat(z, lead):
        return "columns"
    if kind != "auto":
        return kind
    return "continuous" if z.is_floating_point() or z.is_complex() else "categorical"


def width(z: Any, lead: tuple[int, ...], kind: Kind = "auto") -> int:
    """How many columns z makes: the number of classes, 1 for a continuous concept, or its own width.

    >>> width(torch.tensor([0, 2, 1]), (3,)), width(torch.tensor([0.0, 2.0, 1.0]), (3,))
    (3, 1)
    """
    z = _aligned(z, lead)
    decided = decide(z, lead, kind)
    if decided == "columns":
        return z.reshape(*lead, -1).shape[-1] if z.numel() else z.shape[-1]
    if decided == "continuous" or z.numel() == 0:
        return 1
    labels = _class_labels(z.reshape(-1))
    classes = max(int(labels.max()) + 1, 2)
    if classes > _WIDEST_GUESS and classes > 10 * (distinct := len(labels.unique())):
        raise InputError(
            f"z holds integers up to {classes - 1} but only {distinct} distinct ones: number the classes with "
            "numpy.unique(z, return_inverse=True)[1], or pass kind='continuous'"
        )
    return classes


def encode(z: Any, lead: tuple[int, ...], z_dim: int, kind: Kind = "auto") -> tuple[Tensor, str]:
    """Columns `(*lead, z_dim)` that stand for z, and the kind of concept that it is.

    Classes become one-hot columns, or a single 0/1 column if `z_dim` is 1.

    Raises:
        InputError: If z does not go with x, or with `z_dim`; the text says what to write.

    >>> encode(torch.tensor([1, 0]), (2,), 2)
    (tensor([[0, 1],
            [1, 0]]), 'categorical')
    """
    z = _aligned(z, lead)
    decided = decide(z, lead, kind)
    if decided == "categorical":
        return _one_hot(_class_labels(z.reshape(lead)), z_dim), decided
    columns = z.reshape(*lead, -1) if z.numel() else z.reshape(*lead, z_dim)
    if columns.shape[-1] != z_dim:
        raise InputError(
            f"z has {columns.shape[-1]} columns, expected {z_dim} (z_dim)"
            + (": pass integers if these are class labels" if decided == "continuous" else "")
        )
    return columns, decided


def hide_masked(z: Any, mask: Any, lead: tuple[int, ...]) -> Tensor:
    """Labels z with those of rows that the mask leaves out set to 0, so that an ignore index (-100) is no error.

    A mask that does not fit is left to whoever uses it to refuse.

    >>> hide_masked(torch.tensor([2, -100]), torch.tensor([True, False]), (2,))
    tensor([2, 0])
    """
    z = to_tensor(z, "z")
    if mask is None or z.is_floating_point() or z.is_complex():
        return z
    chosen = to_tensor(mask, "mask").to(z.device)
    if tuple(chosen.shape) != lead or tuple(z.shape[: len(lead)]) != lead or chosen.dtype != torch.bool:
        return z
    return torch.where(chosen.reshape(*lead, *(1,) * (z.ndim - len(lead))), z, torch.zeros_like(z))


def _is_flat(z: Tensor, lead: tuple[int, ...]) -> bool:
    return tuple(z.shape) in (lead, (*lead, 1))


def _aligned(z: Any, lead: tuple[int, ...]) -> Tensor:
    z = to_tensor(z, "z")
    if tuple(z.shape[: len(lead)]) != lead:
        raise InputError(
            f"z has shape {tuple(z.shape)}, expected {lead} or {(*lead, 'k')} to go with x of shape {(*lead, 'd')}: "
            "give one label (or one row of columns) for each row of x"
        )
    return z


def _class_labels(labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        check_finite(labels.reshape(-1), "z")
        if bool((labels != labels.round()).any()):
            raise InputError("kind='categorical', but z holds fractions: pass integer class labels")
    labels = labels.long()
    if labels.numel() and int(labels.min()) < 0:
        raise InputError(
            f"z has the negative class label {int(labels.min())}: number classes from 0, and leave rows out by mask="
        )
    return labels


def _one_hot(labels: Tensor, z_dim: int) -> Tensor:
    highest = int(labels.max()) if labels.numel() else 0
    if highest >= max(z_dim, 2):
        raise InputError(
            f"z has the class label {highest}, but there is room for {max(z_dim, 2)} classes (z_dim={z_dim}): "
            f"make the fitter with z_dim={highest + 1}, or pass kind='continuous' if z is a quantity"
        )
    if z_dim == 1:
        return labels.unsqueeze(-1)
    return torch.nn.functional.one_hot(labels, z_dim)
