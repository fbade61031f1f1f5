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
