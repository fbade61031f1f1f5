"""How strict each round of DiET is: lenient first, stricter later."""

from __future__ import annotations

from efface._errors import InputError
from efface._validate import check_int


def sparsity_at(k: int, horizon: int = 5) -> float:
    """Weight of the mask in round k (from 0): `1 - 0.9 k / horizon`, so that lambda_1 = 1 / weight rises.

    >>> [round(sparsity_at(k), 2) for k in range(5)]
    [1.0, 0.82, 0.64, 0.46, 0.28]
    """
    return 1 - 0.9 * _checked(k, horizon) / horizon


def threshold_at(k: int, horizon: int = 5) -> float:
    """A cell stays in round k if its mask is above `0.1 + 0.4 k / horizon`: `round(m + 0.4 (1 - k / horizon))` is 1.

    >>> [round(threshold_at(k), 2) for k in range(5)]
    [0.1, 0.18, 0.26, 0.34, 0.42]
    """
    return 0.1 + 0.4 * _checked(k, horizon) / horizon


def _checked(k: int, horizon: int) -> int:
    if not 0 <= check_int(k, "round") < horizon:
        raise InputError(f"round {k} of a schedule of {horizon}: write rounds between 1 and horizon={horizon}")
    return k
