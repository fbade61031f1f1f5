"""What a caller passes to `update`, checked and flattened to rows."""

from __future__ import annotations

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_finite, to_rows


def select_rows(
    x: Tensor, z: Tensor | None, mask: Tensor | None, weight: Tensor | None, *, x_dim: int, z_dim: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Rows `(n, d)`, columns `(n, k)`, weights `(n,)` if any, and the numbers of the rows if some were left out.

    Args:
        x: `(..., d)` numbers.
        z: `(..., k)` numbers; not looked at if `z_dim` is 0.
        mask: `(...)` booleans, or None for all rows.
        weight: `(...)` frequencies, or None.
        x_dim: d.
        z_dim: k.

    Raises:
        InputError: If shapes disagree, the mask is not of booleans, or a weight is negative or not finite.
    """
    lead = tuple(x.shape[:-1])
    rows = to_rows(x, x_dim, "x")
    if z is None and z_dim:
        raise InputError(f"these moments keep a z of width {z_dim}: pass z")
    columns = _aligned(z, "z", lead, (z_dim,)) if z is not None and z_dim else rows.new_zeros(len(rows), 0)
    weights = None if weight is None else _frequencies(_aligned(weight, "weight", lead, ()))
    if mask is None:
        return rows, columns, weights, None
    chosen = _aligned(mask, "mask", lead, ())
    if chosen.dtype != torch.bool:
        raise InputError(f"mask holds {chosen.dtype}, expected booleans: write mask.bool()")
    if weights is not None:
        weights = weights[chosen.to(weights.device)]
    rows, columns = rows[chosen.to(rows.device)], columns[chosen.to(columns.device)]
    return rows, columns, weights, chosen.nonzero().flatten()


def _aligned(tensor: Tensor, name: str, lead: tuple[int, ...], tail: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != lead + tail:
        wanted = lead + tail
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}, expected {wanted} to go with x of shape {lead + ('d',)}"
        )
    return tensor.reshape(-1, *tail)


def _frequencies(weight: Tensor) -> Tensor:
    check_finite(weight, "weight")
    if bool((weight < 0).any()):
        raise InputError("weight has negative values: weights are frequencies, 0 drops a row")
    return weight
