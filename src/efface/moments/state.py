"""What is kept of a stream, as tensors by name: checked before it is taken from a file or another process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from efface._errors import FormatError
from efface.core.arrays import is_finite, is_plain

TENSORS = ("origin_x", "origin_z", "sum_x", "sum_z", "s_xx", "s_xz", "s_zz")
NUMBERS = ("n", "weight", "eps")


def state_shapes(x_dim: int, z_dim: int, second: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the sums of `Moments`, by name."""
    shapes = ((x_dim,), (z_dim,), (x_dim,), (z_dim,), (x_dim, x_dim)[: 2 if second == "full" else 1])
    return dict(zip(TENSORS, (*shapes, (x_dim, z_dim), (z_dim, z_dim)), strict=True))


def as_state(state: Any) -> Mapping[str, Any]:
    """A mapping by names.

    Raises:
        FormatError: If it is none; scipy has a matrix that says it is one.
    """
    if not isinstance(state, Mapping) or hasattr(state, "tocsr"):
        raise FormatError(f"state is a {type(state).__name__}, expected what state_dict() returned")
    return state


def check_state(
    state: Any, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, lead: tuple[int, ...] = ()
) -> Mapping[str, Tensor]:
    """The state, if it is one of sums of these shapes.

    Args:
        state: What `state_dict` returned, perhaps.
        shapes: Name -> shape.
        dtype: Of the sums; real ones go into complex.
        lead: Dimensions before each shape.

    Raises:
        FormatError: If something is missing, of another shape or dtype, not finite, or a count that cannot be.
    """
    state = as_state(state)
    if missing := [name for name in (*shapes, *NUMBERS) if not isinstance(state.get(name), Tensor)]:
        raise FormatError(f"state lacks {', '.join(missing)}: expected what state_dict() returned")
    for name, shape in {**shapes, **dict.fromkeys(NUMBERS, ())}.items():
        value = state[name]
        if tuple(value.shape) != (*lead, *shape):
            raise FormatError(f"state has {tuple(value.shape)} for {name}, expected shape {(*lead, *shape)}")
        if not is_plain(value) or (name in shapes and not torch.can_cast(value.dtype, dtype)):
            raise FormatError(f"state has {value.dtype} for {name}, expected {dtype} in memory")
        if not is_finite(value):
            raise FormatError(f"{name} has NaN or infinite values")
    for name, most in (("n", 2**63), ("weight", float("inf")), ("eps", 1.0)):
        value = state[name]
        if value.is_complex() or bool(((value.double() < 0) | (value.double() >= most)).any()):
            raise FormatError(f"state has {value.flatten().tolist()[:5]} for {name}, which no stream gives")
    return state
