"""Several concepts in one eraser: fit them together, or chain erasers that were fitted one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_int64
from efface.core.arrays import Array, read_array
from efface.core.column_names import check_same_rows, common_columns
from efface.core.doors import check_call
from efface.core.labels import Kind
from efface.core.row_labels import read_labels
from efface.erasers.leace import LeaceEraser


def join_concepts(
    *concepts: Any, kinds: Sequence[Kind] | None = None, intersections: bool = False, ignore_index: int | None = None
) -> Tensor:
    """Several concepts as the columns of one z, so that a single fit erases them all, exactly and at least cost.

    Args:
        concepts: Each `(...)` class labels or quantities, or `(..., k)` columns, over the same rows; give
            every concept of several columns its full shape.
        kinds: What each is; `"auto"` for all by default.
        intersections: Also add a column for each combination of classes that occurs (e.g. women over 60):
            erasing two concepts one by one leaves their intersections readable.
        ignore_index: Label of what is left out, as -100 of tokens; what is left out of one concept is left out of all.

    Returns:
        `(..., K)` columns in float64 (z of several columns for any fitter).

    >>> join_concepts([0, 1, 1], [0.5, 0.0, 2.0]).tolist()
    [[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
    """
    check_call(join_concepts, locals())
    if not concepts:
        raise InputError("no concepts were given: pass at least one array of labels")
    check_same_rows(**{f"concept {i}": z for i, z in enumerate(concepts)})
    arrays = [read_array(z, f"concept {i}") for i, z in enumerate(concepts)]
    lead = tuple(min((array.values.shape for array in arrays), key=len))
    chosen: list[Kind] = ["auto" for _ in arrays] if kinds is None else [*kinds]
    if len(chosen) != len(arrays):
        raise InputError(f"kinds has {len(chosen)} entries for {len(arrays)} concepts: give one for each")
    counted = None if ignore_index is None else _counted(arrays, lead, check_int64(ignore_index, "ignore_index"))
    labels = [
        read_labels(array, lead, name=f"concept {i}", kind=kind, mask=counted).check(kind, counted)
        for i, (array, kind) in enumerate(zip(arrays, chosen, strict=True))
    ]
    columns = [z.columns(z.width).double() for z in labels]
    if intersections:
        columns.append(_cells([c for c, z in zip(columns, labels, strict=True) if z.kind == "categorical"]))
    joined = torch.cat(columns, dim=-1)
    if counted is None or ignore_index is None:
        return joined
    return joined.masked_fill(~counted.to(joined.device)[..., None], ignore_index)


def _counted(arrays: Sequence[Array], lead: tuple[int, ...], ignore_index: int) -> Tensor:
    """`lead` booleans: rows that no concept leaves out."""
    counted = torch.ones(lead, dtype=torch.bool, device="cpu")
    for array in arrays:
        # What has other rows is refused where it is read, by its name.
        if not array.is_named and tuple(array.values.shape[: len(lead)]) == lead:
            values = Array(array.values).tensor("labels").cpu()
            counted &= (values != ignore_index)[..., None].flatten(len(lead)).any(-1)
    return counted


def _cells(one_hots: list[Tensor]) -> Tensor:
    """One column for each combination of classes that occurs."""
    if len(one_hots) < 2:
        raise InputError(f"intersections need at least two categorical concepts, got {len(one_hots)}")
    labels = torch.stack([c.argmax(-1) for c in one_hots], dim=-1)
    _, cell = labels.reshape(-1, len(one_hots)).unique(dim=0, return_inverse=True)
    return torch.nn.functional.one_hot(cell).double().reshape(*labels.shape[:-1], -1)


def compose(*erasers: LeaceEraser) -> LeaceEraser:
    """One eraser that does what the given ones do one after the other, the first given first.

    `x - L_1 h_1 - L_2 h_2` with `h_1 = R_1 (x - mu_1)` and `h_2 = R_2 (x - mu_2) - R_2 L_1 h_1`: ranks add up.

    Args:
        erasers: Affine low-rank erasers of one width. Fit each on what the earlier ones return: of erasers that were
            fitted independently, the later concepts stay in part; `a & b` takes all of those. To erase several
            concepts at least cost, fit once on `join_concepts` instead.

    Raises:
        InputError: If widths or names of columns differ, or if the offsets cannot be written as one `mu` (dependent
            rows of R with different centres).
    """
    check_call(compose, locals())
    if not erasers:
        raise InputError("no erasers were given: pass at least one")
    widths = {len(e.proj_left) for e in erasers}
    if len(widths) > 1:
        raise InputError(f"erasers of different widths cannot be composed: {sorted(widths)}")
    columns = common_columns(*erasers)
    first, *rest = erasers
    for then in rest:
        first = _pair(first, then)
    return replace(first, columns=columns) if rest else first


def _pair(first: LeaceEraser, then: LeaceEraser) -> LeaceEraser:
    dtype = torch.promote_types(first.proj_left.dtype, then.proj_left.dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    (L1, R1, mu1), (L2, R2, mu2) = (_parts(e, wide) for e in (first, then))
    right = torch.cat([R1, R2 - (R2 @ L1) @ R1])
    centre = torch.cat([R1 @ mu1, R2 @ mu2 - (R2 @ L1) @ (R1 @ mu1)])
    if first.bias is None and then.bias is None:
        return LeaceEraser(torch.cat([L1, L2], dim=1).to(dtype), right.to(dtype), None)
    # Any mu with right @ mu = centre will do; the one closest to mu_2 loses the fewest digits.
    mu = mu2 + torch.linalg.pinv(right) @ (centre - right @ mu2)
    if not torch.allclose(right @ mu, centre, rtol=1e-6, atol=1e-6 * float(right.norm() * (mu2.norm() + 1))):
        raise InputError("these erasers have no common centre: fit the second on the output of the first")
    return LeaceEraser(torch.cat([L1, L2], dim=1).to(dtype), right.to(dtype), mu.to(dtype))


def _parts(eraser: LeaceEraser, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    left, right = eraser.proj_left.to(dtype), eraser.proj_right.to(dtype)
    return left, right, left.new_zeros(len(left)) if eraser.bias is None else eraser.bias.to(dtype)
