"""Edits of text projections in closed form, one matrix at a time, row by row as the papers write them, by inverses.

They share nothing with efface but the rows that they are given: keys `(n, d)`, targets `(n, d)`, kept `(m, d)`, and a
weight W `(out, d)`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def uce(w: Tensor, keys: Tensor, targets: Tensor, kept: Tensor, ridge: float, erase: float, keep: float) -> Tensor:
    """W of arXiv:2308.14761, equation 7, with weights and a ridge, for values `v* = W c*`."""
    left, right = ridge * w, ridge * torch.eye(w.shape[1], dtype=w.dtype)
    for k, t in zip(keys, targets, strict=True):
        left = left + erase * torch.outer(w @ t, k)
        right = right + erase * torch.outer(k, k)
    for k in kept:
        left = left + keep * torch.outer(w @ k, k)
        right = right + keep * torch.outer(k, k)
    return left @ torch.linalg.inv(right)


def last_to_end(text: Tensor, last: int, target: Tensor, target_last: int) -> tuple[Tensor, Tensor]:
    """Rows of one prompt `(rows, d)` from its last word on, and those of another beside them.

    The other begins at its own last word; rows that it lacks stand for its last.
    """
    n = len(text) - last
    places = [min(target_last + i, len(target) - 1) for i in range(n)]
    return text[last:], target[places]


def bringing_back(edited: list[Tensor], weights: list[Tensor], row: Tensor, regularisation: float) -> Tensor:
    """The row c* of arXiv:2407.12383, equation 8, for a row c."""
    left = regularisation * torch.eye(len(row), dtype=row.dtype)
    right = torch.zeros_like(row)
    for new, old in zip(edited, weights, strict=True):
        left = left + new.mT @ new
        right = right + new.mT @ (old @ row)
    return torch.linalg.inv(left) @ right


def speed(
    w: Tensor,
    keys: Tensor,
    targets: Tensor,
    retain: Tensor,
    fixed: Tensor,
    *,
    ridge: float,
    below: float | None = None,
    each: float | None = None,
    filtered: bool = True,
    fixed_ridge: float,
    noise: Tensor,
) -> Tensor:
    """W' of arXiv:2503.07392 with its three steps, the noise along the last direction given, `(n, augment)`.

    The null space is of eigenvalues `below`, or of the most of the smallest which hold less than `each` of every row.
    """
    eye = torch.eye(w.shape[1], dtype=w.dtype)
    a1 = sum(torch.outer(k, k) for k in keys) / len(keys)
    star = sum(torch.outer(t, k) for k, t in zip(keys, targets, strict=True)) / len(keys)
    unit = keys.square().mean()
    e = w @ (star - a1) @ torch.linalg.inv(unit * eye + a1)
    size = (retain @ e.mT).norm(dim=1)
    kept = size > size.mean() if filtered else torch.ones(len(retain), dtype=torch.bool)
    last = torch.linalg.svd(w, full_matrices=False).Vh[-1]
    # The sign of a singular vector is arbitrary; drawn rows must be the same ones.
    drawn = torch.stack([x + g * last for x, gs in zip(retain[kept], noise[kept], strict=True) for g in gs])
    sizes = (drawn @ e.mT).norm(dim=1)
    rows = torch.cat([retain[kept], drawn[sizes > sizes.mean()] if filtered else drawn])
    values, vectors = torch.linalg.eigh(rows.mT @ rows / len(rows))
    if each is None:
        free = vectors[:, values < below]
    else:  # one direction more, as long as no row has too much of them all
        n = 0
        while n < len(w.mT) and all((vectors[:, : n + 1].mT @ x).norm() ** 2 <= each * (x @ x) for x in retain[kept]):
            n += 1
        free = vectors[:, :n]
    p = free @ free.mT
    m = torch.linalg.inv(a1 @ p + ridge * unit * eye)
    c = fixed.mT
    inner = torch.linalg.pinv(c.mT @ p @ m @ c + fixed_ridge * torch.eye(c.shape[1], dtype=w.dtype), rtol=1e-10)
    return w + w @ (star - a1) @ p @ (eye - m @ c @ inner @ c.mT @ p) @ m


def oce(
    w: Tensor, keys: Tensor, targets: Tensor, words: Tensor, mean: Tensor, e: float, p: float, q: float, ridge: float
) -> Tensor:
    """R of arXiv:2605.28902 over all output dimensions; for a W with no more rows than columns."""

    def projector(rows: Tensor) -> Tensor:
        values = rows @ w.mT
        basis = torch.linalg.qr((values / values.norm(dim=1, keepdim=True)).mT).Q
        return basis @ basis.mT

    g, guide = projector(keys), projector(targets)
    m = -e * g @ (torch.eye(len(w), dtype=w.dtype) - guide)
    m = m + p * sum(torch.outer(w @ k, w @ k) for k in words) + q * w @ mean @ w.mT + ridge * w @ w.mT
    u, _, vh = torch.linalg.svd(m)
    return u @ vh
