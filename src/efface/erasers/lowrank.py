"""Applying `x - L (R (x - mu))`: one pass over memory for reading, one for writing, whatever the rank."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._memory import empty
from efface.core.arrays import dense, is_reckoned

_CACHED_ELEMENTS = 2**19
_WORTH_CHUNKING = 2**20


def erase_low_rank(x: Tensor, left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """`x - (x - bias) right^H left^H`, formed in the finer dtype of the two and returned in that of `x`.

    Args:
        x: `(..., d)` real or complex floating point; not changed.
        left: `(d, r)`.
        right: `(r, d)`.
        bias: `(d,)`, or None for zero.

    Raises:
        InputError: If `x` has another width or holds integers.
    """
    check_width(x, left.shape[0])
    if left.shape[1] == 0:
        return x.clone()
    # Autocast would form the products in half precision and leave the concept in.
    with no_autocast(x):
        dtype = torch.promote_types(x.dtype, left.dtype)
        left, right = left.to(dtype), right.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        if _plain(x) and x.numel() >= _WORTH_CHUNKING:
            return _chunked(x, left, right, bias, dtype)
        wide = x.to(dtype)
        scores = (wide if bias is None else wide - bias) @ right.mH
        return (wide - scores @ left.mH).to(x.dtype)


def check_width(x: Tensor, d: int) -> None:
    """Refuse x that this eraser cannot take."""
    if not isinstance(x, Tensor):
        raise InputError(f"x is a {type(x).__name__}, expected a tensor (..., {d}): write torch.as_tensor(x)")
    if not (is_reckoned(x) or x.is_meta):
        dense(x, "x")
        raise InputError(f"x is sparse ({x.layout}): write x.to_dense()")
    if x.ndim == 0 or x.shape[-1] != d:
        raise InputError(f"x has shape {tuple(x.shape)}, expected (..., {d}): this eraser was fitted on width {d}")
    if not (x.is_floating_point() or x.is_complex()):
        raise InputError(f"x holds {x.dtype}, and an erased integer is no integer: write x.float()")


def no_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context in which products keep their dtype; tensors without data have none."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def _plain(x: Tensor) -> bool:
    """Whether in-place work on a CPU tensor is safe: nothing traces or differentiates it."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not (x.requires_grad and torch.is_grad_enabled())
    )


def _chunked(x: Tensor, left: Tensor, right: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The same row block by row block: a block stays in cache from its first reading to its writing."""
    rows, out = x.reshape(-1, x.shape[-1]), empty(*x.shape, dtype=x.dtype)
    out_rows, right_h, left_h = out.view(-1, x.shape[-1]), right.mH.contiguous(), left.mH.contiguous()
    size = max(16, _CACHED_ELEMENTS // x.shape[-1])
    centred = torch.empty(size, x.shape[-1], dtype=dtype, device=x.device)
    for block, target in zip(rows.split(size), out_rows.split(size), strict=True):
        wide = block.to(dtype)
        shifted = wide if bias is None else torch.sub(wide, bias, out=centred[: len(block)])
        scores = shifted @ right_h
        if x.dtype == dtype:
            torch.addmm(wide, scores, left_h, alpha=-1, out=target)
        else:
            target.copy_(torch.addmm(wide, scores, left_h, alpha=-1))
    return out
