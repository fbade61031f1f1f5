"""Checks on what estimators are given beside the features: lengths, column positions, weights."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_finite, to_tensor
from efface.core.arrays import shared
from efface.core.labels import Column


def too_many(given: list[str]) -> str:
    """Message for a concept that is given in several ways."""
    return (
        f"the concept is given in {len(given)} ways, {' and '.join(given)}: choose one (a router stops passing "
        "sensitive_features after .set_fit_request(sensitive_features=False))"
    )


def of_length(columns: list[Column], n: int) -> list[Column]:
    """The columns, if all have `n` rows.

    Raises:
        InputError: If one has not.
    """
    for column in columns:
        if np.ndim(column.values) == 0 or len(column.values) != n:
            raise InputError(f"{column.label} has {np.size(column.values)} rows, X has {n}: give one row for each of X")
    return columns


def position(wanted: Any, names: list[str], width: int) -> int:
    """Position of a column of X that is given by name or position.

    Raises:
        InputError: If there is none; the text names those that come near.

    >>> position("sex", ["age", "sex"], 2), position(-1, [], 3)
    (1, 2)
    """
    if isinstance(wanted, str):
        if wanted in names:
            return names.index(wanted)
        near = difflib.get_close_matches(wanted, names, n=3) or names[:5]
        raise InputError(
            f"sensitive_columns names {wanted!r}, which is no column of X: "
            + (f"there is {', '.join(map(repr, near))}" if names else "X has no column names, give positions")
        )
    if isinstance(wanted, bool) or not isinstance(wanted, (int, np.integer)) or not -width <= wanted < width:
        raise InputError(f"sensitive_columns has {shown(wanted)}, expected names or positions below {width}")
    return int(wanted) % width


def weighted(
    features: NDArray[Any], columns: list[Column], sample_weight: Any, *, at_least: int
) -> tuple[NDArray[Any], list[Column], NDArray[np.float64] | None]:
    """Without rows of weight zero, which must not decide what classes there are.

    Args:
        features: `(n, d)`.
        columns: Sensitive columns of n values.
        sample_weight: `(n,)` frequencies, or None.
        at_least: How many rows the weights must amount to.

    Raises:
        InputError: If weights are negative, not finite, of another length or too small.
    """
    if sample_weight is None:
        return features, columns, None
    weight = to_tensor(sample_weight, "sample_weight").double().numpy()
    if weight.shape != (len(features),):
        raise InputError(f"sample_weight has shape {weight.shape}, expected ({len(features)},): one for each row")
    check_finite(shared(weight), "sample_weight")
    if (weight < 0).any():
        raise InputError("sample_weight has negative values: weights are frequencies, 0 leaves a row out")
    if not weight.any():
        raise InputError("sample_weight is zero in all rows: give a positive weight to at least two")
    if at_least > 1 >= weight.sum():
        raise InputError(
            f"sample_weight sums to {weight.sum():g}, less than two rows: weights are frequencies, so that a row of "
            "weight 2 counts as two rows; multiply normalised weights by the number of rows"
        )
    if weight.all():
        return features, columns, weight
    used = weight > 0
    return features[used], [c.rows(used) for c in columns], weight[used]
