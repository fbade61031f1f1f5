"""What maps did to a model, as numbers: one row an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface._validate import check_type

Floats = NDArray[np.float64]

MAP, CONTROL = "map", "control"
SIZE, OVER = "mask keeps", "over the best control"
_PARTS = ("keep", "drop")


def kept_at(fraction: float) -> str:
    """Name of the condition in which only the top pixels stay.

    >>> kept_at(0.05), removed_at(0.05)
    ('5% kept', '5% removed')
    """
    return f"{100 * fraction:g}% kept"


def removed_at(fraction: float) -> str:
    """Name of the condition in which the top pixels are gone."""
    return f"{100 * fraction:g}% removed"


@dataclass(frozen=True)
class Measured:
    """What a model says as pixels are kept, or removed, in the order of one map.

    Attributes:
        keep: Share of draws in which the class stays when the top pixels stay, `(n, fractions)`, in [0, 1].
        drop: The same when the top pixels go.
        size: Share of each image that the map keeps, `(n,)`, where the map is a mask.
    """

    keep: ArrayLike
    drop: ArrayLike
    size: ArrayLike | None = None


@dataclass(frozen=True)
class Subject:
    """One model with the maps that explain it.

    Attributes:
        name: What to call it; empty for the model itself.
        methods: Method -> what its maps did to this model.
        controls: Control -> the same, of maps that know nothing of the model.
    """

    name: str
    methods: Mapping[str, Measured]
    controls: Mapping[str, Measured] = field(default_factory=dict)


def family(kind: str, subject: Subject) -> str:
    """Family of the findings of a kind of map on a model."""
    return f"{kind} on {subject.name}" if subject.name else kind


def hits(which: str, values: ArrayLike, fractions: Sequence[float]) -> Floats:
    """Checked shares of draws, `(n, fractions)`.

    Raises:
        InputError: If the shape is another, or a value is no share.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != len(fractions) or not len(found):
        raise InputError(f"{which} has shape {found.shape}: expected (n, {len(fractions)}), one column a fraction")
    if not (np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1):
        raise InputError(f"{which} has values outside [0, 1]: give the share of draws in which the class stays")
    return found


def check_together(subjects: Sequence[Subject], fractions: Sequence[float], at: float) -> int:
    """How many images there are, once all numbers are of the same ones.

    Raises:
        InputError: If there is nothing to audit, controls are missing, or lengths differ.
    """
    for subject in subjects:
        check_type(subject, Subject, "one of the subjects")
    if not any(subject.methods for subject in subjects):
        raise InputError("there are no maps to audit: give at least one method")
    if at not in fractions:
        raise InputError(f"at={at} is none of the fractions {tuple(fractions)}: write one of them")
    counts = set()
    for subject in subjects:
        if not subject.controls:
            raise InputError(f"{subject.name or 'the model'} has no controls: a map is worth what it adds to them")
        for kind in (subject.methods, subject.controls):
            for name, measured in kind.items():
                counts |= {len(hits(f"{part} of {name}", getattr(measured, part), fractions)) for part in _PARTS}
    if len(counts) > 1:
        raise InputError(f"maps are of {sorted(counts)} images: measure all of them on the same ones")
    return counts.pop()
